# CMEMS on the abdomen phantom.
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/models/mutual_unet.py"]
objectives = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=0.1),  # L_cmip
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),  # L_cmfp
]
model = dict(
    backbone=dict(num_classes=9),
    weak=dict(quarter_turns=False, flip=0.0),
    strong=dict(type="ColorJitter", strength=0.2),
    objectives=objectives,
)
