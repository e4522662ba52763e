# CPU-sized: 64x64 pixels of 3.25 mm (prepare_data.py acdc RAW data/acdc_plus_64 --spacing 3.25 --crop 64), four images
# of each of two sources a step, bfloat16 where the machine computes in it. No muscle within cavities, which is a pixel
# wide here, and no hearts as small as at finer pixels.
_base_ = "./acdc_plus.py"
data_root = "data/acdc_plus_64"
affine = dict(type="RandomAffine", degrees=60, flip=0.0, control_points=6)
shapes = [
    dict(type="WallShape", cavity=3, wall=2),
    dict(type="RadialShape", classes=(1,), exponent=(0.3, 1.8), reach=1.3, spread=(0.85, 1.5), probability=0.5),
]
train_dataloader = dict(
    data_root=data_root,
    exemplar=dict(
        batch_size=2,
        copies=dict(
            geometric=[dict(scale=(0.75, 1.35), shift=0.1, elastic=0.02, **affine), *shapes],
            organs=[dict(type="PaintClasses", classes=(2,), probability=0.5), dict(type="ClassGain", width=0.2)],
        ),
    ),
    synthetic=dict(
        batch_size=4,
        synthesizer=dict(
            geometric=[dict(scale=(0.7, 1.4), shift=0.12, elastic=0.025, **affine), *shapes],
            organs=[dict(type="PaintClasses", classes=(2,)), dict(type="ClassGain", width=0.35)],
            margin=2,
            edge=1,
        ),
    ),
    unlabeled=dict(batch_size=4),
)
del affine, shapes
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=2400, val_interval=400)
_heart = dict(prediction=dict(scales=[0.85, 1, 1.18, 1.35]))  # small hearts are found enlarged
