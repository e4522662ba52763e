custom_hooks = [
    dict(slices=256, type='PreciseNormHook'),
    dict(type='ProgressHook'),
    dict(type='MetricTableHook'),
    dict(type='PanelHook'),
    dict(type='CurvesHook'),
]
data_root = 'data/phantom_cardiac'
default_hooks = dict(
    checkpoint=dict(interval=500, type='LastBestCheckpointHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    runtime_info=dict(interval=1, type='TrainLogHook'),
    sampler_seed=None)
default_scope = 'cmems'
env_cfg = dict(compiled_kernels=False, keep_memory=True)
launcher = 'none'
log_level = 'INFO'
log_processor = dict(by_epoch=False, window_size=1)
model = dict(
    backbone=dict(num_classes=4, type='UNet'),
    batch_views=False,
    channels_last=False,
    feature=dict(probability=0.5, type='ChannelDropout'),
    num_networks=2,
    objectives=[
        dict(source='exemplar', type='Supervised'),
        dict(source='synthetic', type='Supervised'),
        dict(
            student='strong', teacher='cross', type='Consistency', weight=1.0),
        dict(
            student='feature',
            teacher='cross',
            type='Consistency',
            weight=0.09),
    ],
    pseudo_label_mode='train',
    pseudo_labeler=dict(
        below='background', threshold=0.8, type='ConfidenceThreshold'),
    strong=dict(strength=1.0, type='ColorJitter'),
    type='MutualLearner',
    weak=dict(
        degrees=20, flip=0.5, quarter_turns=True, type='RandomRotateFlip'))
objectives = [
    dict(source='exemplar', type='Supervised'),
    dict(source='synthetic', type='Supervised'),
    dict(student='strong', teacher='cross', type='Consistency', weight=1.0),
    dict(student='feature', teacher='cross', type='Consistency', weight=0.09),
]
optim_wrapper = dict(
    optimizer=dict(fused=True, lr=0.001, type='Adam', weight_decay=0.0001),
    type='OptimWrapper')
param_scheduler = dict(
    by_epoch=False, end=60, eta_min=1e-06, power=0.9, type='PolyLR')
randomness = dict(seed=1)
runner_type = 'SegmentationRunner'
train_cfg = dict(
    graph=False, max_iters=60, type='MutualLearningLoop', val_interval=200)
train_dataloader = dict(
    data_root='data/phantom_cardiac',
    exemplar=dict(batch_size=4, type='ExemplarSource'),
    exemplar_slice=dict(case='patient004_frame01', slice=2),
    synthetic=dict(
        batch_size=4,
        per_background=15,
        synthesizer=dict(
            geometric=dict(
                degrees=180,
                elastic=0.02,
                flip=0.5,
                scale=(
                    0.7,
                    1.4,
                ),
                shift=0.06,
                type='RandomAffine'),
            intensity=dict(
                gain=(
                    0.4,
                    1.4,
                ), gamma=(
                    0.4,
                    2.0,
                ), type='RandomGammaGain'),
            type='ExemplarPaste'),
        type='SyntheticSource'),
    unlabeled=dict(batch_size=4, type='UnlabeledSource'))
val_cfg = None
val_dataloader = None
val_evaluator = None
visualizer = dict(
    type='Visualizer', vis_backends=[
        dict(type='LocalVisBackend'),
    ])
work_dir = 'tmpr_pp_rul/1'
