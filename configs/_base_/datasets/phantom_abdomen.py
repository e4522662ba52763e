# The abdomen phantom: tools/make_phantom.py abdomen data/raw/phantom_abdomen, then
# tools/prepare_data.py synapse data/raw/phantom_abdomen data/phantom_abdomen --size 64.
# Abdominal organs keep their places, as in the Synapse config.
data_root = "data/phantom_abdomen"
train_dataloader = dict(
    data_root=data_root,
    exemplar_slice=dict(case="case0006", slice=12),
    exemplar=dict(type="ExemplarSource", batch_size=4),
    synthetic=dict(
        type="SyntheticSource",
        batch_size=4,
        per_background=10,
        synthesizer=dict(
            type="ExemplarPaste",
            geometric=dict(type="RandomAffine", degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0),
            intensity=dict(type="RandomGammaGain", gamma=(0.7, 1.5), gain=(0.7, 1.3)),
        ),
    ),
    unlabeled=dict(type="UnlabeledSource", batch_size=4),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type="VolumeDataset", data_root=data_root, split="val"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="cmems.volume_collate"),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type="VolumeDataset", data_root=data_root, split="test"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="cmems.volume_collate"),
)
val_evaluator = [dict(type="DSC", preset="transunet")]
test_evaluator = [dict(type="DSC", preset="transunet"), dict(type="HD95", preset="transunet")]
