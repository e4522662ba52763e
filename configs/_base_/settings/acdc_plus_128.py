# 128x128 pixels of 1.75 mm (prepare_data.py acdc RAW data/acdc_plus_128 --spacing 1.75 --crop 128), eight images of two
# sources a step, bfloat16 where the machine computes in it: two rounds fit into an hour of two cores, or into minutes
# of a GPU.
_base_ = "./acdc_plus.py"
data_root = "data/acdc_plus_128"
train_dataloader = dict(
    data_root=data_root,
    synthetic=dict(batch_size=8, synthesizer=dict(margin=4, edge=1)),
    unlabeled=dict(batch_size=8),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=1380, val_interval=345)
