"""Training in rounds: what one round's networks say of the training scans, cleaned up, labels them for the next."""

import copy
import tempfile
from pathlib import Path

import numpy as np

from cmems.apis.config import load_config
from cmems.apis.labeling import label_training_scans, write_labels
from cmems.apis.launcher import alone, rank_of
from cmems.apis.places import BESIDE, SECOND, default_work_dir, spare_data_set
from cmems.apis.training import TRAINS, budget_of, refuse_other_run, rehearse, train
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import LAST, newest_whole
from cmems.engine.checks import told
from cmems.engine.runner import remove_run
from cmems.errors import InputError
from cmems.registry import MODELS

_FIRST_STEPS = ("seed", "amp", "steps")  # options of a training that its first step knows


def train_rounds(configs, work_dir=None, progress=None, cfg_options=None, **options):
    """Train one config after the other, each from fresh weights, on the masks that the one before made.

    Args:
        configs (sequence[str]): Paths; every config but the first has a source ``static`` (``StaticLabels``), whose
            folder is set here. Or one prepared data set, whose ``config.py`` and ``round2.py`` are meant.
        work_dir (str | None): Round k trains in ``round_<k>`` of it and labels into ``labels_<k>``. Default: that of
            the last config.
        progress (callable | None): Called with (round, rounds, what is done) before each part.
        cfg_options (dict | None): Dotted keys to set in every config.
        **options: Of :func:`cmems.apis.train`; with ``resume`` a round goes on where it was, and masks of its
            weights that are there, and masks mended by hand, are left alone.

    Returns:
        Path: ``last.pth`` of the last round. No round is chosen by validation.

    Raises:
        InputError: There is one round alone; a config after the first has no static labels, does not learn from them,
            or is on data of other classes or cases; or what :func:`cmems.apis.train` raises.
    """
    configs, kept = rounds_of(configs), bool(options.get("resume"))
    loaded = [load_config(config, cfg_options, TRAINS) for config in configs]
    root = Path(work_dir or loaded[-1].get("work_dir") or default_work_dir(configs[-1]))
    spare_data_set(root, "--work-dir ", "the rounds")
    if kept and options.get("steps") is None and options.get("hours") is None:
        options |= budget_of(newest_whole(root / "round_1")[0], cfg_options)  # as the rounds that are not begun
    data = None
    for k, (config, cfg) in enumerate(zip(configs, loaded, strict=True), 1):  # what a later round would end at
        before, data = data, PreparedDataset(cfg.train_dataloader.data_root)
        if before:
            tried = rank_of(options.get("launcher", "none")) or kept and (root / f"round_{k}" / LAST).is_file()
            _check_later(config, cfg, data, before, None if tried else options, cfg_options)
        if not (kept or options.get("overwrite")):
            refuse_other_run(root / f"round_{k}")
            if any((root / f"labels_{k}").glob("*.nii*")):
                raise InputError(
                    f"{root / f'labels_{k}'} holds masks: --resume keeps those mended by hand, --overwrite replaces "
                    "them, --work-dir names another folder"
                )
    with alone(root, options.get("launcher", "none")):  # masks and weights of two would mix
        return _train_in_turn(configs, root, progress, cfg_options, options)


def _train_in_turn(configs, root, progress, cfg_options, options):
    """Train and label round after round, see :func:`train_rounds`."""
    given, kept = cfg_options, bool(options.get("resume"))
    if options.get("overwrite") and rank_of(options.get("launcher", "none")) == 0:
        _clear(configs[0], root, cfg_options, options)
    for k, config in enumerate(configs, 1):
        folder = root / f"round_{k}"
        if progress:
            progress(k, len(configs), f"training {config}")
        train(config, str(folder), cfg_options=given, **options)
        if k < len(configs):
            if progress:
                progress(k, len(configs), "labelling the training scans")
            labels = root / f"labels_{k}"
            label_training_scans(config, str(folder / "last.pth"), str(labels), given, keep=kept)
            given = _with_masks(cfg_options, labels)
    return root / f"round_{len(configs)}" / "last.pth"


def _clear(config, root, given, options):
    """Remove what was made after the first round that will be replaced, once that is known to make its first step."""
    rehearse(config, given, **{k: v for k, v in options.items() if k in _FIRST_STEPS})
    for number, later in rounds_in(root).items():
        if number > 1:
            remove_run(later, keep=root)
    for folder in root.glob("labels_*"):
        if folder.name[7:].isdecimal():  # those of others' naming are others'
            for mask in folder.glob("*.nii*"):
                mask.unlink()


def _check_later(config, cfg, data, before, options, given):
    """Find what the training of a round after the first would end at, by its first step on a mask that stands in.

    Args:
        config (str): Path.
        cfg (Config): As read.
        data, before (PreparedDataset): What it trains on, and what the round before it does.
        options (dict | None): Of :func:`cmems.apis.train`. None: no step is made.
        given (dict | None): Dotted keys to set.
    """
    if (cfg.train_dataloader.get("static") or {}).get("type") != "StaticLabels":
        raise InputError(f"config {config}: expected train_dataloader.static=dict(type='StaticLabels', ...)")
    if data.classes != before.classes:
        numbers = " and ".join(f"{', '.join(each.classes)} in {each.root}" for each in (before, data))
        raise InputError(f"config {config}: expected the classes of the round before, whose masks it reads; {numbers}")
    if not set(data.cases("train")) & set(before.cases("train")):
        raise InputError(f"config {config}: no training case of {data.root} is one of {before.root}, which get masks")
    with told("model"):
        learner = MODELS.build(cfg.model)
    wanted = {source for objective in learner.objectives for source in objective.sources}
    if "static" not in wanted:
        raise InputError(f"config {config}: model.objectives: none learns from static, the masks of the round before")
    if options is None:
        return
    case = next(case for case in data.cases("train") if case in set(before.cases("train")))
    with tempfile.TemporaryDirectory() as folder:
        entry = data.case(case)
        write_labels(Path(folder, f"{case}.nii.gz"), entry, np.zeros(entry["shape"], np.uint8), "cmems stand-in")
        try:
            rehearse(config, _with_masks(given, folder), **{k: v for k, v in options.items() if k in _FIRST_STEPS})
        except InputError as error:
            raise InputError([f"config {config}: {problem}" for problem in error.problems]) from error


def _with_masks(given, folder):
    """Return typed options, as they are but for the folder of masks."""
    given = copy.copy(given or {})  # of its own kind: options as typed stay so
    given["train_dataloader.static.folder"] = str(folder)
    return given


def rounds_in(folder):
    """Return the folders of the rounds in a work directory, by number."""
    found = {path.name[6:]: path for path in Path(folder).glob("round_*")}
    return {int(number): found[number] for number in sorted(filter(str.isdecimal, found), key=int)}


def rounds_of(configs):
    """Return the config of each round of what :func:`train_rounds` takes.

    Raises:
        InputError: There is one round alone.
    """
    if len(configs) > 1:
        return list(configs)
    found = [str(Path(configs[0], name)) for name in (BESIDE, SECOND)]
    if not all(Path(path).is_file() for path in found):
        raise InputError(
            f"{configs[0]}: one round is `cmems train`; expected the config of each round, or a data set with "
            f"{BESIDE} and {SECOND}, as `cmems prepare` leaves it"
        )
    return found
