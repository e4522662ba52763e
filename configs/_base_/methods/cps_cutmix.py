# Cross pseudo supervision (Chen et al. 2021) in its CutMix form, with the synthetic images.
_base_ = "../models/mutual_unet.py"
# Two initialisations see the same view, and every pixel of a pseudo-label counts.
model = dict(
    num_networks=2,
    shared_weak=("unlabeled",),
    pseudo_labeler=dict(threshold=0.0),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="weak", teacher="cross", mix=dict(type="CutMix", probability=1.0)),
    ],
)
