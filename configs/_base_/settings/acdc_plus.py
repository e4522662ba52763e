# ACDC at one pixel size, and what one slice lacks of the heart: walls of every thickness, painted, as a thin one shows
# its neighbours (the cavity is not painted: its papillary muscles count as cavity); muscle within cavities; small
# hearts, as near the apex; other patients' contrast; slices without right ventricle.
# Hearts lie much the same way in all scans, the right ventricle on one side: nothing is mirrored or turned by quarters,
# and an exemplar that lies otherwise is turned first. 224x224 pixels of 1.25 mm:
# tools/prepare_data.py acdc RAW data/acdc_plus --spacing 1.25 --crop 224.
_base_ = "./acdc.py"
data_root = "data/acdc_plus"
affine = dict(type="RandomAffine", degrees=60, flip=0.0, control_points=6)
shapes = [
    dict(type="WallShape", cavity=3, wall=2, size=(0.6, 1.15), rim=0.02),
    dict(type="RadialShape", classes=(1,), exponent=(0.3, 1.8), reach=1.3, spread=(0.85, 1.5), probability=0.5),
]
strands = dict(type="Trabeculae", classes=(1, 3), wall=2)
look = dict(type="RandomGammaGain", gamma=(0.6, 1.7), gain=(0.7, 1.3))
train_dataloader = dict(
    data_root=data_root,
    orientation=dict(type="StackOrientation"),
    exemplar=dict(
        batch_size=6,
        copies=dict(
            type="WarpedExemplar",
            geometric=[dict(scale=(0.55, 1.3), shift=0.1, elastic=0.02, **affine), *shapes],
            intensity=look,
            organs=[
                dict(type="PaintClasses", classes=(2,), probability=0.5),
                dict(type="ClassGain", width=0.2),
                strands,
            ],
            plain=0.2,
            outlines=(1, 2, 3),
        ),
    ),
    synthetic=dict(
        per_background=None,
        synthesizer=dict(
            _delete_=True,
            type="ExemplarPaste",
            geometric=[dict(scale=(0.55, 1.3), shift=0.12, elastic=0.025, **affine), *shapes],
            background_geometric=dict(type="RandomAffine", degrees=60, scale=(0.8, 1.25), shift=0.1, flip=0.0),
            intensity=look,
            organs=[dict(type="PaintClasses", classes=(2,)), dict(type="ClassGain", width=0.35), strands],
            outlines=(1, 2, 3),
            drop={1: 0.15},
            margin=5,
            edge=2,
        ),
    ),
)
del affine, shapes, strands, look
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
# Of the model: the heart is one piece, and so are the left ventricle, the wall around it, and the right one beside
# that, which ends where the wall opens at the base.
_heart = dict(
    backbone=dict(num_classes=4),
    weak=dict(degrees=45, flip=0.0, quarter_turns=False),
    prediction=dict(
        views=1,
        clean=[
            dict(type="KeepLargest", of="foreground"),
            dict(type="KeepLargest", classes=(3,)),
            dict(type="KeepLargest", classes=(2,), beside=3, within=8),
            dict(type="KeepLargest", classes=(1,), beside=2, within=8),
            dict(type="CutAtBase", classes=(1,), wall=2),
        ],
    ),
)
