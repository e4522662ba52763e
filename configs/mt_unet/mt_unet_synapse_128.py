# MT-UNet on Synapse, CPU-sized; a quarter of its width.
_base_ = ["../_base_/settings/synapse_128.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=9, width=0.25))
