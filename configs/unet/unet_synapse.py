# One UNet on the exemplar alone: the first row of the paper's tables.
_base_ = "../cmems/unet_synapse.py"
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="exemplar")])
