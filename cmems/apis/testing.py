"""Testing a config's checkpoint."""

import json
from contextlib import ExitStack
from pathlib import Path

from cmems.apis.config import load_config
from cmems.apis.places import spare_data_set
from cmems.apis.runs import as_list, build_runner, check_seed, check_work_dir, trained_on, with_convention
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.engine.settings import check_networks
from cmems.errors import InputError
from cmems.files import naming
from cmems.locks import folder_lock
from cmems.visualization import say
from cmems.visualization.panels import check_pictures

TESTS = ("model", "test_dataloader.dataset.data_root", "test_dataloader.dataset.split", "test_evaluator", "test_cfg")


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
    cfg, saved = load_config(config, cfg_options, TESTS, trains=False), read_checkpoint(checkpoint)
    if split:
        cfg.test_dataloader.dataset.split = split
    split = cfg.test_dataloader.dataset.split
    cfg.work_dir = work_dir or str(Path(checkpoint).resolve().parent / f"test_{split}")
    check_work_dir(cfg)
    for option, folder in (("--out ", out), ("--show-dir ", show_dir)):
        if folder:
            spare_data_set(folder, option, "what is measured")
    if preset:
        for metric in with_convention(as_list(cfg.test_evaluator)):
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
        tables, name = Path(out or cfg.work_dir), Path(checkpoint).name
        if (other := _tested(tables)) not in (None, name):
            say(f"{tables}: its tables are of {other}, and those of {name} replace them; --out FOLDER keeps both")
        return build_runner(cfg).test()


def _tested(folder):
    """Return the name of the checkpoint that a folder's tables are of, or None."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["header"]["checkpoint"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
