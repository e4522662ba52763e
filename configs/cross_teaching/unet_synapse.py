# Cross teaching between CNN and transformer on Synapse.
_base_ = ["../_base_/settings/synapse.py", "../_base_/methods/cross_teaching.py"]
model = dict(
    backbone=[dict(type="UNet", num_classes=9), dict(type="SwinUNet", num_classes=9)], strong=dict(strength=0.2)
)
