# MT-UNet on the cardiac phantom; a quarter of its width.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=4, width=0.25))
