# CMEMS+ on Synapse at full size; not measured.
_base_ = ["../_base_/settings/synapse_plus.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._abdomen_first}}
