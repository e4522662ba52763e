# CMEMS+ on Synapse, CPU-sized; the first of two rounds (unet_synapse_cpu_round2.py).
_base_ = ["../_base_/settings/synapse_plus_cpu.py", "../_base_/methods/cmems_plus.py"]
model = {{_base_._abdomen_first}}
