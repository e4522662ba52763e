# CMEMS+ on the cardiac phantom: Ω as on ACDC, with the phantom's own shifts and contrast.
_base_ = ["../_base_/settings/phantom_cardiac.py", "../_base_/methods/cmems_plus.py"]
affine = dict(type="RandomAffine", degrees=180, scale=(0.7, 1.4), shift=0.06, flip=0.5, elastic=0.025, control_points=6)
shapes = [
    dict(type="WallShape", cavity=3, wall=2),
    dict(type="RadialShape", classes=(1,), exponent=(0.3, 1.8), reach=1.3, spread=(0.85, 1.5), probability=0.5),
]
look = dict(type="RandomGammaGain", gamma=(0.4, 2.0), gain=(0.4, 1.4))
train_dataloader = dict(
    propagation=dict(type="FlowPropagation"),
    exemplar=dict(
        copies=dict(
            type="WarpedExemplar",
            geometric=[affine, *shapes],
            intensity=look,
            organs=[dict(type="PaintClasses", classes=(2,), probability=0.5), dict(type="ClassGain", width=0.2)],
            plain=0.2,
            outlines=(1, 2, 3),
        ),
    ),
    synthetic=dict(
        per_background=None,
        synthesizer=dict(
            _delete_=True,
            type="ExemplarPaste",
            geometric=[affine, *shapes],
            background_geometric=dict(type="RandomAffine", degrees=180, scale=(0.8, 1.25), shift=0.06, flip=0.5),
            intensity=look,
            organs=[dict(type="PaintClasses", classes=(2,)), dict(type="ClassGain", width=0.35)],
            outlines=(1, 2, 3),
            drop={1: 0.15},
            margin=2,
            edge=1,
        ),
    ),
)
model = dict(
    backbone=dict(num_classes=4),
    prediction=dict(views=8, clean=[dict(type="KeepLargest", of="foreground"), dict(type="KeepLargest", of="class")]),
)
del affine, shapes, look
