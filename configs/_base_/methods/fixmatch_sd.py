# FixMatch (Sohn et al. 2020) with the synthetic images too.
_base_ = "./fixmatch.py"
model = dict(
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="strong", teacher="self"),
    ]
)
