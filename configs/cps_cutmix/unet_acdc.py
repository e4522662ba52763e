# Cross pseudo supervision on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/cps_cutmix.py"]
model = dict(backbone=dict(num_classes=4))
