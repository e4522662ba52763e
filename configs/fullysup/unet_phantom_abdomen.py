# One UNet on every training label, abdomen phantom.
_base_ = "../cmems/unet_phantom_abdomen.py"
train_dataloader = dict(labeled=dict(type="LabeledSource", batch_size=4))
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="labeled")])
