# CMEMS+ for one's own data, CPU-sized: 64x64, four images of each of two sources a step, bfloat16 where the machine
# computes in it. `cmems prepare` writes a config on top of this one beside the data: which slice is the exemplar, the
# classes, and what the anatomy allows. Nothing here knows an organ: the heart's settings are unet_acdc_cpu.py.
_base_ = [
    "../_base_/default_runtime.py",
    "../_base_/datasets/one_slice.py",
    "../_base_/schedules/adam_30k.py",
    "../_base_/methods/cmems_plus.py",
]
affine = dict(type="RandomAffine", degrees=180, flip=0.5, control_points=6)
look = dict(type="RandomGammaGain", gamma=(0.6, 1.7), gain=(0.7, 1.3))
train_dataloader = dict(
    propagation=dict(type="FlowPropagation"),
    exemplar=dict(
        batch_size=2,
        copies=dict(
            type="WarpedExemplar",
            geometric=[dict(scale=(0.75, 1.35), shift=0.1, elastic=0.02, **affine)],
            intensity=look,
            organs=[dict(type="ClassGain", width=0.2)],
            plain=0.2,
        ),
    ),
    synthetic=dict(
        batch_size=4,
        per_background=None,
        synthesizer=dict(
            _delete_=True,
            type="ExemplarPaste",
            geometric=[dict(scale=(0.7, 1.4), shift=0.12, elastic=0.025, **affine)],
            background_geometric=dict(type="RandomAffine", degrees=180, scale=(0.8, 1.25), shift=0.1, flip=0.5),
            intensity=look,
            organs=[dict(type="ClassGain", width=0.35)],
            margin=2,
            edge=1,
        ),
    ),
    unlabeled=dict(batch_size=4),
)
del affine, look
model = dict(prediction=dict(views=8))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=2400, val_interval=400)
# A missed organ is not rewarded: docs/evaluation.md.
val_evaluator = [dict(type="DSC", preset="strict")]
test_evaluator = [dict(type="DSC", preset="strict"), dict(type="HD95", preset="strict")]
