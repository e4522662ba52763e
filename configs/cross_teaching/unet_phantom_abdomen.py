# Cross teaching between CNN and transformer on the abdomen phantom.
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/methods/cross_teaching.py"]
model = dict(
    backbone=[
        dict(type="UNet", num_classes=9),
        dict(type="SwinUNet", num_classes=9, embed_dim=32, heads=(2, 4, 8, 16)),
    ],
    weak=dict(quarter_turns=False, flip=0.0),
    strong=dict(strength=0.2),
)
