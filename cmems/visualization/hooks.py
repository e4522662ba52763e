"""What a run shows and leaves for people: the metric table, panels, curves. Each works from its config line alone."""

import time
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook

from cmems.datasets.prepared import file_sha256
from cmems.registry import HOOKS
from cmems.visualization.collapse import collapse_signs
from cmems.visualization.curves import plot_curves, read_history
from cmems.visualization.panels import FILL, contact_sheet, panel, write_png
from cmems.visualization.progress import say
from cmems.visualization.tables import BEST_FIRST, metric_table, model_label, write_metrics

EXEMPLARS = "exemplars.png"


@HOOKS.register_module()
class MetricTableHook(Hook):
    """Prints a test's table and writes ``metrics.json``, ``metrics.csv`` and ``metrics_summary.csv``.

    A validation gets one line.

    Args:
        out (str | None): Folder of the files. Default: the work directory.
        show (bool): Print.
    """

    priority = "LOW"

    def __init__(self, out=None, show=True):
        self.out, self.show, self._weights = out, show, None

    @master_only
    def after_val_epoch(self, runner, metrics=None):
        """Print one line."""
        line = validation_line(metrics or {}, _classes(runner.val_loop), _step(runner))
        if self.show and line:
            say(line)

    def before_test(self, runner):
        """Remember what the weights' file is known by."""
        checkpoint = getattr(runner, "_load_from", None)
        self._weights = checkpoint and file_sha256(checkpoint)

    @master_only
    def after_test_epoch(self, runner, metrics=None):
        """Print the table and write the files."""
        classes = _classes(runner.test_loop)
        known = runner.test_loop.evaluator.metrics
        if self.show:
            say(metric_table(known, classes))
        checkpoint = getattr(runner, "_load_from", None)
        meta = _meta(runner.test_loop)
        header = dict(
            dataset=meta.get("name"),
            classes=list(classes),
            references=meta.get("references"),
            spacings=meta.get("spacings"),
            experiment=getattr(runner, "experiment_name", None),
            checkpoint=None if checkpoint is None else Path(checkpoint).name,
            weights=self._weights,
            seed=getattr(runner, "seed", None),
        )
        files = write_metrics(Path(self.out or runner.work_dir, "metrics"), known, header, metrics)
        if self.show:
            say(f"{self.out or runner.work_dir}: {', '.join(file.name for file in files)}")


