# MT-UNet on the abdomen phantom; a quarter of its width.
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/methods/mt_unet.py"]
model = dict(backbone=dict(num_classes=9, width=0.25), weak=dict(quarter_turns=False, flip=0.0))
