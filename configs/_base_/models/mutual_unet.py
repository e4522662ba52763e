# The paper's pair of UNets (appendix D) and its perturbations.
# Eq. 3 is as printed here; configs/cmems leaves uncertain pixels out.
# Left open there: whether W's rotation is quarter turns or arbitrary (both, up to 20° more), jitter probability
# (always), dropout and BatchNorm in the pseudo-label pass (as in training).
model = dict(
    type="MutualLearner",
    num_networks=2,
    backbone=dict(type="UNet"),
    weak=dict(type="RandomRotateFlip", quarter_turns=True, flip=0.5, degrees=20),
    strong=dict(type="ColorJitter", strength=1.0),
    feature=dict(type="ChannelDropout", probability=0.5),
    pseudo_labeler=dict(type="ConfidenceThreshold", threshold=0.8, below="background"),
    pseudo_label_mode="train",
)
