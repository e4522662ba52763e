# ELSNet on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/elsnet.py"]
model = dict(backbone=dict(num_classes=4))
