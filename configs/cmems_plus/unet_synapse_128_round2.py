# CMEMS+ on Synapse at 128x128 pixels, second round. Run both rounds by tools/rounds.py.
_base_ = ["../_base_/settings/synapse_plus_128.py", "../_base_/methods/second_round.py"]
train_dataloader = dict(
    exemplar=dict(batch_size=4),
    static=dict(type="StaticLabels", batch_size=16, folder="work_dirs/cmems_plus/unet_synapse_128_round2/labels_1"),
)
model = {{_base_._abdomen}}
train_cfg = dict(max_iters=800, val_interval=400)
