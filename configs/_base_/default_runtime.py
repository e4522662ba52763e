# Left open in the paper: the statistics that BatchNorm predicts with. Here: those of 256 unlabelled training slices,
# measured before each validation.
default_scope = "cmems"
randomness = dict(seed=0)
env_cfg = dict(compiled_kernels=True, keep_memory=True)
log_level = "INFO"
log_processor = dict(by_epoch=False, window_size=1)
default_hooks = dict(
    runtime_info=dict(type="TrainLogHook", interval=10),
    logger=dict(type="LoggerHook", interval=10, log_metric_by_epoch=False),
    checkpoint=dict(type="LastBestCheckpointHook", interval=500),
    sampler_seed=None,
    precise_norm=dict(type="PreciseNormHook", slices=256),
    progress=dict(type="ProgressHook"),
    table=dict(type="MetricTableHook"),
    exemplars=dict(type="ExemplarsHook"),
    panels=dict(type="PanelHook"),
    curves=dict(type="CurvesHook"),
    collapse=dict(type="CollapseHook"),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
