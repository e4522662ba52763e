# Cross teaching between CNN and transformer (Luo et al. 2022): a UNet and a Swin-UNet.
_base_ = "../models/mutual_unet.py"
# As CPS, but the networks differ in kind; Dice alone, its factor of 0.1 growing over the first 30 % of the steps.
model = dict(
    num_networks=2,
    shared_weak=("unlabeled",),
    pseudo_labeler=dict(threshold=0.0),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(
            type="Consistency",
            student="weak",
            teacher="cross",
            loss=dict(type="CrossEntropyDice", ce=0.0, dice=1.0),
            weight=0.1,
            ramp_up=0.3,
        ),
    ],
)
