"""Training and testing a config."""

import hashlib
import importlib.util
import inspect
import json
import logging
import math
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from cmems import ops
from cmems.apis.budget import fit_to_hours, fit_to_steps, keep_budget
from cmems.apis.config import count_steps, load_config, run_settings
from cmems.apis.launcher import alone, check_launcher, leave_group, rank_of, together
from cmems.apis.places import default_work_dir, module_content, module_folders, spare_data_set
from cmems.apis.record import write_record
from cmems.datasets.masks import masks_content
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepared import FLAT, PreparedDataset
from cmems.engine.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    check_networks,
    known_to,
    newest_whole,
    of_training,
    read_checkpoint,
)
from cmems.engine.checks import told
from cmems.engine.runner import RECORD, SegmentationRunner
from cmems.errors import InputError, Stopped, said
from cmems.files import naming
from cmems.locks import LOCK, folder_lock
from cmems.precision import float32_by_default
from cmems.registry import RUNNERS
from cmems.visualization import say
from cmems.visualization.panels import check_pictures

TRAINS = ("model", "train_dataloader.data_root", "train_cfg.max_iters", "optim_wrapper")
_TESTS = ("model", "test_dataloader.dataset.data_root", "test_dataloader.dataset.split", "test_evaluator", "test_cfg")
# MMEngine's, none of which sends anything anywhere by these settings.
TRACKERS = dict(
    tensorboard=dict(type="TensorboardVisBackend"),
    wandb=dict(type="WandbVisBackend", init_kwargs=dict(mode="offline")),
    mlflow=dict(type="MLflowVisBackend", exp_name="cmems", tracking_uri="sqlite:///{work_dir}/mlflow.db",
                artifact_location="{uri}/mlflow"),
)  # fmt: skip


@float32_by_default()
def train(
    config,
    work_dir=None,
    resume=False,
    amp=False,
    seed=None,
    cfg_options=None,
    launcher="none",
    overwrite=False,
    steps=None,
    hours=None,
    tracker=None,
):
    """Train a config.

    Args:
        config (str): Path of the config.
        work_dir (str | None): Where logs and checkpoints go. Default: the config's, or
            ``work_dirs/<folder of the config>/<name of the config>``.
        resume (bool): Go on from the newest whole checkpoint of the work directory, if there is one.
        amp (bool): Train in bfloat16.
        seed (int | None): Overrides the config's.
        cfg_options (dict | None): Dotted keys to set.
        launcher (str): As MMEngine's: ``none``, ``pytorch``, ``slurm``, ``mpi``.
        overwrite (bool): Replace the run that the work directory holds.
        steps (int | None): Train so many steps: validations and learning rate are fitted, see
            :func:`cmems.apis.budget.fit_to_steps`.
        hours (float | None): Train as many steps as this machine makes in that time.
        tracker (str | None): Write curves for ``tensorboard``, ``wandb`` (offline) or ``mlflow`` too, into the work
            directory.

    Returns:
        Runner: After training.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong; the work directory holds a run that is
            neither resumed nor overwritten nor this one at its end, a prepared data set or another config of this name,
            or another process trains there; or a number was not finite.
        Stopped: A signal ended it, after its checkpoint was written.
    """
    fitted = () if steps is None and hours is None else ("train_cfg.val_interval",)
    if resume and overwrite:
        raise InputError("--resume and --overwrite: expected one of them")
    cfg = load_config(config, cfg_options, (*TRAINS, *fitted))
    resume, cfg.resume = resume or bool(cfg.get("resume")) and not overwrite, False
    cfg.work_dir = work_dir or cfg.get("work_dir") or default_work_dir(config)
    cfg.launcher = launcher
    _check_work_dir(cfg)
    if tracker is not None:
        _track(cfg, tracker)
    if steps is not None and hours is not None:
        raise InputError("--steps and --hours: expected one of them, got both")
    data = PreparedDataset(cfg.train_dataloader.data_root)
    for line in _flat(data):
        say(f"warning: {data.root}: {line}")
    _check_validation(cfg)
    if steps is not None:
        fit_to_steps(cfg, steps, cfg_options)
    if hours is not None and launcher != "none":
        raise InputError(
            f"--hours: expected one process, which times its steps, got --launcher {launcher}; give --steps"
        )
    check_launcher(launcher)
    found = None
    if hours is not None:
        held = not overwrite and Path(cfg.work_dir, LAST).is_file()  # perhaps by this very command, at its end
        found = fit_to_hours(cfg, hours, cfg.work_dir, resume or held, cfg_options)
        say(f"{found['steps']} steps in {found['hours']:g} h: {found['seconds_per_step']:.3g} s a step")
    tests = _complete(cfg, seed, amp)
    masks = masks_content(data, cfg.train_dataloader)
    settings = run_settings(cfg, content_of(data), masks)
    with alone(cfg.work_dir, launcher), naming(cfg.work_dir), together(cfg.work_dir):
        same = found is None or found["hours"] == hours
        resume = resume or not overwrite and same and _is_finished(cfg, settings)
        if resume:
            _find_checkpoint(cfg)
        elif not overwrite and rank_of(launcher) == 0:
            refuse_other_run(cfg.work_dir)
        if launcher == "pytorch" and not torch.cuda.is_available() and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")  # MMEngine's own start asks for a GPU
        if hours is not None or steps is not None or not resume:
            keep_budget(found, cfg.work_dir)
        runner = build_runner(cfg)
        for key, part in tests.items():  # what the folder keeps is enough to test
            runner.cfg[key] = part
        runner.dump_config()
        runner.settings, runner.starts_over = settings, overwrite and runner.rank == 0
        beside = dict(modules=module_content(cfg), custom_hooks=cfg.get("custom_hooks"))
        runner.beside = json.dumps({key: value for key, value in beside.items() if value}, default=str)
        runner.preparation, runner.trained_on = Preparation.of(data).text(), list(_scans(data, "train").values())
        try:
            with _recorded(runner, resume, dict(_known(config, cfg), data=_known_by(data), amp=amp)):
                runner.train()
        except Stopped:
            leave_group(runner, launcher)
            raise
    leave_group(runner, launcher)
    return runner


