# One UNet on every training label, cardiac phantom.
_base_ = "../cmems/unet_phantom_cardiac.py"
train_dataloader = dict(labeled=dict(type="LabeledSource", batch_size=4))
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="labeled")])
