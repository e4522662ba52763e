# Cross pseudo supervision (Chen et al. 2021) with the synthetic images too.
_base_ = "./cps.py"
model = dict(
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="Consistency", student="weak", teacher="cross"),
    ]
)