@HOOKS.register_module()
class PanelHook(Hook):
    """Draws ``CASE.png`` of the first test volumes: image, reference, every network, ensemble.

    Args:
        out_dir (str | None): Folder. Default: ``panels`` in the work directory.
        max_volumes (int): How many volumes.
        fill (float): Opacity inside the outlines; 0: outlines alone.
    """

    priority = "LOW"

    def __init__(self, out_dir=None, max_volumes=8, fill=FILL):
        self.out_dir, self.max_volumes, self.fill = out_dir, max_volumes, fill
        self._drawn = 0

    def before_test(self, runner):
        """Count anew."""
        self._drawn = 0

    @master_only
    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Draw what the batch brought."""
        for sample in list(outputs or [])[: self.max_volumes - self._drawn]:
            folder = Path(self.out_dir or Path(runner.work_dir, "panels"))
            write_png(
                folder / f"{sample['case']}.png", panel(sample, classes=_classes(runner.test_loop), fill=self.fill)
            )
            self._drawn += 1


@HOOKS.register_module()
class ExemplarsHook(Hook):
    """Draws ``exemplars.png`` before training: the labelled slices, and those that their labels were carried to."""

    priority = "LOW"

    @master_only
    def before_train(self, runner):
        """Draw."""
        data = runner.train_loop.data
        if data.exemplars is None:
            return
        bounds = [(case, data.prepared.rows(case)) for case in data.prepared.cases("train")]
        tiles, carried = [], []
        for row, image, label in zip(data.exemplar_rows, *(each.cpu().numpy() for each in data.exemplars), strict=True):
            case, rows = next((case, rows) for case, rows in bounds if row in rows)
            if len(tiles) < data.given:
                what = "labelled"
            else:
                what = f"carried; {(label == 255).mean():.0%} unknown"
                carried.append(case)
            captions = [case, f"slice {row - rows.start} of 0 to {len(rows) - 1}; {what}"]
            tiles.append(dict(image=image[0], label=label, spacing=(1.0, 1.0, 1.0), captions=captions))
        sheet = write_png(Path(runner.work_dir, EXEMPLARS), contact_sheet(tiles))
        lines = []
        if carried:
            lines.append(f"labels carried to {len(carried)} slices of {len(set(carried))} scans: see {sheet}")
        if data.turns is not None:
            turns = ", ".join(f"{turn:.0f}°" for turn in data.turns[: data.given].rad2deg().tolist())
            lines.append(f"turned in Ω to lie as the other scans do: the labelled slice by {turns}, clockwise")
        for line in lines:
            runner.logger.info(line)
            say(line)


@HOOKS.register_module()
class CurvesHook(Hook):
    """Keeps ``curves.png`` in the work directory up to date: after validations, and at the end of training.

    It runs after MMEngine's LoggerHook, which writes what is drawn; that hook needs ``log_metric_by_epoch=False`` for
    validations to be logged by step.
    """

    priority = "LOW"
    STANDS = 60  # seconds at least that a picture stands while training goes on: drawing takes half of one

    def __init__(self):
        self._drawn = None

    def before_train(self, runner):
        """Begin to count."""
        self._drawn = time.monotonic()

    def after_val_epoch(self, runner, metrics=None):
        """Draw, unless less than a minute of training went by since."""
        if self._drawn is None or time.monotonic() - self._drawn >= self.STANDS:
            self._draw(runner)

    def after_train(self, runner):
        """Draw."""
        self._draw(runner)

    @master_only
    def _draw(self, runner):
        history = read_history(runner.work_dir)
        if history:
            plot_curves(history, Path(runner.work_dir, "curves.png"))
        self._drawn = time.monotonic()


@HOOKS.register_module()
class CollapseHook(Hook):
    """Warns, once each, of signs that networks give a class up, with the likely cause.

    It looks sixty times a run at what was logged, earlier runs of the same folder included.
    """

    priority = "LOW"

    def __init__(self):
        self._said = set()

    @master_only
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look at the log where it is time."""
        if (runner.iter + 1) % max(1, runner.max_iters // 60):
            return
        classes = runner.train_loop.data.prepared.classes
        signs = collapse_signs(read_history(runner.work_dir), classes, runner.max_iters)
        labeler = getattr(getattr(runner.model, "module", runner.model), "pseudo_labeler", None)
        if getattr(labeler, "threshold", None) == 0:  # which is to keep every pixel
            signs.pop(("threshold", ""), None)
        for key in [key for key in signs if key not in self._said]:
            self._said.add(key)
            runner.logger.warning(f"step {runner.iter + 1}: {signs[key]}{_likely_cause(labeler, key[0])}")


def _likely_cause(labeler, kind):
    """Return what the settings of a pseudo-labeller suggest, as the end of a sentence."""
    if kind != "threshold" and getattr(labeler, "below", None) == "background" and labeler.threshold > 0:
        return "; pixels below the threshold become background (pseudo_labeler.below): 'ignore' leaves them out"
    if kind == "threshold":
        return f" (pseudo_labeler.threshold is {getattr(labeler, 'threshold', 'unknown')})"
    return "; what makes classes fade: the page Accuracy of the documentation"


def validation_line(metrics, classes, step=None):
    """Return a validation in one line, or "" where there is no DSC.

    Args:
        metrics (dict): What the evaluator returned.
        classes (sequence[str]): Foreground classes.
        step (int | None): Training steps done.
    """
    model = next((m for m in BEST_FIRST if f"{m}/DSC" in metrics), None)
    if model is None:
        return ""
    each = " ".join(f"{c} {metrics[f'{model}/DSC_{c}']:.2f}" for c in classes if f"{model}/DSC_{c}" in metrics)
    start = "" if step is None else f"step {step}  "
    line = f"{start}{model_label(model)} DSC {metrics[f'{model}/DSC']:.3f}"
    return f"{line} ({each})" if each else line


def _step(runner):
    """Return the steps done, or None outside training; MMEngine's ``runner.iter`` would build the train loop."""
    return getattr(getattr(runner, "_train_loop", runner), "iter", None)


def _meta(loop):
    metas = [getattr(loop.dataloader.dataset, "metainfo", None)]
    metas += [getattr(metric, "dataset_meta", None) for metric in loop.evaluator.metrics]
    return next((meta for meta in metas if meta), {})


def _classes(loop):
    return tuple(_meta(loop).get("classes", ()))
