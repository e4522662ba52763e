"""What training and testing share: the runner, its folder, and what data is known by."""

import hashlib
import inspect
import json
import logging
from pathlib import Path

import torch
from mmengine.logging import print_log

from cmems import ops
from cmems.apis.places import spare_data_set
from cmems.engine.checkpoint import LAST
from cmems.engine.checks import told
from cmems.engine.runner import RECORD, SegmentationRunner
from cmems.errors import InputError
from cmems.locks import LOCK
from cmems.registry import METRICS, RUNNERS


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


def check_seed(seed):
    """Raise InputError for what is no seed; None is one that is drawn."""
    if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 32):
        raise InputError(f"seed: expected an integer from 0 to {(1 << 32) - 1}, got {seed!r}")


def check_work_dir(cfg):
    """Refuse a work directory in which the copy of the config, or more of a run, would replace what is not a run's."""
    folder, name = Path(cfg.work_dir), Path(cfg.filename).name
    own = folder / name
    spare_data_set(folder, "--work-dir ")
    runs = any(Path(folder, each).is_file() for each in (LOCK, LAST, RECORD))
    if own.is_file() and not own.samefile(cfg.filename) and not runs:
        raise InputError(f"--work-dir {folder}: holds another {name}, which no run wrote; name a folder of its own")


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
    seen = [case for case, voxels in scans_of(data, split).items() if isinstance(known, list) and voxels in known]
    if not seen:
        return None
    return f"the training saw these scans, which flatters the scores: {', '.join(seen[:5])}{' …' * (len(seen) > 5)}"


def scans_of(data, split):
    """Return by what the voxels of a split's scans are known, by case; older manifests do not tell."""
    return {case: each for case in data.cases(split) if isinstance(each := data.case(case).get("voxels"), str)}


def as_list(value):
    """Return what may be one section, a list of them or None as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, dict) else list(value)


def with_convention(metrics):
    """Return, of the settings of metrics, those whose metric counts by a convention, its ``preset``.

    Raises:
        InputError: There is none, or a metric is not registered.
    """
    kinds = [(each, kind if callable(kind := each.get("type")) else METRICS.get(kind)) for each in metrics]
    found = [each for each, kind in kinds if "preset" in inspect.signature(kind).parameters]
    if not found:
        raise InputError(
            "--metrics-preset: expected a metric that has a convention, as DSC, in test_evaluator, got none"
        )
    return found