@float32_by_default()
def rehearse(config, cfg_options=None, seed=None, amp=False, steps=None):
    """Make the first step of a training in a folder that is thrown away: what :func:`train` would end at, it ends at.

    Labels are carried nowhere and nothing is turned for it, as that takes longer than the step. Whether losses are
    finite is not asked: its masks may be stand-ins.

    Args:
        config, cfg_options, seed, amp, steps: As for :func:`train`.

    Raises:
        InputError: As :func:`train`.
    """
    fitted = () if steps is None else ("train_cfg.val_interval",)
    cfg = load_config(config, cfg_options, (*TRAINS, *fitted))
    _check_validation(cfg, tell=lambda line: None)
    if steps is not None:
        fit_to_steps(cfg, steps, cfg_options)
    _complete(cfg, seed, amp)
    cfg.train_dataloader.update(propagation=None, orientation=None)
    cfg.train_cfg.graph = False
    if cfg.get("visualizer"):
        cfg.visualizer.vis_backends = [dict(type="LocalVisBackend")]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cfg.work_dir = folder
        runner = build_runner(cfg)
        runner.register_hook(_FirstStep())
        try:
            runner.train()
        except _Rehearsed:
            pass
        except Stopped as stopped:
            raise KeyboardInterrupt from stopped  # its text names a checkpoint that is no more


class _Rehearsed(Exception):
    """The first step was made."""


class _FirstStep(Hook):
    priority = "VERY_HIGH"

    def before_train(self, runner):
        runner.train_loop.guard.interval = math.inf

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise _Rehearsed


