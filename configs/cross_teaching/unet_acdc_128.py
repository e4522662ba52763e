# Cross teaching between CNN and transformer on ACDC, CPU-sized.
_base_ = ["../_base_/settings/acdc_128.py", "../_base_/methods/cross_teaching.py"]
model = dict(
    backbone=[dict(type="UNet", num_classes=4), dict(type="SwinUNet", num_classes=4, embed_dim=32, heads=(2, 4, 8, 16))]
)
