# FixMatch (Sohn et al. 2020) with the synthetic images too.
_base_ = "../models/mutual_unet.py"
# What is below the threshold is ignored, as FixMatch has it.
model = dict(
    num_networks=1,
    pseudo_labeler=dict(below="ignore"),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="strong", teacher="self"),
    ],
)
