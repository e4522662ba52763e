# CMEMS+ on Synapse at 128x128 pixels; the first of two rounds (unet_synapse_128_round2.py).
_base_ = ["../_base_/settings/synapse_plus_128.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._abdomen_first}}
