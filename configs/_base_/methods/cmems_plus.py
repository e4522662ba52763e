# What we would use ourselves: CMEMS with uncertain pixels left out, prediction by averaged weights, on the scan's grid.
# How each part was chosen: docs/accuracy.md. L_cmfp costs a fifth of a step and is left out.
_base_ = "../models/mutual_unet.py"
model = dict(
    num_networks=2,
    ema_momentum=0.99,
    pseudo_labeler=dict(threshold=0.8, below="ignore"),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="strong", teacher="cross", weight=1.0),
    ],
    prediction=dict(resize="probabilities", averaged=True),
)
budget = dict(rates={3000: 1e-3, 30000: 3e-4})
