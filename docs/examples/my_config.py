# The exemplar, its synthetic images, and entropy minimisation on the unlabelled ones, with one UNet.
_base_ = "../../configs/unet/unet_acdc.py"
custom_imports = dict(imports=["my_objective"])
model = dict(
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="EntropyMinimisation", weight=0.1, ramp_up=0.3),
    ],
)
