# CMEMS of the paper's UNet and a network of one's own: networks that differ have more to teach each other.
_base_ = "../../configs/cmems/unet_acdc.py"
custom_imports = dict(imports=["my_network"])
model = dict(backbone=[dict(type="UNet", num_classes=4), dict(type="SmallNet", num_classes=4)])
