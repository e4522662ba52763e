# FixMatch on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/fixmatch_sd.py"]
model = dict(backbone=dict(num_classes=4))
