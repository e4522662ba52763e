# Global and local contrastive pre-training (Chaitanya et al. 2020), then supervision with Mixup (Table 10).
_base_ = "../models/mutual_unet.py"
# Chosen here: a quarter of the steps for each pre-training; supervision by exemplar and synthetic images.
model = dict(
    num_networks=1,
    objectives=[
        dict(type="GlobalContrast", end=0.25),
        dict(type="LocalContrast", begin=0.25, end=0.5),
        dict(type="Supervised", source="exemplar", begin=0.5, mixup=True),
        dict(type="Supervised", source="synthetic", begin=0.5, mixup=True),
    ],
)
