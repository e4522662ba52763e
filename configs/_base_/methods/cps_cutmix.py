# Cross pseudo supervision (Chen et al. 2021) in its CutMix form, with the synthetic images.
_base_ = "./cps.py"
model = dict(
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="weak", teacher="cross", mix=dict(type="CutMix", probability=1.0)),
    ]
)
