# The abdomen phantom, small enough for a demonstration: 64x64, four images of each source a step, bfloat16 where the
# machine computes in it, 700 steps at three times the paper's learning rate. With every method, W neither mirrors nor
# turns by quarters here: it is by their sides that spleen, left and right kidney are told apart (docs/experiments.md).
_base_ = ["../default_runtime.py", "../datasets/phantom_abdomen.py", "../schedules/adam_30k.py"]
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=700, val_interval=200)
