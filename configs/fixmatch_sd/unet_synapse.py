# FixMatch on Synapse.
_base_ = ["../_base_/settings/synapse.py", "../_base_/methods/fixmatch_sd.py"]
model = dict(backbone=dict(num_classes=9), strong=dict(strength=0.2))
