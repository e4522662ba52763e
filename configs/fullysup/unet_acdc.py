# One UNet on every training label: the last row of the paper's tables, though trained here (the paper's
# Synapse row is another U-Net's, copied).
_base_ = "../cmems/unet_acdc.py"
train_dataloader = dict(labeled=dict(type="LabeledSource", batch_size=12))
model = dict(num_networks=1, objectives=[dict(type="Supervised", source="labeled")])
