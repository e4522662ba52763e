"""The documentation: its example trains, every method has a page, and what its pages name is there."""

import ast
import graphlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmems.apis import load_config
from cmems.cli import main
from cmems.registry import METRICS, MODELS

TINY = ("--cfg-options", "model.backbone.channels=(4,4,8,8,8)")
REPO = Path(__file__).parents[1]
PAGES = sorted((REPO / "docs" / "methods").glob("*.md")) + [REPO / "docs" / "traps.md", REPO / "docs" / "own_method.md"]
METHODS = sorted(p.stem for p in (REPO / "configs" / "_base_" / "methods").glob("*.py"))


def embedded(text):
    return re.findall(r'^--8<-- "(.+)"$', text, flags=re.MULTILINE)


def test_the_objective_of_the_documentation_trains(tiny_config, tmp_path):
    example = (REPO / "docs/examples/my_config.py").read_text()
    lines = [line for line in example.splitlines() if not line.startswith("_base_")]
    tail = "val_dataloader = val_cfg = val_evaluator = None\n"
    log = "default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1))\n"
    config = Path(tiny_config("unet/unet_acdc.py", extra=tail + log))
    objectives = "\n".join(lines).replace("model = dict(", "model.update(")
    config.write_text(config.read_text() + objectives + "\n")
    work = tmp_path / "w"
    command = ["tools/train.py", config, "--work-dir", work, "--cfg-options", "train_cfg.max_iters=2"]
    path = os.pathsep.join([str(REPO / "docs/examples"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert torch.load(work / "last.pth", weights_only=True)["meta"]["iter"] == 2
    assert "loss_entropy" in next(work.glob("*/vis_data/scalars.json")).read_text()


def test_the_network_of_the_documentation_learns_beside_the_unet():
    cfg = load_config(REPO / "docs/examples/my_network_config.py")
    learner = MODELS.build(cfg.model)
    assert [type(network).__name__ for network in learner.networks] == ["UNet", "SmallNet"]
    network, images = learner.networks[1], torch.rand(2, 1, 32, 48)
    assert network(images).shape == (2, 4, 32, 48)
    features = network.encode(images)
    assert tuple(f.shape[1] for f in features) == network.feature_channels
    levels = network.decode_levels(features)
    assert tuple(level.shape[1] for level in levels) == network.level_channels
    assert levels[0] is features[-1]


def test_the_units_of_the_documentation_are_what_its_example_prints():
    done = subprocess.run(
        [sys.executable, "docs/examples/hd95_units.py"],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.stdout.strip() in (REPO / "docs/traps.md").read_text()
    assert "DSC" in done.stdout


def test_the_metric_of_the_documentation_tells_what_a_class_is_taken_for(monkeypatch, capsys):
    monkeypatch.syspath_prepend(REPO / "docs/examples")
    metric = importlib.import_module("confusion").Confusion()
    metric.dataset_meta = dict(classes=["A", "B"])
    label = np.array([[[1, 1, 1, 1], [2, 2, 0, 0]]], dtype=np.uint8)
    found = np.array([[[1, 2, 2, 0], [2, 2, 1, 0]]], dtype=np.uint8)
    samples = [dict(label=label, predictions=dict(ensemble=p)) for p in (found, label)]
    samples += [dict(label=known, predictions=dict(ensemble=found)) for known in (None, np.full_like(label, 255))]
    metric.process(None, samples)
    assert len(metric.results) == len(samples)
    shares = metric.evaluate(len(samples))
    assert shares["confusion/ensemble/A_as_B"] == 2 / 8
    assert shares["confusion/ensemble/A_as_background"] == 1 / 8
    assert shares["confusion/ensemble/B_as_B"] == 1
    assert "ensemble, A is taken for: background 0.12, A 0.62, B 0.25" in capsys.readouterr().out
    metric = METRICS.build(load_config(REPO / "docs/examples/confusion_config.py").test_evaluator[1])
    assert type(metric).__name__ == "Confusion"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page_that_embeds_its_config(method):
    shown = [name for page in PAGES for name in embedded(page.read_text())]
    assert f"configs/_base_/methods/{method}.py" in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_page_embeds_or_names_is_there(page):
    text = page.read_text()
    named = embedded(text) + re.findall(r"\b(?:configs|tools|benchmarks|docs)/[\w/]+\.py\b", text)
    named += re.findall(r"`(configs/\w+)`", text)
    assert not [name for name in named if not (REPO / name).exists()]


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    """Its cells in order, in this process: a line that begins with ! is a command; only its size is a test's."""
    cells = json.loads((REPO / "docs/examples/one_slice.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sources[0].startswith("STEPS = 600")
    sources[0] = "STEPS, PATIENTS = 1, 2"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names = {}
    for source in sources:
        if source.startswith("!"):
            words = [str(names.get(word.removeprefix("$"), word)) for word in shlex.split(source.removeprefix("!"))]
            monkeypatch.setattr("sys.argv", words + [*TINY] * (words[1] in ("train", "predict")))
            main()
        else:
            exec(source, names)
    masks, scans = ({p.name for p in Path(folder).glob("*.nii.gz")} for folder in ("masks", "own/images"))
    assert masks == scans
    assert len(scans) >= 4
    assert "LV: Dice" in capsys.readouterr().out


def test_getting_started_and_the_notebook_are_the_same_commands():
    page = (REPO / "docs/getting_started.md").read_text(encoding="utf-8")
    cells = json.loads((REPO / "docs/examples/one_slice.ipynb").read_text(encoding="utf-8"))["cells"]
    commands = [line.removeprefix("!") for cell in cells for line in "".join(cell["source"]).splitlines()]
    commands = [line for line in commands if line.startswith("cmems ")]
    assert len(commands) == 5
    for line in commands:
        assert line.replace("$PATIENTS", "12").replace("$STEPS", "600") in page


def test_rooms_import_one_way_and_only_the_commands_import_what_compares():
    rooms = {}
    for path in (REPO / "cmems").rglob("*.py"):
        room = path.relative_to(REPO / "cmems").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cmems."):
                rooms.setdefault(room, set()).add(node.module.split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "cmems":
                rooms.setdefault(room, set()).update(name.name for name in node.names)
    others = {room: found - {room} for room, found in rooms.items() if room != "__init__"}
    list(graphlib.TopologicalSorter(others).static_order())  # CycleError names the circle
    assert [room for room, found in others.items() if "comparison" in found] == ["cli"]
