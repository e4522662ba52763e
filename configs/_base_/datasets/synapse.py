# Synapse, prepared by tools/prepare_data.py synapse RAW data/synapse_224.
# Left open in the paper: which slice is the exemplar, how a batch of 12 divides (12 of each source here), Ω's
# transforms (abdominal organs keep their places: small rotations and shifts).
data_root = "data/synapse_224"
train_dataloader = dict(
    data_root=data_root,
    exemplar_slice=dict(case="case0033", slice=70),
    exemplar=dict(type="ExemplarSource", batch_size=12),
    synthetic=dict(
        type="SyntheticSource",
        batch_size=12,
        per_background=10,
        synthesizer=dict(
            type="ExemplarPaste",
            geometric=dict(type="RandomAffine", degrees=20, scale=(0.8, 1.25), shift=0.05, flip=0.0),
            intensity=dict(type="RandomGammaGain", gamma=(0.7, 1.5), gain=(0.7, 1.3)),
        ),
    ),
    unlabeled=dict(type="UnlabeledSource", batch_size=12),
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