def _complete(cfg, seed, amp):
    """Set what a training's options and its number of steps decide; return what it has no use for, a test's parts."""
    count_steps(cfg)
    if seed is not None:
        cfg.setdefault("randomness", {})["seed"] = seed
    check_seed((cfg.get("randomness") or {}).get("seed"))
    if amp:
        cfg.optim_wrapper.type = "AutocastOptimWrapper"
    for scheduler in _as_list(cfg.get("param_scheduler")):
        scheduler.setdefault("end", cfg.train_cfg.max_iters)
    # The test split is for `cmems evaluate` alone: nothing of a training run may touch it.
    return {key: cfg.pop(key) for key in ("test_cfg", "test_dataloader", "test_evaluator") if key in cfg}


@contextmanager
def _recorded(runner, goes_on, facts):
    """Write ``run.json`` of the training that the block is, however it ends, once a step was made."""
    began = time.time()

    def record(finished):
        if runner.rank == 0 and (finished or runner.iter):
            facts.update(seed=runner.seed, steps=runner.iter, of=runner.max_iters, processes=runner.world_size)
            write_record(runner.work_dir, began, finished, goes_on, **facts)

    try:
        yield
    except BaseException:
        with suppress(OSError):  # what ended the training is what the user must know
            record(False)
        raise
    record(True)


def _known(config, cfg):
    """Return the config as it was named, its copy in the work directory, and where its own modules lie."""
    return dict(config=str(config), config_copy=Path(cfg.filename).name, modules=module_folders(cfg))


def _known_by(data):
    return dict(name=data.name, root=str(data.root.resolve()), content=content_of(data))


def _track(cfg, tracker):
    """Add what writes curves for a tracker beside what writes them anyway."""
    if tracker not in TRACKERS:
        raise InputError(f"--tracker: expected one of {', '.join(TRACKERS)}, got {tracker!r}")
    needs = [tracker, "sqlalchemy"] if tracker == "mlflow" else [tracker]  # mlflow-skinny comes without a database
    if any(importlib.util.find_spec(module) is None for module in needs):
        raise InputError(f"--tracker {tracker}: it is not installed; pip install {tracker}")
    visualizer = cfg.setdefault("visualizer", dict(type="Visualizer"))
    backends = list(visualizer.get("vis_backends") or [dict(type="LocalVisBackend")])
    folder = Path(cfg.work_dir).resolve()
    names = dict(work_dir=folder.as_posix(), uri=folder.as_uri())
    place = {k: v.format(**names) if isinstance(v, str) else v for k, v in TRACKERS[tracker].items()}
    visualizer["vis_backends"] = [*backends, place]


def check_seed(seed):
    """Raise InputError for what is no seed; None is one that is drawn."""
    if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 32):
        raise InputError(f"seed: expected an integer from 0 to {(1 << 32) - 1}, got {seed!r}")


def _check_work_dir(cfg):
    """Refuse a work directory in which the copy of the config, or more of a run, would replace what is not a run's."""
    folder, name = Path(cfg.work_dir), Path(cfg.filename).name
    own = folder / name
    spare_data_set(folder, "--work-dir ")
    runs = any(Path(folder, each).is_file() for each in (LOCK, LAST, RECORD))
    if own.is_file() and not own.samefile(cfg.filename) and not runs:
        raise InputError(f"--work-dir {folder}: holds another {name}, which no run wrote; name a folder of its own")


def _flat(data):
    """Return the line, if any, that names training cases with slices of one value, which are drawn like the others."""
    notes = {case: data.case(case).get("notes", []) for case in data.cases("train")}
    return said({case: [note for note in each if note[0] == FLAT] for case, each in notes.items()})


