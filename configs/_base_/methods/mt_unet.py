# MT-UNet (Wang et al. 2022) on the exemplar alone.
_base_ = "../models/mutual_unet.py"
model = dict(
    num_networks=1,
    backbone=dict(type="MTUNet"),
    objectives=[dict(type="Supervised", source="exemplar")],
)
