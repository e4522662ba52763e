# One UNet on the exemplar alone, CPU-sized.
_base_ = "../cmems/unet_synapse_128.py"
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="exemplar")])
