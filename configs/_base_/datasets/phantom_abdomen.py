# The abdomen phantom: tools/make_phantom.py abdomen data/raw/phantom_abdomen, then
# tools/prepare_data.py synapse data/raw/phantom_abdomen data/phantom_abdomen --size 64. G as in the Synapse config.
_base_ = "./one_slice.py"
data_root = "data/phantom_abdomen"
train_dataloader = dict(
    exemplar_slice=dict(case="case0006", slice=12),
    exemplar=dict(batch_size=4),
    synthetic=dict(
        batch_size=4,
        per_background=10,
        synthesizer=dict(geometric=dict(degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0, elastic=0.02)),
    ),
    unlabeled=dict(batch_size=4),
)
