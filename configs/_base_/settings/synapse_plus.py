# Synapse at one pixel size. Sides tell organs apart: no mirrors, no quarter turns, one view. What the backgrounds show
# beyond the pasted organs, organs of their own among it, is unknown, and counts a tenth, as background. 224x224 pixels
# of 1.6 mm: tools/prepare_data.py synapse RAW data/synapse_plus --spacing 1.6 --crop 224.
_base_ = "./synapse.py"
data_root = "data/synapse_plus"
affine = dict(type="RandomAffine", degrees=15, flip=0.0, control_points=6, elastic=0.025, scale=(0.8, 1.25), shift=0.06)
shapes = [
    affine,
    dict(type="RadialShape", classes=tuple(range(1, 9)), exponent=(0.4, 2.0), reach=1.3, spread=(0.9, 1.8)),
]
look = dict(type="RandomGammaGain", gamma=(0.7, 1.5), gain=(0.8, 1.2))
train_dataloader = dict(
    data_root=data_root,
    propagation=dict(type="FlowPropagation", others=0),
    exemplar=dict(
        batch_size=6,
        copies=dict(
            type="WarpedExemplar",
            geometric=shapes,
            intensity=look,
            organs=[dict(type="ClassGain", width=0.25)],
            plain=0.2,
        ),
    ),
    synthetic=dict(
        per_background=None,
        synthesizer=dict(
            _delete_=True,
            type="ExemplarPaste",
            geometric=shapes,
            background_geometric=affine,
            intensity=look,
            organs=[dict(type="ClassGain", width=0.35)],
            fit=dict(type="BodyFit"),
            background="unknown",
            ring=11,
            drop={1: 0.1, 2: 0.3, 3: 0.15, 4: 0.15, 5: 0.1, 6: 0.2, 7: 0.15, 8: 0.15},
            margin=6,
            edge=2,
        ),
    ),
)
del affine, shapes, look
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
# Of the model: aorta and pancreas break into parts, others hardly do, or have a double of nearly their size; a heart
# hangs on the liver by a neck; bowel taken for gallbladder or stomach lies far from the liver (docs/accuracy.md).
# Background that is not sure teaches the second round nothing. Of the first round's: nothing is asked of unlabelled
# slices, as organs fade from pseudo-labels here.
_abdomen = dict(
    backbone=dict(num_classes=9),
    weak=dict(degrees=15, flip=0.0, quarter_turns=False),
    prediction=dict(
        views=1,
        clean=[
            dict(type="KeepLargest", classes=(1, 6), share=0.3),
            dict(type="KeepLargest", classes=(3, 4), share=0.7),
            dict(type="KeepLargest", classes=(5, 7), share=0.7, neck=18),
            dict(type="KeepLargest", classes=(2, 8), share=0.5, beside=5),
        ],
        unknown_below=0.8,
    ),
)
_abdomen_first = dict(
    objectives=[
        dict(type="Supervised", source="exemplar"),
        dict(type="Supervised", source="synthetic", unknown=0.1),
    ],
    **_abdomen,
)
