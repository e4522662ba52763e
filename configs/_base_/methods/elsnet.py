# ELSNet (En & Guo 2022): synthesis, pixel-prototype contrast, static pseudo-labels of a first stage.
_base_ = "../models/mutual_unet.py"
# Its authors published neither code nor these values; chosen here: temperature 0.1, factor 0.1, 32 channels, the second
# stage from half of the steps on, with the labels that the network of that step gives to every image.
model = dict(
    num_networks=1,
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic"),
        dict(type="PrototypeContrast", source="exemplar", weight=0.1),
        dict(type="PrototypeContrast", source="synthetic", weight=0.1),
        dict(type="Consistency", student="weak", teacher="static", begin=0.5),
    ],
)
