# Multi-label deep supervision (Reiss et al. 2021): exemplar, and unlabelled images through an EMA teacher.
_base_ = "../models/mutual_unet.py"
# Not found in public: rate of the teacher, threshold, factors; chosen here: 0.99, 0.8, 1, grown over 30 % of the steps.
model = dict(
    num_networks=1,
    ema_momentum=0.99,
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="DeepSupervision", source="exemplar"),
        dict(type="Consistency", student="weak", teacher="ema", ramp_up=0.3),
        dict(type="DeepSupervision", source="unlabeled", teacher="ema", ramp_up=0.3),
    ],
)
