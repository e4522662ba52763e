# CMEMS+ on the abdomen phantom: no mirrors and no quarter turns, one view, since sides tell organs apart. As in
# configs/cmems, every pixel of a pseudo-label counts: with those below the threshold left out, organs are missed.
_base_ = ["../_base_/settings/phantom_abdomen.py", "../_base_/methods/cmems_plus.py"]
affine = dict(type="RandomAffine", degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0, elastic=0.025, control_points=6)
look = dict(type="RandomGammaGain", gamma=(0.7, 1.5), gain=(0.7, 1.3))
train_dataloader = dict(
    propagation=dict(type="FlowPropagation"),
    exemplar=dict(
        copies=dict(
            type="WarpedExemplar",
            geometric=[affine],
            intensity=look,
            organs=[dict(type="ClassGain", width=0.2)],
            plain=0.2,
        ),
    ),
    synthetic=dict(
        per_background=None,
        synthesizer=dict(
            _delete_=True,
            type="ExemplarPaste",
            geometric=[affine],
            background_geometric=dict(type="RandomAffine", degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0),
            intensity=look,
            organs=[dict(type="ClassGain", width=0.25)],
            margin=2,
            edge=1,
        ),
    ),
)
model = dict(
    backbone=dict(num_classes=9),
    weak=dict(quarter_turns=False, flip=0.0),
    strong=dict(type="ColorJitter", strength=0.2),
    pseudo_labeler=dict(threshold=0.0),
    prediction=dict(clean=[dict(type="KeepLargest", of="class")]),
)
del affine, look
