# CPU-sized: 128x128, six images of each source a step, bfloat16 where the machine computes in it, 1,500 steps.
_base_ = "./synapse.py"
data_root = "data/synapse_128"
train_dataloader = dict(exemplar=dict(batch_size=6), synthetic=dict(batch_size=6), unlabeled=dict(batch_size=6))
optim_wrapper = dict(type="AutocastOptimWrapper")
train_cfg = dict(max_iters=1500, val_interval=250)
