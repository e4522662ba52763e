# Cross teaching between CNN and transformer on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/cross_teaching.py"]
model = dict(backbone=[dict(type="UNet", num_classes=4), dict(type="SwinUNet", num_classes=4)])
