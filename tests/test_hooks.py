"""The hooks a config names: the table, panels, curves and progress of a run."""

import io
import json
import math
import os
import sys
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from rich.console import Console
from test_visualization import ACDC, fake_metrics, fake_sample, train_rows, write_run

from cmems.apis import train as train_config
from cmems.registry import HOOKS
from cmems.visualization import hooks, metric_table, progress
from cmems.visualization.collapse import collapse_signs
from cmems.visualization.hooks import CollapseHook


def fake_loop(metrics=(), batches=4):
    dataset = SimpleNamespace(metainfo=dict(name="acdc", classes=ACDC))

    class Loader(list):
        pass

    loader = Loader(range(batches))
    loader.dataset = dataset
    return SimpleNamespace(dataloader=loader, evaluator=SimpleNamespace(metrics=list(metrics)))


def fake_runner(work_dir=None, **attributes):
    scalar = SimpleNamespace(current=lambda: 0.4321)
    hub = SimpleNamespace(log_scalars={"train/loss": scalar}, get_scalar=lambda key: scalar)
    runner = SimpleNamespace(
        work_dir=str(work_dir), iter=0, max_iters=100, message_hub=hub, seed=1,
        val_loop=fake_loop(), test_loop=fake_loop(fake_metrics()),
    )  # fmt: skip
    vars(runner).update(attributes)
    return runner


def use_console(monkeypatch, **options):
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, width=120, **options))
    return text


def test_every_hook_is_built_from_its_name_alone():
    for name in ("MetricTableHook", "PanelHook", "CurvesHook", "ProgressHook"):
        assert type(HOOKS.build(dict(type=name))).__name__ == name


def test_a_test_prints_its_table_and_leaves_the_files(tmp_path, monkeypatch):
    text = use_console(monkeypatch)
    HOOKS.build(dict(type="MetricTableHook")).after_test_epoch(fake_runner(tmp_path), {})
    assert metric_table(fake_metrics(), ACDC) in text.getvalue()
    header = json.loads((tmp_path / "metrics.json").read_text())["header"]
    assert (header["dataset"], header["classes"], header["seed"]) == ("acdc", list(ACDC), 1)
    assert (tmp_path / "metrics.csv").is_file()


def test_a_validation_prints_one_line(tmp_path, monkeypatch):
    text = use_console(monkeypatch)
    metrics = {"ensemble/DSC": 0.6124, "ensemble/DSC_RV": 0.55, "ensemble/DSC_Myo": 0.58, "ensemble/DSC_LV": 0.7}
    HOOKS.build(dict(type="MetricTableHook")).after_val_epoch(fake_runner(iter=500), {**metrics, "network_1/DSC": 0.5})
    assert text.getvalue() == "step 500  ensemble DSC 0.612 (RV 0.55 Myo 0.58 LV 0.70)\n"


def test_panels_are_drawn_for_the_first_volumes_only(tmp_path):
    hook = HOOKS.build(dict(type="PanelHook", max_volumes=2))
    hook.before_test(None)
    for k in range(2):
        samples = [dict(fake_sample(), case=f"case{2 * k + i}") for i in range(2)]
        hook.after_test_iter(fake_runner(tmp_path), k, None, samples)
    assert sorted(p.name for p in (tmp_path / "panels").iterdir()) == ["case0.png", "case1.png"]


