# The cardiac phantom: tools/make_phantom.py cardiac data/raw/phantom_cardiac, then
# tools/prepare_data.py acdc data/raw/phantom_cardiac data/phantom_cardiac --size 64. G as in the ACDC config, but
# shifting by ±6 % of the side, since these hearts lie near the middle; I is wider, as their contrast varies more.
_base_ = "./one_slice.py"
data_root = "data/phantom_cardiac"
train_dataloader = dict(
    exemplar_slice=dict(case="patient004_frame01", slice=2),
    exemplar=dict(batch_size=4),
    synthetic=dict(
        batch_size=4,
        per_background=15,
        synthesizer=dict(
            geometric=dict(degrees=180, scale=(0.7, 1.4), shift=0.06, flip=0.5, elastic=0.02),
            intensity=dict(gamma=(0.4, 2.0), gain=(0.4, 1.4)),
        ),
    ),
    unlabeled=dict(batch_size=4),
)
