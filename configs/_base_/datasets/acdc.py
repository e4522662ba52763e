# ACDC, prepared by tools/prepare_data.py acdc RAW data/acdc_224.
# Left open in the paper: which slice is the exemplar, and G (the heart may lie anywhere, at any angle and in any phase:
# rotation ±180°, scale 0.7 to 1.4, shift ±15 % of the side, elastic deformation of 2 % of it).
_base_ = "./one_slice.py"
data_root = "data/acdc_224"
train_dataloader = dict(
    exemplar_slice=dict(case="patient005_frame01", slice=2),
    synthetic=dict(
        per_background=15,
        synthesizer=dict(geometric=dict(degrees=180, scale=(0.7, 1.4), shift=0.15, flip=0.5, elastic=0.02)),
    ),
)
