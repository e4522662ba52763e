# One UNet on exemplar and synthetic images (Table 3, second row).
_base_ = "../models/mutual_unet.py"
model = dict(
    num_networks=1,
    objectives=[dict(type="Supervised", source="exemplar"), dict(type="Supervised", source="synthetic")],
)
