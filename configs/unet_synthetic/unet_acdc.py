# One UNet on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/unet_synthetic.py"]
model = dict(backbone=dict(num_classes=4))
