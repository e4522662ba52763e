# One UNet on the exemplar alone, abdomen phantom.
_base_ = "../cmems/unet_phantom_abdomen.py"
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="exemplar")])
