# 128x128 pixels of 2.8 mm (prepare_data.py synapse RAW data/synapse_plus_128 --spacing 2.8 --crop 128), eight images of
# two sources a step, bfloat16 where the machine computes in it: two rounds take twenty minutes of one core. More steps
# of the first round do harm (docs/accuracy.md).
_base_ = "./synapse_plus.py"
data_root = "data/synapse_plus_128"
train_dataloader = dict(
    data_root=data_root,
    synthetic=dict(batch_size=8, synthesizer=dict(ring=6, margin=3, edge=1)),
    unlabeled=dict(batch_size=8),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=600, val_interval=200)
