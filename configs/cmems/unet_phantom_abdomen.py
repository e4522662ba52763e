# CMEMS on the abdomen phantom, small enough for a demonstration: 64x64, four images of each source a step, bfloat16
# where the machine computes in it, 700 steps at three times the paper's learning rate; else the settings of Synapse.
_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/phantom_abdomen.py",
    "../_base_/models/mutual_unet.py",
    "../_base_/schedules/adam_30k.py",
]
objectives = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=0.1),  # L_cmip
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),  # L_cmfp
]
model = dict(backbone=dict(num_classes=9), strong=dict(type="ColorJitter", strength=0.2), objectives=objectives)
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=700, val_interval=200)
