"""Training in rounds: what one round's networks say of the training scans, cleaned up, labels them for the next."""

import copy
from pathlib import Path

from cmems.apis.config import load_config
from cmems.apis.places import BESIDE, SECOND, default_work_dir
from cmems.apis.predict import label_training_scans
from cmems.apis.run import refuse_other_run, train
from cmems.datasets.prepared import PreparedDataset
from cmems.errors import InputError


def train_rounds(configs, work_dir=None, progress=None, cfg_options=None, **options):
    """Train one config after the other, each from fresh weights, on the masks that the one before made.

    Args:
        configs (sequence[str]): Paths; every config but the first has a source ``static`` (``StaticLabels``), whose
            folder is set here. Or one prepared data set, whose ``config.py`` and ``round2.py`` are meant.
        work_dir (str | None): Round k trains in ``round_<k>`` of it and labels into ``labels_<k>``. Default: that of
            the last config.
        progress (callable | None): Called with (round, rounds, what is done) before each part.
        cfg_options (dict | None): Dotted keys to set in every config.
        **options: Of :func:`cmems.apis.train`; with ``resume`` a round goes on where it was, and masks that are there,
            mended by hand perhaps, are left alone.

    Returns:
        Path: ``last.pth`` of the last round. No round is chosen by validation.

    Raises:
        InputError: There is one round alone, a config after the first has no static labels, or what
            :func:`cmems.apis.train` raises.
    """
    configs = rounds_of(configs)
    loaded = [load_config(config, cfg_options, ["train_dataloader.data_root"]) for config in configs]
    for config, cfg in list(zip(configs, loaded, strict=True))[1:]:
        static = cfg.train_dataloader.get("static")
        if not static or static.get("type") != "StaticLabels":
            raise InputError(f"config {config}: expected train_dataloader.static=dict(type='StaticLabels', ...)")
    root = Path(work_dir or loaded[-1].get("work_dir") or default_work_dir(configs[-1]))
    for k, cfg in enumerate(loaded, 1):  # what a later round would end at, before the first
        PreparedDataset(cfg.train_dataloader.data_root)
        if not (options.get("resume") or options.get("overwrite")):
            refuse_other_run(root / f"round_{k}")
    given = cfg_options
    for k, config in enumerate(configs, 1):
        folder = root / f"round_{k}"
        if progress:
            progress(k, len(configs), f"training {config}")
        train(config, str(folder), cfg_options=given, **options)
        if k < len(configs):
            if progress:
                progress(k, len(configs), "labelling the training scans")
            labels = root / f"labels_{k}"
            if not (options.get("resume") and _labelled(labels, loaded[k - 1], folder / "last.pth")):
                label_training_scans(config, str(folder / "last.pth"), str(labels), given)
            given = copy.copy(cfg_options or {})  # of its own kind: options as typed stay so
            given["train_dataloader.static.folder"] = str(labels)
    return root / f"round_{len(configs)}" / "last.pth"


def _labelled(folder, cfg, checkpoint):
    """Return whether every training scan has its mask already, made, or mended by hand, after the round's weights."""
    cases = PreparedDataset(cfg.train_dataloader.data_root).cases("train")
    masks = [Path(folder, f"{case}.nii.gz") for case in cases]
    return all(mask.is_file() and mask.stat().st_mtime >= checkpoint.stat().st_mtime for mask in masks)


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
