"""Training a config."""

import importlib.util
import json
import math
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from mmengine.hooks import Hook

from cmems.apis.budget import fit_to_hours, fit_to_steps, keep_budget
from cmems.apis.config import count_steps, load_config, run_settings, value_typed
from cmems.apis.launcher import alone, check_launcher, leave_group, rank_of, together
from cmems.apis.places import default_work_dir, module_content, module_folders
from cmems.apis.record import read_record, write_record
from cmems.apis.runs import as_list, build_runner, check_seed, check_work_dir, content_of, scans_of, trained_on
from cmems.datasets.masks import masks_content
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepared import FLAT, PreparedDataset
from cmems.engine.checkpoint import BEST, LAST, PREVIOUS, newest_whole, read_meta
from cmems.engine.settings import known_to, of_training
from cmems.errors import InputError, Stopped, said
from cmems.files import naming
from cmems.precision import float32_by_default
from cmems.visualization import say
from cmems.visualization.hooks import CurvesHook

TRAINS = ("model", "train_dataloader.data_root", "train_cfg.max_iters", "optim_wrapper")
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
    check_work_dir(cfg)
    if tracker is not None:
        _track(cfg, tracker)
    if steps is not None and hours is not None:
        raise InputError("--steps and --hours: expected one of them, got both")
    data = PreparedDataset(cfg.train_dataloader.data_root)
    for line in _flat(data):
        say(f"warning: {data.root}: {line}")
    _check_validation(cfg)
    path = newest_whole(cfg.work_dir)[0] if resume else None
    budget = {k: v for k, v in dict(steps=steps, hours=hours).items() if v is not None} or budget_of(path, cfg_options)
    if budget and not fitted:
        load_config(config, cfg_options, ["train_cfg.val_interval"])
        steps, typed = read_meta(path)["steps"], " ".join(f"--{key} {value:g}" for key, value in budget.items())
        say(f"{path}: the run goes on to the {steps} steps of {typed}; --steps N changes that")
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
    laid_out = _laid_out(path)
    tests = _complete(cfg, seed, amp, laid_out)
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
        if fitted or not resume:
            keep_budget(found, cfg.work_dir)
        runner = build_runner(cfg)
        for key, part in tests.items():  # what the folder keeps is enough to test
            runner.cfg[key] = part
        runner.dump_config()
        runner.settings = settings
        runner.starts_over = time.time() if overwrite and runner.rank == 0 else None
        runner.laid_out, runner.budget = laid_out, budget
        beside = dict(modules=module_content(cfg), custom_hooks=cfg.get("custom_hooks"))
        runner.beside = json.dumps({key: value for key, value in beside.items() if value}, default=str)
        runner.preparation, runner.trained_on = Preparation.of(data).text(), list(scans_of(data, "train").values())
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


def _complete(cfg, seed, amp, laid_out=None):
    """Set what a training's options and its number of steps decide; return what it has no use for, a test's parts."""
    count_steps(cfg, laid_out)
    if seed is not None:
        cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    check_seed((cfg.get("randomness") or {}).get("seed"))
    if amp:
        cfg.optim_wrapper.type = "AutocastOptimWrapper"
    for scheduler in as_list(cfg.get("param_scheduler")):
        scheduler.setdefault("end", cfg.train_cfg.max_iters)
    # The test split is for `cmems evaluate` alone: nothing of a training run may touch it.
    return {key: cfg.pop(key) for key in ("test_cfg", "test_dataloader", "test_evaluator") if key in cfg}


@contextmanager
def _recorded(runner, goes_on, facts):
    """Write ``run.json`` of the training that the block is, however it ends, once a step was made.

    A run that was at its end already keeps what is recorded of it.
    """
    began, before = time.time(), read_record(runner.work_dir) if goes_on else {}

    def record(finished):
        idle = before.get("finished") and before.get("steps") == runner.iter
        if runner.rank == 0 and (finished or runner.iter) and not idle:
            facts.update(seed=runner.seed, steps=runner.iter, of=runner.max_iters, processes=runner.world_size)
            write_record(runner.work_dir, began, finished, goes_on, **facts)

    try:
        yield
    except BaseException:
        with suppress(OSError):  # what ended the training is what the user must know
            record(False)
            for hook in runner.hooks if runner.iter else ():
                if isinstance(hook, CurvesHook):
                    hook.after_train(runner)
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


def _flat(data):
    """Return the line, if any, that names training cases with slices of one value, which are drawn like the others."""
    notes = {case: data.case(case).get("notes", []) for case in data.cases("train")}
    return said({case: [note for note in each if note[0] == FLAT] for case, each in notes.items()})


def _check_validation(cfg, tell=say):
    """Find before the first step what the first validation would end at; where it cannot be, train without one."""
    parts = {key: cfg.get(key) for key in ("val_dataloader", "val_cfg", "val_evaluator")}
    lacking = [key for key, part in parts.items() if part is None]
    if 0 < len(lacking) < len(parts):
        raise InputError(
            f"{', '.join(lacking)}: got None; expected none or, for no validation, all of {', '.join(parts)}"
        )
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
        if seen := trained_on(data, volumes.split, dict(trained_on=list(scans_of(trained, "train").values()))):
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
        meta = read_meta(path)
        made = json.loads(meta.get("settings", "null"))
        same = of_training(made) == of_training(known_to(made, settings))
        return meta.get("iter") == cfg.train_cfg.max_iters and same
    except (InputError, AttributeError, TypeError, ValueError, RecursionError):
        return False


def _laid_out(path):
    """Return of how many steps the run of a checkpoint first was; None where that is not told, or there is none."""
    meta = read_meta(path) if path else {}
    steps = meta.get("laid_out", meta.get("steps"))
    return steps if type(steps) is int and steps > 0 else None


def budget_of(path, options):
    """Return by which option a run got its steps, ``{"steps": N}`` or ``{"hours": H}``, or an empty dict.

    Args:
        path (Path | None): A checkpoint of the run, which goes on.
        options (dict | None): As for :func:`train`; a number of steps among them ends what held before.
    """
    if path is None or value_typed(options, "train_cfg.max_iters") is not None:
        return {}
    found = read_meta(path).get("budget") or {}
    return {k: v for k, v in found.items() if k in ("steps", "hours") and type(v) in (int, float)}


def _find_checkpoint(cfg):
    """Set what a resumed run goes on from, and say what is not as usual."""
    path, problem = newest_whole(cfg.work_dir)
    if path is None:
        say(f"{cfg.work_dir} holds no checkpoint: training starts at step 0")
        return
    cfg.resume, cfg.load_from = True, str(path)
    meta = read_meta(path)
    steps, total = meta.get("iter"), cfg.train_cfg.max_iters
    if path.name != LAST:
        say(f"{problem or f'{cfg.work_dir} holds no {LAST}'}; going on from {path}, step {steps}")
    if isinstance(steps, int) and isinstance(total, int) and steps >= total:
        made = f"all steps are made already ({steps} of {total})"
        say(f"{path}: {made}; nothing is left to train; --overwrite trains anew")
    laid_out = _laid_out(path)
    if laid_out not in (None, total):
        say(
            f"{path}: the run was laid out for {laid_out} steps and goes on to {total}: the learning rate keeps the "
            "schedule of before, and terms begin where they did"
        )