def _check_validation(cfg, tell=say):
    """Find before the first step what the first validation would end at; where it cannot be, train without one."""
    volumes = cfg.val_dataloader.dataset if cfg.get("val_dataloader") else None
    if not volumes or volumes.type != "VolumeDataset":
        return
    data = PreparedDataset(volumes.data_root)
    cases = data.cases(volumes.split)
    trained = PreparedDataset(cfg.train_dataloader.data_root, arrays=False)
    if trained.root.resolve() != data.root.resolve():
        if odd := Preparation.of(data).unlike(Preparation.of(trained).plain()):
            raise InputError(
                f"val_dataloader.dataset.data_root={data.root}: prepared otherwise than the training's data, "
                f"{trained.root}: {'; '.join(odd)}"
            )
        if seen := trained_on(data, volumes.split, dict(trained_on=list(_scans(trained, "train").values()))):
            tell(f"warning: {data.root}: split '{volumes.split}': {seen}")
    bare = [case for case in cases if not data.case(case)["labelled"]]
    where = f"{volumes.data_root}: split '{volumes.split}'"
    if len(bare) == len(cases):
        why = "no labelled case" if cases else "no case"
        tell(f"{where} holds {why}: no validation, and {LAST} alone is kept")
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    elif bare:
        tell(f"{where}: left out of the scores, having no label: {', '.join(bare[:5])}{' …' * (len(bare) > 5)}")


def refuse_other_run(work_dir):
    """Raise InputError where a folder holds a run."""
    held = [name for name in (LAST, PREVIOUS, BEST) if Path(work_dir, name).is_file()]
    if held:
        raise InputError(
            f"{work_dir} holds a run ({', '.join(held)}): --resume goes on with it, --overwrite replaces it, "
            "--work-dir names another folder"
        )


def _is_finished(cfg, settings):
    """Return whether the work directory holds this very run, trained to its end."""
    path = Path(cfg.work_dir, LAST)
    if not path.is_file():
        return False
    try:
        meta = read_checkpoint(path)["meta"]
        made = json.loads(meta.get("settings", "null"))
        same = of_training(made) == of_training(known_to(made, settings))
        return meta.get("iter") == cfg.train_cfg.max_iters and same
    except (InputError, AttributeError, TypeError, ValueError, RecursionError):
        return False


def _find_checkpoint(cfg):
    """Set what a resumed run goes on from, and say what is not as usual."""
    path, problem = newest_whole(cfg.work_dir)
    if path is None:
        say(f"{cfg.work_dir} holds no checkpoint: training starts at step 0")
        return
    cfg.resume, cfg.load_from = True, str(path)
    meta = read_checkpoint(path)["meta"]
    steps, total = meta.get("iter"), cfg.train_cfg.max_iters
    if path.name != LAST:
        say(f"{problem or f'{cfg.work_dir} holds no {LAST}'}; going on from {path}, step {steps}")
    if isinstance(steps, int) and isinstance(total, int) and steps >= total:
        made = f"all steps are made already ({steps} of {total})"
        say(f"{path}: {made}; nothing is left to train; --overwrite trains anew")
    laid_out = meta.get("steps", total)
    if laid_out != total:
        say(
            f"{path}: the run was laid out for {laid_out} steps and goes on to {total}: the learning rate keeps the "
            "schedule of before"
        )


