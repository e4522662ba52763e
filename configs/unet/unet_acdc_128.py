# One UNet on the exemplar alone, CPU-sized.
_base_ = "../cmems/unet_acdc_128.py"
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="exemplar")])
