# Cross teaching between CNN and transformer on Synapse, CPU-sized.
_base_ = ["../_base_/settings/synapse_128.py", "../_base_/methods/cross_teaching.py"]
model = dict(
    backbone=[
        dict(type="UNet", num_classes=9),
        dict(type="SwinUNet", num_classes=9, embed_dim=32, heads=(2, 4, 8, 16)),
    ],
    strong=dict(strength=0.2),
)
