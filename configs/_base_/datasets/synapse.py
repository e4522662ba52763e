# Synapse, prepared by tools/prepare_data.py synapse RAW data/synapse_224.
# Left open in the paper: which slice is the exemplar, and G (abdominal organs keep their places: small rotations and
# shifts, an elastic deformation of 2 % of the side).
_base_ = "./one_slice.py"
data_root = "data/synapse_224"
train_dataloader = dict(
    exemplar_slice=dict(case="case0033", slice=70),
    synthetic=dict(
        per_background=10,
        synthesizer=dict(geometric=dict(degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0, elastic=0.02)),
    ),
)