def test(config, checkpoint, split=None, preset=None, show_dir=None, out=None, work_dir=None, cfg_options=None):
    """Measure a checkpoint.

    Args:
        config (str): Path of the config.
        checkpoint (str): The weights.
        split (str | None): Split to measure on. Default: the config's test split.
        preset (str | None): Metric convention for every metric of the config.
        show_dir (str | None): Write overlay panels there.
        out (str | None): Folder of ``metrics.json`` and its tables. Default: the work directory.
        work_dir (str | None): Where the log and tables go. Default: ``test_<split>`` beside the checkpoint.
        cfg_options (dict | None): Dotted keys to set.

    Returns:
        dict: Metrics, e.g. ``ensemble/DSC``.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong; or the work directory holds a
            prepared data set or another config of this name.
    """
    cfg, saved = load_config(config, cfg_options, _TESTS, trains=False), read_checkpoint(checkpoint)
    if split:
        cfg.test_dataloader.dataset.split = split
    split = cfg.test_dataloader.dataset.split
    cfg.work_dir = work_dir or str(Path(checkpoint).resolve().parent / f"test_{split}")
    _check_work_dir(cfg)
    for option, folder in (("--out ", out), ("--show-dir ", show_dir)):
        if folder:
            spare_data_set(folder, option, "what is measured")
    if preset:
        for metric in _as_list(cfg.test_evaluator):
            metric["preset"] = preset
    hooks = cfg.setdefault("default_hooks", {})
    if out:
        hooks["table"] = dict(hooks.get("table") or dict(type="MetricTableHook"), out=out)
    if show_dir:
        hooks["panels"] = dict(hooks.get("panels") or dict(type="PanelHook"), out_dir=show_dir)
    check_seed((cfg.get("randomness") or {}).get("seed"))
    data = PreparedDataset(cfg.test_dataloader.dataset.data_root)
    Preparation.of(data).check(saved, checkpoint)
    check_networks(cfg._cfg_dict.to_dict()["model"], saved, checkpoint)
    cases = data.cases(split)
    if cases and not any(data.case(case)["labelled"] for case in cases):
        raise InputError(f"{data.root}: no case of split '{split}' is labelled, so there is nothing to compare with")
    if seen := trained_on(data, split, saved["meta"]):
        say(f"warning: {data.root}: split '{split}': {seen}")
    if show_dir:
        check_pictures("--show-dir", (Path(show_dir, f"{case}.png") for case in cases))
    for folder in filter(None, (out, show_dir)):  # what cannot be written to is told now, not after the test
        Path(folder).mkdir(parents=True, exist_ok=True)
    cfg.load_from, cfg.resume, cfg.launcher = checkpoint, False, "none"
    for key in ("train_cfg", "train_dataloader", "optim_wrapper", "param_scheduler", "val_cfg", "val_dataloader",
                "val_evaluator"):  # fmt: skip
        cfg.pop(key, None)
    places = {Path(place).resolve(): place for place in (out, cfg.work_dir) if place}  # tables and log
    with ExitStack() as locks, naming(cfg.work_dir):
        for place in places.values():
            locks.enter_context(folder_lock(place, "testing"))
        return build_runner(cfg).test()


def content_of(data):
    """Return what a prepared data set's content is known by: equal for equal slices, volumes, classes and splits."""
    parts = {k: data.manifest[k] for k in ("files", "splits", "classes", "size")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def trained_on(data, split, meta):
    """Return a sentence that names the cases of a split whose scans a checkpoint was trained on; None without any.

    Args:
        data (PreparedDataset): Perhaps another than that of the training.
        split (str): As :meth:`PreparedDataset.cases` takes it.
        meta (dict): Of the checkpoint; of one that does not tell, nothing is known.
    """
    known = meta.get("trained_on")
    seen = [case for case, voxels in _scans(data, split).items() if isinstance(known, list) and voxels in known]
    if not seen:
        return None
    return f"the training saw these scans, which flatters the scores: {', '.join(seen[:5])}{' …' * (len(seen) > 5)}"


def _scans(data, split):
    """Return by what the voxels of a split's scans are known, by case; older manifests do not tell."""
    return {case: each for case in data.cases(split) if isinstance(each := data.case(case).get("voxels"), str)}


def build_runner(cfg):
    """Build a config's runner; a component that rejects its arguments is the config's mistake.

    Raises:
        InputError: See the message.
    """
    cfg.setdefault("runner_type", SegmentationRunner.__name__)
    known = isinstance(cfg.runner_type, str) and cfg.runner_type in RUNNERS
    kind = RUNNERS.get(cfg.runner_type) if known else None
    if not (inspect.isclass(kind) and issubclass(kind, SegmentationRunner)):
        raise InputError(f"runner_type: expected SegmentationRunner or a subclass of it, got {cfg.runner_type!r}")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = True  # a resumed run must repeat the bits
    with told("config"):
        runner = kind.from_cfg(cfg)
    print_log(f"torch {torch.__version__}, {torch.get_num_threads()} threads", "current", logging.INFO)
    if not torch.cuda.is_available():
        print_log(f"compiled kernels: {ops.why_not() or 'on'}", "current", logging.INFO)
    return runner


def _as_list(value):
    if value is None:
        return []
    return [value] if isinstance(value, dict) else list(value)
