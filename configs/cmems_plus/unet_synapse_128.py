# CMEMS+ on Synapse at 128x128 pixels; not measured: unet_synapse_cpu.py is.
_base_ = ["../_base_/settings/synapse_plus_128.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._abdomen_first}}
