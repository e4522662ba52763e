# UniMatch (Yang et al. 2023) on exemplar, synthetic and unlabelled images.
_base_ = "../models/mutual_unet.py"
# Two strong views with CutMix and one of perturbed features answer to the confident pixels of the weak view.
strong = dict(type="Consistency", teacher="self", weight=0.25, mix=dict(type="CutMix"))
model = dict(
    num_networks=1,
    pseudo_labeler=dict(threshold=0.95, below="ignore"),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(student="strong", **strong),
        dict(student="strong2", **strong),
        dict(type="Consistency", student="feature", teacher="self", weight=0.5),
    ],
)
del strong
