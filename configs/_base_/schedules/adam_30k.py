# Adam as in the paper. Left open there: the number of steps (30,000, as the semi-supervised literature takes on ACDC),
# the schedule (polynomial decay of power 0.9 to the last step), validation (every 1,000 steps, choosing best.pth).
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=3e-4, weight_decay=1e-4, fused=True),
)
param_scheduler = dict(type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=False)
train_cfg = dict(type="MutualLearningLoop", max_iters=30000, val_interval=1000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
