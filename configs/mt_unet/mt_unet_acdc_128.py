# MT-UNet on ACDC, CPU-sized; a quarter of its width.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=4, width=0.25))
