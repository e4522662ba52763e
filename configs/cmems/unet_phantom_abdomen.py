# CMEMS on the abdomen phantom. Every pixel of a pseudo-label counts, and λ_cmip is 1: with the paper's values for
# Synapse, 0.8 and 0.1, what the exemplar does not show becomes background (validation DSC 0.539; 0.608 so; seed 0).
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/models/mutual_unet.py"]
objectives = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=1.0),  # L_cmip
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),  # L_cmfp
]
model = dict(
    backbone=dict(num_classes=9),
    weak=dict(quarter_turns=False, flip=0.0),
    strong=dict(type="ColorJitter", strength=0.2),
    pseudo_labeler=dict(threshold=0.0),
    objectives=objectives,
)
