# One UNet on every training label, CPU-sized.
_base_ = "../cmems/unet_acdc_128.py"
train_dataloader = dict(labeled=dict(type="LabeledSource", batch_size=6))
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="labeled")])
