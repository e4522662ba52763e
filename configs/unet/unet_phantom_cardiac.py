# One UNet on the exemplar alone, cardiac phantom.
_base_ = "../cmems/unet_phantom_cardiac.py"
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="exemplar")])
