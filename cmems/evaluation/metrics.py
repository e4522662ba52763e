"""The metrics that a config's evaluators name."""

import math
import os
import statistics
import warnings
from concurrent.futures import ThreadPoolExecutor, wait

import torch
from mmengine.evaluator import BaseMetric

from cmems.errors import InputError
from cmems.evaluation.conventions import get_convention
from cmems.evaluation.scores import score_volume
from cmems.registry import METRICS


class _VolumeMetric(BaseMetric):
    """One score per volume, model and class; its mean over volumes per class, and over classes.

    Args:
        preset (str): Convention for empty masks: ``transunet`` (the paper's), ``ssl4mis``, ``nan`` or ``strict``.
        unit (str | None): ``voxel`` or ``mm``; None is the preset's. Only distances have one.
        collect_device (str): As MMEngine's.

    Attributes:
        cases (list[dict]): Of the last evaluation: ``case``, ``model``, ``cls``, ``value``, ``status``, ``skipped``.
        summary (dict): By model, then class or ``mean``: ``mean``, ``sd`` (over volumes; for ``mean``, of
            the volumes' means over classes) and ``median``, ``volumes``, ``found``, ``missed``, ``false``, ``skipped``.
        convention (dict): ``metric``, ``preset``, ``unit``.
    """

    name = ""

    def __init__(self, preset="transunet", unit=None, collect_device="cpu"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(collect_device=collect_device, prefix=self.name)
        self.prefix = None  # keys already name the model and the metric
        self._convention = get_convention(preset)
        if unit not in (None, "voxel", "mm"):
            raise InputError(f"{self.name}: unit: expected 'voxel' or 'mm', got {unit!r}")
        self.convention = dict(metric=self.name, preset=preset, unit=unit or self._convention.unit)
        self.cases, self.summary = [], {}
        self._threads = None

    def process(self, data_batch, data_samples):
        """Start scoring a batch of volumes; those without a reference give no row.

        Beside a GPU, scores are made while the next volumes are predicted. On a CPU they would take the cores from
        the forwards, whose threads then wait for each other: there each batch is waited for.
        """
        # Threads: numpy and scipy let others run where the time goes, and nothing need be copied to another process.
        self._threads = self._threads or ThreadPoolExecutor(os.cpu_count())
        for sample in data_samples:
            self.results.append(self._threads.submit(self._score, sample))
        if not torch.cuda.is_available():
            wait(self.results)

    def evaluate(self, size):
        """Wait for every score, then compute the metrics as MMEngine does, over all processes."""
        # One result per volume: MMEngine drops what goes beyond the number of volumes, which samplers repeat.
        self.results = [started.result() for started in self.results]
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        return super().evaluate(size)

    def _score(self, sample):
        if sample["label"] is None:
            return []
        classes, key = self.dataset_meta["classes"], self.name.lower()
        spacing = sample["spacing"] if self.convention["unit"] == "mm" else (1.0, 1.0, 1.0)
        rows = score_volume(
            sample["label"], sample["predictions"], len(classes) + 1, spacing, **{key: self._convention}
        )
        return [
            dict(
                case=sample["case"],
                model=row["model"],
                cls=classes[row["cls"] - 1],
                value=row[key],
                status=row["status"],
                skipped=math.isnan(row[key]),
            )
            for row in rows
        ]

    def compute_metrics(self, results):
        """Return ``<model>/<metric>`` and ``<model>/<metric>_<class>``.

        Raises:
            InputError: No volume has a reference.
        """
        if not any(results):
            raise InputError(f"{self.name}: no volume of this split is labelled, so there is nothing to compare with")
        results = [row for volume in results for row in volume]
        self.cases, self.summary, values = results, {}, {}
        classes = list(self.dataset_meta["classes"])
        for model in dict.fromkeys(row["model"] for row in results):
            rows = {c: [r for r in results if r["model"] == model and r["cls"] == c] for c in classes}
            self.summary[model] = {c: _summarise(rows[c]) for c in classes}
            means = [s["mean"] for s in self.summary[model].values()]
            total = _summarise([r for c in classes for r in rows[c]])
            averages = [_mean([r["value"] for r in each]) for each in zip(*rows.values(), strict=True)]
            total.update(_spread(averages), mean=_mean(means), volumes=len(averages))
            self.summary[model]["mean"] = total
            values[f"{model}/{self.name}"] = self.summary[model]["mean"]["mean"]
            values.update({f"{model}/{self.name}_{c}": self.summary[model][c]["mean"] for c in classes})
        return values


def _summarise(rows):
    return dict(
        **_spread([r["value"] for r in rows]),
        volumes=len(rows),
        found=sum(r["status"] == "ok" for r in rows),
        missed=sum(r["status"] == "missed" for r in rows),
        false=sum(r["status"] == "false" for r in rows),
        skipped=sum(r["skipped"] for r in rows),
    )


def _spread(values):
    counted = [v for v in values if not math.isnan(v)] or [math.nan]
    sd = statistics.stdev(counted) if len(counted) > 1 else math.nan
    return dict(mean=sum(counted) / len(counted), sd=sd, median=statistics.median(counted))


def _mean(values):
    return _spread(values)["mean"]


@METRICS.register_module()
class DSC(_VolumeMetric):
    """Dice similarity coefficient per volume, in [0, 1]."""

    name = "DSC"


@METRICS.register_module()
class HD95(_VolumeMetric):
    """95th-percentile Hausdorff distance per volume, in voxels (as the paper) or mm."""

    name = "HD95"


@METRICS.register_module()
class Jaccard(_VolumeMetric):
    """Jaccard index (intersection over union) per volume, in [0, 1]; empty masks score as under DSC."""

    name = "Jaccard"


@METRICS.register_module()
class ASSD(_VolumeMetric):
    """Average symmetric surface distance per volume, in voxels or mm; empty masks score as under HD95."""

    name = "ASSD"
