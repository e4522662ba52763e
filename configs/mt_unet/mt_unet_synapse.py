# MT-UNet on Synapse.
_base_ = ["../_base_/settings/synapse.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=9))