def test_curves_are_left_in_the_work_directory(tmp_path):
    hook = HOOKS.build(dict(type="CurvesHook"))
    hook.after_train(fake_runner(tmp_path))
    assert not (tmp_path / "curves.png").exists()
    write_run(tmp_path, "20240101_000000", train_rows([10, 20], 1.0))
    hook.after_train(fake_runner(tmp_path))
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_curves_are_drawn_at_most_once_a_minute_while_training_goes_on(tmp_path, monkeypatch):
    now, hook, runner = [1000.0], HOOKS.build(dict(type="CurvesHook")), fake_runner(tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    write_run(tmp_path, "20240101_000000", train_rows([10, 20], 1.0))
    picture, drawn = tmp_path / "curves.png", []
    hook.before_train(runner)
    for seconds in (30, 35, 30, 40, 500):
        now[0] += seconds
        hook.after_val_epoch(runner)
        drawn.append(picture.exists())
        picture.unlink(missing_ok=True)
    assert drawn == [False, True, False, True, True]
    hook.after_train(runner)
    assert picture.exists()


def test_a_training_that_ends_early_leaves_its_curves(tiny_config, tmp_path):
    class Ending(Hook):
        def after_train_iter(self, runner, **kwargs):
            if runner.iter == 2:
                raise KeyboardInterrupt

    HOOKS.register_module(module=Ending, force=True)
    extra = 'default_hooks = dict(logger=dict(interval=1))\ncustom_hooks = [dict(type="Ending")]\n'
    with pytest.raises(KeyboardInterrupt):
        train_config(tiny_config(extra=extra), str(tmp_path / "w"))
    assert (tmp_path / "w" / "curves.png").is_file()


def train(hook, runner, steps):
    hook.before_run(runner)
    hook.before_train(runner)
    for step in range(steps):
        runner.iter = step
        hook.after_train_iter(runner, step)


def test_without_a_terminal_a_long_training_prints_few_lines(monkeypatch):
    text = use_console(monkeypatch, force_terminal=False)
    hook, runner = HOOKS.build(dict(type="ProgressHook")), fake_runner(max_iters=1000)
    train(hook, runner, 1000)
    hook.after_train(runner)
    hook.after_run(runner)
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("train 100/1000")
    assert lines[-1].startswith("train 1000/1000")
    assert "loss 0.4321" in lines[-1]


def test_a_training_that_fails_gives_the_terminal_back_to_the_next_run(monkeypatch):
    text = use_console(monkeypatch, force_terminal=True)
    hook, runner = HOOKS.build(dict(type="ProgressHook")), fake_runner(max_iters=40)
    train(hook, runner, 20)  # ends without after_run
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert text.getvalue().count(hidden) == 1
    assert shown not in text.getvalue()
    hook.before_run(runner)
    assert text.getvalue().count(shown) == 1


def test_a_validation_line_stays_whole_beside_a_live_bar(monkeypatch):
    text = use_console(monkeypatch, force_terminal=True)
    hook, runner = HOOKS.build(dict(type="ProgressHook")), fake_runner(max_iters=40)
    train(hook, runner, 20)
    hook.before_val(runner)
    for k in range(4):
        hook.after_val_iter(runner, k)
    hook.after_val_epoch(runner, {"ensemble/DSC": 0.612})
    progress.say("step 20  ensemble DSC 0.612")
    runner.iter = 39
    hook.after_train_iter(runner, 39)
    hook.after_train(runner)
    hook.after_run(runner)
    assert "step 20  ensemble DSC 0.612\n" in text.getvalue()
    assert "validate" in text.getvalue()
    assert "40/40" in text.getvalue()
    assert "val DSC 0.612" in text.getvalue()


class Terminal(io.TextIOWrapper):
    """A terminal of ASCII, over a pipe that may lose its reader."""

    def __init__(self, descriptor):
        super().__init__(os.fdopen(descriptor, "wb", buffering=0), encoding="ascii")


def test_a_reader_that_leaves_and_letters_that_a_terminal_lacks_end_nothing(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", Terminal(writer))
    progress.say("first … line")
    assert os.read(reader, 100) == b"first ? line\n"
    os.close(reader)
    for _ in range(3):
        progress.say("nobody reads")
    sys.stdout.close()


def test_steps_per_second_do_not_count_the_validation(monkeypatch):
    text, now = use_console(monkeypatch, force_terminal=False), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    hook, runner = HOOKS.build(dict(type="ProgressHook", interval=1)), fake_runner(max_iters=20)
    hook.before_train(runner)
    for step in range(10):
        now[0] += 0.5
        runner.iter = step
        hook.after_train_iter(runner, step)
    hook.before_val(runner)
    now[0] += 15
    hook.after_val_epoch(runner, {})
    now[0], runner.iter = now[0] + 0.5, 10
    hook.after_train_iter(runner, 10)
    now[0], runner.iter = now[0] + 0.5, 11
    hook.after_train_iter(runner, 11)
    assert "train 12/20  2.0/s  0:21 elapsed  0:14 left" in text.getvalue()  # 12 steps in 6 s; 8 more at 21/12 s


def shares(values, key="share_LV", every=10):
    return [{"step": every * (i + 1), key: float(v)} for i, v in enumerate(values)]


def test_a_class_whose_share_falls_for_a_third_of_the_run_is_named_once_it_has():
    steady = [0.02] * 200
    falling = [0.02 - 0.0002 * i for i in range(67)]
    signs = collapse_signs(shares(steady + falling), ["LV"], steps=2000)
    assert "from 1.8 % to 0.9 %" in signs["fading", "LV"] or "fell for a third" in signs["fading", "LV"]
    assert not collapse_signs(shares(steady + falling[:30]), ["LV"], steps=2000)
    assert not collapse_signs(shares(steady), ["LV"], steps=2000)
    wavy = [0.02 + 0.005 * math.sin(i / 7) for i in range(200)]
    assert not collapse_signs(shares(wavy), ["LV"], steps=2000)


def test_a_class_that_is_gone_and_a_threshold_that_does_nothing_are_named():
    gone = collapse_signs(shares([0.01] * 100 + [0.0] * 20), ["LV"], steps=2000)
    assert ("gone", "LV") in gone
    never = collapse_signs(shares([0.0] * 120), ["LV"], steps=2000)
    assert list(never) == [("absent", "LV")]
    assert not collapse_signs(shares([0.0] * 90), ["LV"], steps=2000)  # it has not come yet
    short = collapse_signs(shares([0.01] * 10 + [0.0] * 5), ["LV"], steps=300)
    assert ("gone", "LV") in short
    assert not collapse_signs(shares([0.01] * 10 + [0.0] * 4), ["LV"], steps=300)
    idle = collapse_signs(shares([1.0] * 60, key="share_confident"), ["LV"], steps=500)
    assert "every pixel" in idle["threshold", ""]
    silent = collapse_signs(shares([0.0] * 60, key="share_confident"), ["LV"], steps=500)
    assert "less than 2 %" in silent["threshold", ""]
    assert not collapse_signs(shares([0.0] * 60, key="share_confident"), ["LV"], steps=3000)  # not sure yet


@pytest.mark.parametrize(("threshold", "said"), [(0.8, 1), (0.0, 0)])
def test_a_threshold_that_is_to_keep_every_pixel_is_no_sign(threshold, said, monkeypatch):
    monkeypatch.setattr(hooks, "read_history", lambda folder: shares([1.0] * 60, key="share_confident"))
    lines = []
    runner = SimpleNamespace(
        iter=599, max_iters=600, work_dir="", logger=SimpleNamespace(warning=lines.append),
        model=SimpleNamespace(pseudo_labeler=SimpleNamespace(threshold=threshold, below="background")),
        train_loop=SimpleNamespace(data=SimpleNamespace(prepared=SimpleNamespace(classes=()))),
    )  # fmt: skip
    CollapseHook().after_train_iter(runner, 599)
    assert len(lines) == said
