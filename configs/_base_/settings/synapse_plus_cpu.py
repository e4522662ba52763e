# CPU-sized: 80x80 pixels of 4.5 mm (prepare_data.py synapse RAW data/synapse_plus_80 --spacing 4.5 --crop 80).
_base_ = "./synapse_plus.py"
data_root = "data/synapse_plus_80"
train_dataloader = dict(
    data_root=data_root,
    exemplar=dict(batch_size=4),
    synthetic=dict(batch_size=4, synthesizer=dict(ring=4, margin=2, edge=1)),
    unlabeled=dict(batch_size=4),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=1200, val_interval=200)
