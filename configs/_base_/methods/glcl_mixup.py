# Global and local contrastive pre-training, then supervision with Mixup (Table 10).
_base_ = "./glcl.py"
model = dict(
    objectives=[
        dict(type="GlobalContrast", end=0.25),
        dict(type="LocalContrast", begin=0.25, end=0.5),
        dict(type="Supervised", source="exemplar", begin=0.5, mixup=True),
        dict(type="Supervised", source="synthetic", begin=0.5, mixup=True),
    ]
)
