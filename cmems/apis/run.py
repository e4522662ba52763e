"""Training and testing a config."""

import gc
import logging
from pathlib import Path

import torch
from mmengine.logging import print_log

from cmems import ops
from cmems.apis.budget import fit_to_hours, fit_to_steps
from cmems.apis.config import count_steps, load_config
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.errors import InputError
from cmems.registry import RUNNERS
from cmems.visualization import say


def train(
    config,
    work_dir=None,
    resume=False,
    amp=False,
    seed=None,
    cfg_options=None,
    launcher="none",
    steps=None,
    hours=None,
):
    """Train a config.

    Args:
        config (str): Path of the config.
        work_dir (str | None): Where logs and checkpoints go. Default: the config's, or ``work_dirs/<config name>``.
        resume (bool): Go on from ``last.pth`` of the work directory, if there is one.
        amp (bool): Train in bfloat16.
        seed (int | None): Overrides the config's.
        cfg_options (dict | None): Dotted keys to set.
        launcher (str): As MMEngine's: ``none``, ``pytorch``, ``slurm``, ``mpi``.
        steps (int | None): Train so many steps: validations and learning rate are fitted, see
            :func:`cmems.apis.budget.fit_to_steps`.
        hours (float | None): Train as many steps as this machine makes in that time.

    Returns:
        Runner: After training.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong.
    """
    cfg = load_config(config, cfg_options)
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(config).stem))
    cfg.launcher = launcher
    if steps is not None and hours is not None:
        raise InputError("--steps and --hours: expected one of them, got both")
    if steps is not None:
        fit_to_steps(cfg, steps)
    if hours is not None:
        found = fit_to_hours(cfg, hours, cfg.work_dir, resume)
        say(f"{found['steps']} steps in {found['hours']:g} h: {found['seconds_per_step']:.3g} s a step")
    count_steps(cfg)
    if seed is not None:
        cfg.setdefault("randomness", {})["seed"] = seed
    if amp:
        cfg.optim_wrapper.type = "AutocastOptimWrapper"
    if launcher == "pytorch" and not torch.cuda.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # MMEngine's own start asks for a GPU
    for scheduler in _as_list(cfg.get("param_scheduler")):
        scheduler.setdefault("end", cfg.train_cfg.max_iters)
    last = Path(cfg.work_dir, "last.pth")
    if resume and last.is_file():
        read_checkpoint(last)
        cfg.resume, cfg.load_from = True, str(last)
    # The test split is for tools/test.py alone: nothing of a training run may touch it.
    for key in ("test_cfg", "test_dataloader", "test_evaluator"):
        cfg.pop(key, None)
    volumes = cfg.val_dataloader.dataset if cfg.get("val_dataloader") else None
    if volumes and volumes.type == "VolumeDataset" and not PreparedDataset(volumes.data_root).cases(volumes.split):
        say(f"{volumes.data_root}: split '{volumes.split}' holds no case: no validation, and last.pth alone is kept")
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = build_runner(cfg)
    runner.train()
    if launcher != "none":
        # A process group that outlives the interpreter may abort it; the wrapper holds one.
        runner.model = runner.model.module
        gc.collect()
        torch.distributed.destroy_process_group()
    return runner


def test(config, checkpoint, split=None, preset=None, show_dir=None, out=None, work_dir=None, cfg_options=None):
    """Measure a checkpoint.

    Args:
        config (str): Path of the config.
        checkpoint (str): The weights.
        split (str | None): Split to measure on. Default: the config's test split.
        preset (str | None): Metric convention for every metric of the config.
        show_dir (str | None): Write overlay panels there.
        out (str | None): Folder of ``metrics.json`` and ``metrics.csv``. Default: the work directory.
        work_dir (str | None): Where the log and tables go. Default: ``test_<split>`` beside the checkpoint.
        cfg_options (dict | None): Dotted keys to set.

    Returns:
        dict: Metrics, e.g. ``ensemble/DSC``.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong.
    """
    cfg = load_config(config, cfg_options)
    read_checkpoint(checkpoint)
    if split:
        cfg.test_dataloader.dataset.split = split
    split = cfg.test_dataloader.dataset.split
    cfg.work_dir = work_dir or str(Path(checkpoint).resolve().parent / f"test_{split}")
    if preset:
        for metric in _as_list(cfg.test_evaluator):
            metric["preset"] = preset
    hooks = cfg.setdefault("custom_hooks", [])
    for hook in hooks:
        if hook["type"] == "MetricTableHook" and out:
            hook["out"] = out
    if show_dir:
        hooks[:] = [h for h in hooks if h["type"] != "PanelHook"] + [dict(type="PanelHook", out_dir=show_dir)]
    cfg.load_from, cfg.resume = checkpoint, False
    for key in ("train_cfg", "train_dataloader", "optim_wrapper", "param_scheduler", "val_cfg", "val_dataloader",
                "val_evaluator"):  # fmt: skip
        cfg.pop(key, None)
    return build_runner(cfg).test()


def build_runner(cfg):
    """Build a config's runner; a component that rejects its arguments is the config's mistake.

    Raises:
        InputError: See the message.
    """
    cfg.setdefault("runner_type", "SegmentationRunner")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = True  # a resumed run must repeat the bits
    try:
        runner = RUNNERS.get(cfg.runner_type).from_cfg(cfg)
    except TypeError as error:
        raise InputError(f"config: {error}") from error
    print_log(f"torch {torch.__version__}, {torch.get_num_threads()} threads", "current", logging.INFO)
    if not torch.cuda.is_available():
        print_log(f"compiled kernels: {ops.why_not() or 'on'}", "current", logging.INFO)
    return runner


def _as_list(value):
    if value is None:
        return []
    return [value] if isinstance(value, dict) else list(value)
