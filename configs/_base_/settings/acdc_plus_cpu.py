# CPU-sized: 64x64 pixels of 3.25 mm (prepare_data.py acdc RAW data/acdc_plus_64 --spacing 3.25 --crop 64), four images
# of each of two sources a step, bfloat16 where the machine computes in it.
_base_ = "./acdc_plus.py"
data_root = "data/acdc_plus_64"
train_dataloader = dict(
    data_root=data_root,
    exemplar=dict(batch_size=2),
    synthetic=dict(batch_size=4, synthesizer=dict(margin=2, edge=1)),
    unlabeled=dict(batch_size=4),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=2400, val_interval=400)
