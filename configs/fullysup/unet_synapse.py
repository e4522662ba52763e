# One UNet on every training label: the last row of the paper's tables. Unlike the paper's Synapse row, it is trained here.
_base_ = "../cmems/unet_synapse.py"
train_dataloader = dict(labeled=dict(type="LabeledSource", batch_size=12))
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="labeled")])
