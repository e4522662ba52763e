# Bidirectional copy-paste (Bai et al. 2023): synthetic images, as the labelled ones, and unlabelled images.
_base_ = "../models/mutual_unet.py"
# Its pre-training on labelled images alone is the ramp of the term here (the first 30 % of the steps).
model = dict(
    num_networks=1,
    ema_momentum=0.99,
    pseudo_labeler=dict(threshold=0.0),
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="CopyPaste", labeled="synthetic", ramp_up=0.3),
    ],
)
