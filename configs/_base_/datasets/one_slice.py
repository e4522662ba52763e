# What every data set shares. Left open in the paper: how a batch of 12 divides (12 of each source), and I's ranges.
train_dataloader = dict(
    exemplar=dict(type="ExemplarSource", batch_size=12),
    synthetic=dict(
        type="SyntheticSource",
        batch_size=12,
        synthesizer=dict(
            type="ExemplarPaste",
            geometric=dict(type="RandomAffine"),
            intensity=dict(type="RandomGammaGain", gamma=(0.7, 1.5), gain=(0.7, 1.3)),
        ),
    ),
    unlabeled=dict(type="UnlabeledSource", batch_size=12),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="VolumeDataset", split="val"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="cmems.volume_collate"),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="VolumeDataset", split="test"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="cmems.volume_collate"),
)
val_evaluator = [dict(type="DSC", preset="transunet")]
test_evaluator = [dict(type="DSC", preset="transunet"), dict(type="HD95", preset="transunet")]
