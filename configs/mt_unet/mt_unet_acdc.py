# MT-UNet on ACDC.
_base_ = ["../_base_/settings/acdc.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=4))
