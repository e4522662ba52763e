# FixMatch (Sohn et al. 2020) as in the paper's tables: exemplar and unlabelled images, no synthetic ones.
_base_ = "../models/mutual_unet.py"
# What is below the threshold is ignored, as FixMatch has it.
model = dict(
    num_networks=1,
    pseudo_labeler=dict(below="ignore"),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Consistency", student="strong", teacher="self"),
    ],
)
