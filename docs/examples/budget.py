"""What a short training of CMEMS+ depends on: its rate, its batch, whose pseudo-labels it learns from, and how.

cmems compare docs/examples/budget.py --seeds 0

Every row sees as many images as 600 steps of the config do.
"""

STEPS, IMAGES = 600, dict(exemplar=2, synthetic=4, unlabeled=4)
PATH = "configs/cmems_plus/unet_{dataset}.py"

title = "CMEMS+: rate, batch and pseudo-labels for a budget"
datasets = ["acdc_cpu"]
exemplars = ["A", "B", "C"]


def _row(label, steps=STEPS, **more):
    return dict(label=label, config=PATH, options={"train_cfg.max_iters": steps, **more})


def _batches(factor, rate):
    sizes = {f"train_dataloader.{source}.batch_size": int(n * factor) for source, n in IMAGES.items()}
    return _row(
        f"batches times {factor:g}, {STEPS / factor:g} steps, rate {rate:g}",
        round(STEPS / factor),
        **sizes,
        **{"optim_wrapper.optimizer.lr": rate},
    )


def _consistency(**changes):
    """Return what changes the config's one objective on unlabelled images."""
    return {f"model.objectives.2.{key}": value for key, value in changes.items()}


rows = [
    _row("rate 1e-3", **{"optim_wrapper.optimizer.lr": 1e-3}),
    _row("rate 5e-4", **{"optim_wrapper.optimizer.lr": 5e-4}),
    _row("rate 2e-3", **{"optim_wrapper.optimizer.lr": 2e-3}),
    _row("rate 4e-3", **{"optim_wrapper.optimizer.lr": 4e-3}),
    _row("rate 8e-3", **{"optim_wrapper.optimizer.lr": 8e-3}),
    _batches(0.5, 4e-3),
    _batches(2, 4e-3),
    _row("CutMix in the strong view", **_consistency(mix=dict(type="CutMix"))),
    _row("pseudo-labels without dropout, running statistics", **{"model.pseudo_label_mode": "eval"}),
    _row("pseudo-labels of one's own averaged weights", **_consistency(teacher="ema")),
    _row("τ 0.95", **{"model.pseudo_labeler.threshold": 0.95}),
    _row("τ 0", **{"model.pseudo_labeler.threshold": 0.0}),
]
