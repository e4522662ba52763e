"""Comparing configs: what suites name, and what their runs leave, however they end."""

import copy
import csv
import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tool, unlabel
from scipy.stats import bootstrap, wilcoxon

from cmems.apis import load_config, train
from cmems.apis import test as evaluate
from cmems.apis.starter import Anatomy, write_config
from cmems.comparison.changes import components
from cmems.comparison.compare import compare, execute
from cmems.comparison.compare import report as report_of
from cmems.comparison.entries import gather
from cmems.comparison.paired import case_means, compare_scores, paired
from cmems.comparison.plan import plan_own, plan_runs
from cmems.comparison.report import write_report
from cmems.comparison.rows import EXEMPLARS, Row, exemplar_slice
from cmems.comparison.suites import SUITES, get_suite
from cmems.datasets.prepared import PreparedDataset
from cmems.errors import InputError
from cmems.launching import run_command

REPO = Path(__file__).parents[1]
DATASETS = ("acdc", "synapse", "acdc_128", "synapse_128", "phantom_cardiac", "phantom_abdomen")
E, S = dict(type="Supervised", source="exemplar"), dict(type="Supervised", source="synthetic")


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch):
    monkeypatch.chdir(REPO)


def quiet(*arguments, **options):
    lines = []
    return compare(*arguments, say=lines.append, **options), lines


def test_suites_and_their_rows_are_listed():
    shown = tool("compare", "--list")
    assert shown.returncode == 0
    for name in SUITES:
        assert name in shown.stdout
    rows = tool("compare", "ablation_components", "--list", "--datasets", "phantom_cardiac")
    assert "E + SD + CM + IP + FP" in rows.stdout
    assert "configs/cmems/unet_phantom_cardiac.py" in rows.stdout
    unknown = tool("compare", "paper_table3")
    assert unknown.returncode == 2
    assert (
        unknown.stderr
        == "error: paper_table3: no such file or folder; expected a suite: a .py file or one of paper_table2\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        *SUITES,
        "docs/examples/budget.py",
        "docs/examples/cps_to_cmems.py",
        "docs/examples/equal_steps.py",
        "docs/examples/fading.py",
    ],
)
def test_every_row_whose_config_is_there_resolves_and_its_file_says_the_same(name, tmp_path):
    suite, resolved = get_suite(name), 0
    for dataset in dict(ablation_components=DATASETS, methods=("acdc", "phantom_abdomen")).get(name, ("acdc",)):
        rows = tuple(r for r in suite.rows if Path(r.config.format(dataset=dataset)).is_file())
        if not rows:
            continue
        bases = {p: load_config(p) for p in {r.config.format(dataset=dataset) for r in rows}}
        there = get_suite(dict(name=name, rows=rows))
        for entry in plan_runs(there, [dataset], [0], ["A", "B"][: 1 + (dataset in EXEMPLARS)], tmp_path, steps=7):
            run, row = entry["runs"][-1], entry["row"]
            (tmp_path / "one.py").write_text(run["config"])
            written, base = load_config(tmp_path / "one.py"), copy.deepcopy(bases[run["base"]])
            options = dict(row.options(base) if callable(row.options) else row.options)
            options["train_cfg.max_iters"] = 7
            if run["exemplar"] == "B":
                options["train_dataloader.exemplar_slice"] = exemplar_slice("B", dataset)
            base.merge_from_dict(options)
            assert written._cfg_dict.to_dict() == base._cfg_dict.to_dict(), run["config"]
            resolved += 1
    assert resolved


def test_the_eight_rows_of_table_3_are_these_objectives():
    def consistency(student, teacher, weight):
        return dict(type="Consistency", student=student, teacher=teacher, weight=weight)

    expected = {
        "E": (1, [E]),
        "E + SD": (1, [E, S]),
        "E + CM": (2, [E, consistency("weak", "cross", 0.1)]),
        "E + IP": (1, [E, consistency("strong", "self", 0.1)]),
        "E + SD + CM": (2, [E, S, consistency("weak", "cross", 0.1)]),
        "E + SD + IP": (1, [E, S, consistency("strong", "self", 0.1)]),
        "E + SD + CM + IP": (2, [E, S, consistency("strong", "cross", 0.1)]),
        "E + SD + CM + IP + FP": (
            2,
            [E, S, consistency("strong", "cross", 0.1), consistency("feature", "cross", 0.09)],
        ),
    }
    base = load_config("configs/cmems/unet_synapse.py")
    rows = SUITES["ablation_components"].rows
    assert [r.label for r in rows] == list(expected)
    for row in rows:
        networks, objectives = expected[row.label]
        assert row.options(base) == {"model.num_networks": networks, "model.objectives": objectives}
    assert rows[5].paper["acdc"]["DSC"]["mean"] == 0.670
    assert rows[6].paper["synapse"]["HD95"]["mean"] == 101.93
    assert components(1, 1, 1, 1)(base)["model.objectives"] == base._cfg_dict.to_dict()["model"]["objectives"]


def test_rows_that_say_the_same_are_one_run():
    def folder(suite, label):
        rows = [r for r in SUITES[suite].rows if r.label == label]
        return plan_runs(get_suite(dict(name="x", rows=rows)), ["acdc"], [0], ["A"], "w")[0]["runs"][0]["folder"]

    whole = folder("paper_table2", "CMEMS")
    assert whole.startswith("w/runs/acdc/cmems-")
    assert whole.endswith("/A-seed0")
    for suite, label in (
        ("ablation_components", "E + SD + CM + IP + FP"),
        ("figure3", "λ_cmip = 1"),
        ("figure4", "τ = 0.8"),
        ("ablation_strong", "jitter"),
    ):
        assert folder(suite, label) == whole
    assert folder("figure4", "τ = 0.95") != whole


def test_rows_that_differ_in_whatever_a_training_reads_are_two_runs():
    changes = (
        {},
        {"env_cfg.compiled_kernels": False},
        {"val_evaluator.0.preset": "nan"},
        {"efficient_conv_bn_eval": ["networks.0"]},
        {"find_unused_parameters": True},
    )
    rows = [
        dict(label=str(k), config="configs/cmems/unet_{dataset}.py", options=each) for k, each in enumerate(changes)
    ]
    plan = plan_runs(get_suite(dict(name="x", rows=rows)), ["acdc"], [0], ["A"], "w")
    assert len({entry["runs"][0]["folder"] for entry in plan}) == len(changes)


def test_a_row_replaces_settings_that_are_kept_by_label(tmp_path):
    drop = {"train_dataloader.synthetic.synthesizer.drop": {"_delete_": True, 1: 0.5}}
    rows = [dict(label="drop", config="configs/cmems_plus/unet_{dataset}.py", options=drop)]
    plan = plan_runs(get_suite(dict(name="x", rows=rows)), ["phantom_cardiac"], [0], ["A"], "w")
    (tmp_path / "written.py").write_text(plan[0]["runs"][0]["config"])
    assert load_config(tmp_path / "written.py").train_dataloader.synthetic.synthesizer.drop == {1: 0.5}


def leaves(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if pairs is None:
        return {path: value}
    return {k: v for name, each in pairs for k, v in leaves(each, (*path, name)).items()}


@pytest.mark.parametrize("method", ["FixMatch", "CPS", "UniMatch"])
def test_each_part_of_cmems_plus_is_added_to_another_method_by_itself(method):
    rows = [row for row in SUITES["plus_parts"].rows if row.label.startswith(method)]
    entries = plan_runs(get_suite(dict(name="x", rows=rows)), ["acdc_cpu"], [0], ["A"], "w")
    configs = []
    for entry in entries:
        config = load_config("configs/cmems_plus/unet_acdc_cpu.py")
        config.merge_from_dict(entry["row"].options(config))
        config.model.prediction.pop("views")  # all eight, where hearts lie any way up
        configs.append(leaves(config._cfg_dict.to_dict()))
    bare, *parts, whole = configs
    missing = {path for path, value in whole.items() if bare.get(path, value) != value or path not in bare}
    added = [{path for path in whole if path not in bare or part.get(path) != bare[path]} & {*part} for part in parts]
    assert all(added)
    assert len(parts) == 7
    assert sum(map(len, added)) == len(set().union(*added))  # no two share a place
    assert set().union(*added) == missing
    for part, places in zip(parts, added, strict=True):
        assert all(part[path] == whole[path] for path in places)
    everything = next(row for row in SUITES["plus_methods"].rows if row.label.startswith(method))
    plan = plan_runs(get_suite(dict(name="x", rows=[everything])), ["acdc_cpu"], [0], ["A"], "w")
    assert plan[0]["runs"][0]["folder"] == entries[-1]["runs"][0]["folder"]


def test_rows_that_begin_with_other_weights_are_other_runs(tiny_config, tmp_path):
    def folders():
        rows = [dict(label=n, config=tiny_config(), options={"load_from": str(tmp_path / n)}) for n in "ab"]
        rows.append(dict(label="none", config=tiny_config()))
        return [e["runs"][0]["folder"] for e in plan_runs(get_suite(dict(name="x", rows=rows)), ["x"], [0], ["A"], "w")]

    for name in "ab":
        (tmp_path / name).write_text(name)
    before = folders()
    (tmp_path / "b").write_text("c")
    assert len(set(before)) == 3
    assert [old == new for old, new in zip(before, folders(), strict=True)] == [True, False, True]


def seeded(config):
    config.randomness = dict(seed=7)
    return {}


ROW_MISTAKES = {
    "seed": ({"randomness.seed": 7}, "randomness.seed: no row sets it; cmems compare --seeds does, for all"),
    "seed in a section": ({"randomness": dict(seed=7)}, "randomness.seed: no row sets it; cmems compare --seeds does"),
    "seed in place": (seeded, "randomness.seed: no row sets it; cmems compare --seeds does, for all"),
    "folder": ({"work_dir": "w"}, "work_dir: no row sets it; cmems compare --work-dir does, for all"),
    "misspelt": ({"modle.x": 1}, "modle.x: the config has no 'modle'"),
    "kind": ({"train_cfg.max_iters": "many"}, "train_cfg.max_iters: expected "),
    "no plain value": (
        {"load_from": object},
        "load_from: expected plain values, which a file holds; got <class 'object'>",
    ),
    "infinite": ({"optim_wrapper.optimizer.lr": math.inf}, "optim_wrapper.optimizer.lr: expected plain values"),
    "slices": (
        {"train_dataloader.exemplar_slices": [3]},
        "train_dataloader.exemplar_slices: expected a list of dict(case=..., slice=...), got [3]",
    ),
}


def test_numbers_of_numpy_and_paths_are_written_as_a_config_holds_them(tiny_config, tmp_path):
    options = {
        "model.pseudo_labeler.threshold": np.float32(0.5),
        "load_from": Path("w") / "last.pth",
        "model.strong": dict(_delete_=True, type="GaussianNoise", sigma=tuple(np.linspace(0.0, 0.25, 2))),
    }
    suite = get_suite(dict(name="x", rows=[dict(label="a", config=tiny_config(), options=options)]))
    (entry,) = plan_runs(suite, ["x"], [0], ["A"], tmp_path)
    (tmp_path / "c.py").write_text(entry["runs"][0]["config"])
    made = load_config(tmp_path / "c.py")
    assert made.model.pseudo_labeler.threshold == 0.5
    assert made.load_from == str(Path("w") / "last.pth")
    assert tuple(made.model.strong.sigma) == (0.0, 0.25)


@pytest.mark.parametrize("missing", ["test_dataloader", "train_dataloader", "model"])
def test_a_config_that_a_run_cannot_be_made_of_is_named(missing, tiny_config):
    config = tiny_config(extra=f"{missing} = None\n")
    suite = get_suite(dict(name="x", rows=[dict(label="a", config=config)]))
    with pytest.raises(InputError, match=rf"{missing}.* is not set"):
        plan_runs(suite, ["x"], [0], ["A"], "w")
    suite = get_suite(dict(name="x", rows=[dict(label="a", config=tiny_config(), options={missing: None})]))
    with pytest.raises(InputError, match=rf"row a: .*{missing}"):
        plan_runs(suite, ["x"], [0], ["A"], "w")


@pytest.mark.parametrize("mistake", ROW_MISTAKES)
def test_a_mistake_in_a_rows_options_names_the_row(mistake, tiny_config):
    options, expected = ROW_MISTAKES[mistake]
    suite = get_suite(dict(name="x", rows=[dict(label="a", config=tiny_config(), options=options)]))
    with pytest.raises(InputError) as caught:
        plan_runs(suite, ["x"], [0], ["A"], "w")
    assert str(caught.value).startswith(f"row a: {expected}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        dict(exemplar_slices=[dict(case="patient001_frame02", slice=1)]),
        dict(labeled_cases=["patient001_frame02"]),
        dict(exemplar_slices=None),
    ],
)
@pytest.mark.parametrize("by_row", [True, False])
def test_an_exemplar_that_is_named_is_all_that_is_labelled(more, by_row, tiny_config, tmp_path):
    dotted = {f"train_dataloader.{key}": value for key, value in more.items()}
    extra = "" if by_row else f"train_dataloader.update({more!r})\n"
    row = dict(label="a", config=tiny_config(extra=extra), options=dotted if by_row else {})
    suite = get_suite(dict(name="x", rows=[row]))
    names = ["A", "patient002_frame01:1", *["patient001_frame01:1"] * any(more.values())]
    runs = plan_runs(suite, ["x"], [0], names, "w")[0]["runs"]  # A is no slice alone
    assert len({run["folder"] for run in runs}) == len(names)
    for run, learns in zip(runs, ({}, *[dict(exemplar_slices=[], labeled_cases=[])] * 2), strict=False):
        assert run["unfit"] == []
        (tmp_path / "one.py").write_text(run["config"])
        read = load_config(tmp_path / "one.py").train_dataloader
        assert all((read.get(key) or []) == (learns or more).get(key, []) for key in more if more[key])
    if not any(more.values()):
        with pytest.raises(InputError, match="got A and patient001_frame01:1, which are the same slice"):
            plan_runs(suite, ["x"], [0], ["A", "patient001_frame01:1"], "w")


def test_missing_configs_are_listed_before_anything_runs(tmp_path):
    suite = tmp_path / "mine.py"
    suite.write_text(
        'rows = [dict(label=n, config=f"configs/{n}/unet_{{dataset}}.py") for n in ("unet", "nowhere", "neither")]\n'
    )
    done = tool("compare", suite, "--datasets", "acdc", "--work-dir", tmp_path / "w")
    assert done.returncode == 2
    assert done.stderr == (
        "error: suite mine: 2 config(s) missing: configs/nowhere/unet_acdc.py, configs/neither/unet_acdc.py\n"
    )
    assert not (tmp_path / "w").exists()


SUITE_MISTAKES = {
    "label": ("label=3", "rows[0]: label: expected a text, got 3"),
    "no path": ("config=3", "rows[0]: config: expected a config's path, with no braces but {dataset}, got 3"),
    "braces": ("config='configs/{data}.py'", "but {dataset}, got 'configs/{data}.py'"),
    "options": ("options=5", "rows[0]: options: expected a dict of dotted keys, or a function that returns one, got 5"),
    "figures": ("paper=3", "rows[0]: paper: expected a dict like dict(acdc=dict(DSC=dict(mean=0.5))), got 3"),
    "no family": ("paper=dict(mine=dict(DSC=dict(mean=1)))", "rows[0]: paper: expected a dict like"),
    "no cell": ("paper=dict(acdc=dict(DSC=dict(mean='1')))", "rows[0]: paper: expected a dict like"),
    "parameter alone": ("sweep='a'", "rows[0]: sweep: expected (parameter, number) or None, got 'a'"),
    "no number": ("sweep=('a', 'b')", "rows[0]: sweep: expected (parameter, number) or None, got ('a', 'b')"),
    "switch": ("one_slice='no'", "rows[0]: one_slice: expected True or False, got 'no'"),
    "one text": ("; datasets='acdc'", "datasets: expected a list of texts, got 'acdc'"),
    "numbers": ("; exemplars=[1]", "exemplars: expected a list of texts, got [1]"),
    "rows": ("; rows=5", "expected rows, a list of dict(label=..., config=..., options=..., paper=...)"),
    "heading": ("; title=3", "title: expected a text, got 3"),
    "misspelt": ("; titel='Mine'", "nothing reads 'titel'; did you mean title?"),
}


@pytest.mark.parametrize("mistake", SUITE_MISTAKES)
def test_a_mistake_in_a_suite_ends_in_one_message_where_it_is_read(mistake, tmp_path):
    text, expected = SUITE_MISTAKES[mistake]
    path = tmp_path / "mine.py"
    rows = f"[row]{text}" if text.startswith(";") else f"[{{**row, **dict({text})}}]"
    path.write_text(f"row = dict(label='one', config='configs/unet/unet_acdc.py')\nrows = {rows}\n")
    with pytest.raises(InputError) as caught:
        get_suite(str(path))
    assert str(caught.value).startswith(f"suite {path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_an_option_sets_is_warned_of_in_a_suite(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("seeds = [4]\nrows = [dict(label='one', config='configs/unet/unet_acdc.py')]\n")
    get_suite(str(path))
    assert f"suite {path}: seeds: no suite sets it; cmems compare --seeds does" in capsys.readouterr().err


def test_mistakes_in_what_is_asked_for_get_one_message(tmp_path, tiny_config, monkeypatch):
    rows = [dict(label="one", config=tiny_config())]
    with pytest.raises(InputError, match=r"--exemplars D: acdc has exemplars A, B, C; or give case:slice"):
        compare(dict(name="x", rows=rows), ["acdc"], exemplars=["D"], work_dir=tmp_path)
    with pytest.raises(InputError, match="two rows are labelled one"):
        get_suite(dict(name="x", rows=rows * 2))
    with pytest.raises(InputError, match="unexpected keyword argument 'colour'"):
        get_suite(dict(name="x", rows=[dict(rows[0], colour="red")]))
    (tmp_path / "broken.py").write_text("rows = [1 / 0]\n")
    with pytest.raises(InputError, match=r"broken\.py: ZeroDivisionError: division by zero"):
        get_suite(str(tmp_path / "broken.py"))
    (tmp_path / "ended.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match=r"ended\.py: SystemExit: 0"):
        get_suite(str(tmp_path / "ended.py"))
    with pytest.raises(InputError, match=r"row one: options: ZeroDivisionError: "):
        compare(dict(name="x", rows=[dict(rows[0], options=lambda config: 1 / 0)]), work_dir=tmp_path)
    with pytest.raises(InputError, match="has no 'modle'"):
        compare(dict(name="x", rows=[dict(rows[0], options={"modle.x": 1})]), ["acdc"], work_dir=tmp_path)
    for words, message in (
        (dict(steps=0), "--steps: expected a positive integer, got 0"),
        (dict(seeds=[-1]), "seed: expected an integer from 0"),
        (dict(seeds=[0, 1, 0]), "--seeds: expected each once, got 0 more than once"),
        (dict(exemplars=["p:3", "p:3"]), "--exemplars: expected each once, got p:3 more than once"),
        (
            dict(exemplars=["p:3", "p:03"]),
            "--exemplars: expected each once, got p:3 and p:03, which are the same slice",
        ),
        (dict(datasets=["acdc", "acdc"]), "--datasets: expected each once, got acdc more than once"),
    ):
        with pytest.raises(InputError, match=message):
            compare(dict(name="x", rows=rows), **{"datasets": ["acdc"], "work_dir": tmp_path / "w", **words})
    assert get_suite(dict(name="x", rows=rows)).datasets == ("x",)  # no "{dataset}" to fill: run once
    with pytest.raises(InputError, match="slice 9: expected an integer from 0 to"):
        compare(dict(name="x", rows=rows), exemplars=["patient001_frame01:9"], work_dir=tmp_path / "w")
    bare = [dict(rows[0], options=dict(data_root=str(tmp_path / "none")))]
    with pytest.raises(InputError, match="none: no such folder; expected a prepared data set"):
        compare(dict(name="x", rows=bare), ["acdc"], seeds=(0, 1), work_dir=tmp_path / "w")
    assert not (tmp_path / "w").exists()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="--launcher slurm needs submitit: pip install submitit"):
        compare(dict(name="x", rows=rows), ["acdc"], work_dir=tmp_path / "w", launcher="slurm")
    assert "expected key=value" in tool("compare", "exemplars", "--slurm", "long").stderr


def test_a_suite_reports_beside_the_paper_goes_on_past_a_failure_and_skips_what_is_done(
    tiny_config, tmp_path, in_this_process
):
    config, better = tiny_config("unet/unet_acdc.py"), dict(acdc=dict(DSC=dict(mean=0.817, RV=0.759)))
    rows = [
        dict(label="broken", config=config, options={"model.backbone.type": "Unet"}, paper=better),
        dict(label="one", config=config, paper=dict(acdc=dict(DSC=dict(mean=0.142), HD95=dict(mean=43.30)))),
    ]
    suite = dict(name="tiny", rows=rows, notes=["Mind this."])
    work = tmp_path / "w"
    report, lines = quiet(suite, ["acdc"], seeds=(0, 1), work_dir=work, steps=1)
    assert report["failed"] == 2
    assert lines[0] == "tiny: 4 runs, 0 of them done"
    text = (work / "tiny" / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| one |") and "(0.142)" in line]
    figures = list(csv.DictReader((work / "tiny" / "report.csv").read_text().splitlines()))
    ours = next(f for f in figures if (f["row"], f["metric"], f["class"]) == ("one", "DSC", "mean"))
    assert (ours["n"], ours["paper"]) == ("2", "0.142")
    assert f"{float(ours['mean']):.3f} ± {float(ours['sd']):.3f} (0.142)" in row
    assert "(43.30)" in text
    assert "broken, acdc, exemplar A, seed 0: failed: error: backbone 'Unet' is not registered" in text
    assert "Mind this." in text
    assert "n/a (0.817)" in text
    page = (work / "tiny" / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "<td>one</td>" in page
    assert (work / "tiny" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "(0.142)" in report["text"]
    runs = [line for line in text.splitlines() if line.startswith("| one | acdc | A |")]
    assert len(runs) == 2
    assert f" | {config} | " in runs[0]
    assert not (work / "tiny" / "report_pairs.csv").read_text().splitlines()[1:]  # one row is done: nothing to pair
    stamp = {p: p.stat().st_mtime_ns for p in work.rglob("metrics.json")}
    again, lines = quiet(dict(suite, rows=rows[1:]), ["acdc"], seeds=(0, 1), work_dir=work, steps=1)
    assert again["failed"] == 0
    assert lines == ["tiny: 2 runs, 2 of them done"]
    assert stamp == {p: p.stat().st_mtime_ns for p in work.rglob("metrics.json")}


def test_a_run_is_known_by_what_its_data_holds(tiny_config, prepared_acdc, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(prepared_acdc, data)
    suite = get_suite(dict(name="x", rows=[dict(label="one", config=tiny_config(data=data))]))

    def folder():
        return plan_runs(suite, ["acdc"], [0], ["A"], tmp_path)[0]["runs"][0]["folder"]

    first, manifest = folder(), json.loads((data / "manifest.json").read_text())
    manifest["fingerprint"] = "of a second preparation of the same scans"
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert folder() == first
    data = data.rename(tmp_path / "elsewhere")
    suite = get_suite(dict(name="x", rows=[dict(label="one", config=tiny_config(data=data))]))
    assert folder() == first
    next(iter(manifest["files"].values()))["sha256"] = "of another array"
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert folder() != first


def test_rows_are_tested_on_their_split_and_again_where_voxel_sizes_were_corrected(
    tiny_config, prepared_acdc, tmp_path, in_this_process
):
    data, work = tmp_path / "data", tmp_path / "w"
    shutil.copytree(prepared_acdc, data)
    split = {"test_dataloader.dataset.split": "val"}
    rows = [dict(label=n, config=tiny_config(data=data), options=o) for n, o in (("one", {}), ("asked", split))]
    suite = dict(name="tiny", rows=rows)
    assert quiet(suite, ["x"], work_dir=work, steps=1)[0]["failed"] == 0
    assert sorted(path.parent.name for path in work.rglob("metrics.json")) == ["test_test", "test_val"]
    (tested,) = work.rglob("test_test")
    shutil.copytree(tested, tmp_path / "before")
    trained = {path: path.stat().st_mtime_ns for path in work.rglob("last.pth")}
    manifest = json.loads((data / "manifest.json").read_text())
    case = manifest["splits"]["test"][0]
    manifest["cases"][case]["spacing"][0] = 10.0
    (data / "manifest.json").write_text(json.dumps(manifest))
    report, lines = quiet(suite, ["x"], work_dir=work, steps=1)
    assert lines[:2] == [
        "tiny: 2 runs, 1 of them done",
        "1 run(s) are tested again: their test was of another split, of other weights or voxel sizes",
    ]
    assert {run["state"] for entry in report["entries"] for run in entry["runs"]} == {"done"}
    assert trained == {path: path.stat().st_mtime_ns for path in work.rglob("last.pth")}
    assert json.loads((tested / "metrics.json").read_text())["header"]["spacings"][case] == [10.0, 1.5, 1.5]
    with pytest.raises(InputError, match=rf"before and .*: their voxel sizes differ, of {case} \(1\); test both"):
        compare_scores(tmp_path / "before", tested)
    assert quiet(suite, ["x"], work_dir=work, steps=1)[1] == ["tiny: 2 runs, 2 of them done"]
    file = tested / "metrics.json"
    for key, value in (("checkpoint", "best.pth"), ("weights", "0" * 64)):  # what a later `cmems evaluate` measured
        content = json.loads(file.read_text())
        content["header"][key] = value
        file.write_text(json.dumps(content))
        assert quiet(suite, ["x"], work_dir=work, steps=1)[1][0] == "tiny: 2 runs, 1 of them done"
        assert json.loads(file.read_text())["header"][key] != value
    unlabel(data, manifest["splits"]["val"])
    planned = plan_runs(get_suite(suite), ["x"], [0], ["A"], work)
    assert [entry["runs"][0]["split"] for entry in planned] == ["test", "test"]


def test_a_run_is_known_by_the_masks_that_it_learns_from(tiny_config, raw_acdc, tmp_path):
    mask, other = (raw_acdc / f"training/patient001/patient001_frame0{k}_gt.nii.gz" for k in (1, 2))
    (tmp_path / "masks").mkdir()
    shutil.copy(mask, tmp_path / "masks" / "patient001_frame01.nii.gz")
    static = dict(type="StaticLabels", batch_size=1, folder=str(tmp_path / "masks"))
    config = tiny_config(extra=f"train_dataloader['static'] = {static!r}\n")

    def run(**options):
        suite = get_suite(dict(name="x", rows=[dict(label="one", config=config, options=options)]))
        return plan_runs(suite, ["acdc"], [0], ["A"], tmp_path)[0]["runs"][0]

    first = run()["folder"]
    (tmp_path / "masks" / "of_no_case.nii.gz").touch()
    assert run()["folder"] == first
    shutil.copytree(tmp_path / "masks", tmp_path / "moved")
    assert run(**{"train_dataloader.static.folder": str(tmp_path / "moved")})["folder"] == first
    shutil.copy(other, tmp_path / "masks" / "patient001_frame01.nii.gz")
    assert run()["folder"] != first
    shutil.rmtree(tmp_path / "masks")
    assert "masks: expected masks named after training cases, as patient001_frame01" in run()["unfit"][0]


def test_a_component_beside_a_rows_config_is_found_by_what_is_started(tiny_config, own, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_noise.py").write_text(
        "from cmems.registry import PERTURBATIONS\n"
        "@PERTURBATIONS.register_module(force=True)\n"
        "class BesideNoise:\n"
        "    pass\n"
    )
    extra = 'custom_imports = dict(imports=["beside_noise"])\nmodel["strong"] = [dict(type="BesideNoise")]\n'
    suite = get_suite(dict(name="x", rows=[dict(label="one", config=tiny_config(extra=extra))]))
    plans = plan_runs(suite, ["x"], [0], ["A"], tmp_path), plan_own(suite, own, [0], ["A"], tmp_path)[1]
    with open(tmp_path / "beside_noise.py", "a") as module:  # another class: another run
        module.write("    width = 1\n")
    changed = plan_runs(suite, ["x"], [0], ["A"], tmp_path)
    assert changed[0]["runs"][0]["folder"] != plans[0][0]["runs"][0]["folder"]
    for (entry,) in plans:
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / "run.py").write_text(entry["runs"][0]["config"])
        monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
        monkeypatch.delitem(sys.modules, "beside_noise")
        importlib.invalidate_caches()
        assert load_config(tmp_path / "elsewhere" / "run.py").model.strong == [dict(type="BesideNoise")]


@pytest.fixture
def with_modules(tiny_config, tmp_path, monkeypatch):
    """Write a config with modules beside it, the first of which it names; forgets at the end what was loaded."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write(folder, **modules):
        (tmp_path / folder).mkdir()
        for name, text in modules.items():
            (tmp_path / folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        extra = f"custom_imports = dict(imports={[*modules][:1]})\n"
        return tiny_config(extra=extra, name=f"{folder}/tiny.py")

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("beside_"):
            del sys.modules[name]


@pytest.mark.parametrize(("first", "second"), [("mine", "mine"), ("one", "two")])
def test_a_module_of_another_folder_is_not_taken_for_a_configs_own(first, second, with_modules, tmp_path):
    both = dict(beside_helper="", json="")  # the second is no one's helper: Python's own comes first
    one, two = (
        with_modules(f"{n}", **{f"beside_{name}": "import json, beside_helper\n"}, **both)
        for n, name in enumerate((first, second))
    )
    wrong = "beside_mine" if first == second else "beside_helper"
    rows = [dict(label=each, config=each) for each in (one, two)]
    with pytest.raises(InputError) as caught:
        plan_runs(get_suite(dict(name="x", rows=rows)), ["x"], [0], ["A"], tmp_path)
    assert str(caught.value) == (
        f"config {two}: module {wrong}: expected {tmp_path}/1/{wrong}.py, got {tmp_path}/0/{wrong}.py, which has that "
        "name already; rename one of them"
    )


def test_a_run_is_known_by_what_its_modules_import_from_beside_them(with_modules, tmp_path):
    files = dict(beside_b="def f():\n    from beside_c import d\n", beside_c="d = 1\n", beside_other="")
    config = with_modules("one", beside_a="import json, beside_b\n", **files)
    folders = []
    for name in (None, "beside_other", "beside_c", "beside_b"):
        if name:
            with open(tmp_path / f"one/{name}.py", "a") as module:
                module.write("more = 1\n")
        rows = [dict(label="one", config=config)]
        folders.append(plan_runs(get_suite(dict(name="x", rows=rows)), ["x"], [0], ["A"], "w")[0]["runs"][0]["folder"])
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_a_report_of_other_data_or_another_file_leaves_the_first(tiny_config, own, tmp_path, in_this_process):
    work, others, files = tmp_path / "w", shutil.copytree(own, tmp_path / "more" / own.name), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "mine.py")
        row = dict(label=name, config="configs/unet/unet_{dataset}.py", options={"model.backbone.channels": (4,) * 5})
        files[-1].write_text(f"title = {name!r}\nrows = [{row!r}]\n")
    asked = [(files[0], own), (files[0], others), (files[1], own)]
    folders = []
    for suite, data in (*asked, *asked):
        report = quiet(str(suite), work_dir=work, steps=1, data=str(data))[0]
        assert report["failed"] == 0
        folders.append(report["files"][0].parent)
        assert {path.parent for path in report["files"]} == {folders[-1]}
    assert [folder.name for folder in folders[:2]] == ["mine", f"mine-{own.name}"]
    assert len({*folders[:3]}) == 3
    assert folders[:3] == folders[3:]
    found = report_of(str(files[1]), work_dir=work, steps=1, data=str(own))
    assert found["files"][0].parent == folders[2]
    assert len(list(work.glob("*/report.md"))) == 3


def test_a_killed_suite_says_resume_and_then_finishes(tiny_config, tmp_path, in_this_process):
    config = tiny_config(
        "unet/unet_acdc.py",
        extra="default_hooks = dict(checkpoint=dict(interval=2))\nval_dataloader = val_cfg = val_evaluator = None\n",
    )
    suite, work = tmp_path / "mine.py", tmp_path / "w"
    suite.write_text(f'rows = [dict(label="one", config="{config}")]\n')
    words = (suite, "--datasets", "acdc", "--work-dir", work, "--steps", 50, "--seeds", 0)
    command = [sys.executable, "tools/compare.py", *map(str, words)]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(work.rglob("last.pth")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(work.rglob("last.pth"))
    assert not list(work.rglob("metrics.json"))
    refused = tool("compare", *words)
    assert refused.returncode == 2
    assert "1 run(s) were interrupted" in refused.stderr
    assert "--resume" in refused.stderr
    done = tool("compare", *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert "1/1 one, acdc, exemplar A, seed 0: done" in done.stdout
    assert "resumed" in next(work.rglob("train.txt")).read_text() + "".join(p.read_text() for p in work.rglob("*.log"))
    assert "Traceback" not in done.stderr


def test_what_a_command_says_last_is_why_it_failed(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("of before\n")
    failure = run_command(["evaluate", "--nothing"], log, threads=1)
    assert failure == f"{log.read_text().splitlines()[-1]}; see {log}"
    assert "--nothing" in failure or "required" in failure
    assert run_command(["info", "--help"], log) is None
    assert log.read_text().startswith("of before\n")


def test_a_run_that_another_command_holds_is_waited_for_and_not_made_twice(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "cmems-0" / "A-seed0"
    folder.mkdir(parents=True)
    _, plan = planned_rows(tmp_path, {"made": ([dict(p=0.5)], {})})
    tested = Path(plan[0]["runs"][0]["folder"], "test_val")
    child = (
        f"import fcntl, pathlib, time; h = open({str(folder / '.compare.lock')!r}, 'w')\n"
        "fcntl.flock(h, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(0.7)\n"
        f"pathlib.Path({str(tested)!r}).rename({str(folder / 'test_val')!r})\n"
    )
    other = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    assert fcntl
    assert other.stdout.readline() == "held\n"
    assert execute(dict(folder=str(folder), config="", seed=0)) is None
    assert not (folder / "config").exists()
    other.wait()


def scores(path, values, metric="DSC", model="ensemble", status="ok", **more):
    """Write a ``metrics.csv``: ``values`` by case, of one class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{case},{model},{more.get('cls', 'A')},{v},{status},False" for case, v in values.items()]
    path.write_text("\n".join([f"case,model,class,{metric},{metric}_status,{metric}_skipped", *rows, ""]))
    return path


def test_two_runs_are_compared_case_by_case_as_scipy_and_the_hand_say(tmp_path):
    a = {"p1": 0.50, "p2": 0.60, "p3": 0.70, "p4": 0.80, "p5": 0.90, "p6": 0.40}
    gains = {"p1": 0.01, "p2": 0.02, "p3": 0.03, "p4": 0.04, "p5": 0.05, "p6": -0.06}
    b = {case: a[case] + gains[case] for case in reversed(a)}  # matched by name, not by line
    first, second = scores(tmp_path / "a.csv", a), scores(tmp_path / "run/test_val/metrics.csv", b)
    rows, models, notes = compare_scores(first, tmp_path / "run")
    assert models == ("ensemble", "ensemble")
    assert [note.split(" is not known")[0] for note in notes] == [
        f"{first}: the convention of DSC", f"{tmp_path / 'run'}: the convention of DSC"]  # fmt: skip
    assert [row["class"] for row in rows] == ["mean", "A"]
    row = rows[1]
    assert row["difference"] == pytest.approx(0.015)
    assert row["n"] == 6
    # The ranks are 1 to 6; the one loss has rank 6, so W = 6; of the 64 signs, 14 subsets of 1..6 sum to at most 6.
    assert row["p"] == pytest.approx(2 * 14 / 64)
    assert row["p"] == pytest.approx(wilcoxon([b[c] for c in a], [a[c] for c in a]).pvalue)
    data = (np.array(list(gains.values())),)
    interval = bootstrap(data, np.mean, method="percentile", n_resamples=9999, random_state=1).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=2e-3)
    turned = compare_scores(second, first)[0][1]
    assert (turned["difference"], turned["p"]) == (pytest.approx(-0.015), row["p"])


def test_scores_of_weights_that_are_no_more_and_against_other_masks_are_refused(tiny_config, tmp_path):
    config, runs = tiny_config(), [tmp_path / name for name in ("a", "b")]
    for seed, run in enumerate(runs):
        train(config, str(run), seed=seed)
        evaluate(config, str(run / "last.pth"))
    assert compare_scores(*runs)[0]
    path = runs[1] / "test_test" / "metrics.json"
    content = json.loads(path.read_text())
    case = next(iter(content["header"]["references"]))
    content["header"]["references"][case] = "of a mask that was corrected"
    (tmp_path / "c" / "metrics.json").parent.mkdir()
    (tmp_path / "c" / "metrics.json").write_text(json.dumps(content))
    shutil.copy(path.with_name("metrics.csv"), tmp_path / "c")
    with pytest.raises(InputError, match=rf"/a and .*/c: their reference masks differ, of {case} \(1\)"):
        compare_scores(runs[0], tmp_path / "c")
    train(config, str(runs[0]), seed=3, overwrite=True)
    with pytest.raises(InputError, match=r"a/test_test/metrics.csv: is of what .*a/last.pth was before.* again"):
        compare_scores(*runs)
    (runs[0] / "last.pth").unlink()
    assert compare_scores(*runs)[0]
    (runs[1] / "test_test" / "metrics.json").write_text('{"header": {"che')
    with pytest.raises(InputError, match=r"metrics.json: not what `cmems evaluate` writes"):
        compare_scores(*runs)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"header": {"classes": ["A"]}, "summary": {}, "conventions": {}}',
        '{"header": []}',
        '{"header": {"classes": []}, "summary": {}, "conventions": {"DSC": 1}}',
        '{"header": {"classes": []}, "summary": {"DSC": {"network_1": {"mean": {"mean": "x"}}}}, "conventions": '
        '{"DSC": {"metric": "DSC", "preset": "nan"}}}',
    ],
)
def test_a_report_names_the_scores_that_are_none_and_goes_on_without(content, tmp_path, capsys):
    rows = {"good": ([dict(p=0.5)], {}), "damaged": ([dict(p=0.5)], {})}
    suite, plan = planned_rows(tmp_path, rows)
    (tmp_path / "damaged/0/test_val/metrics.json").write_text(content)
    assert [[run["state"] for run in gather(entry, {})["runs"]] for entry in plan] == [["done"], ["not run"]]
    told = capsys.readouterr().err
    assert re.search(r"damaged/0/test_val/metrics\.json: (not what|holds no metric).*; taken for not tested\n", told)
    (tmp_path / "good/0/test_val/metrics.csv").unlink()
    assert gather(plan[0], {})["runs"][0]["state"] == "not run"
    assert "2 run(s) are still to do." in write_report(suite, plan, {}, tmp_path / "x")["text"]


def test_equal_scores_have_p_1_and_what_was_never_found_has_no_distance(tmp_path):
    assert paired(dict(a=0.5, b=0.25), dict(a=0.5, b=0.25))["p"] == 1
    assert paired(dict(a=0.5, b=math.nan), dict(a=0.5, c=1.0)) == dict(
        a=0.5, b=0.5, difference=0, low=0, high=0, p=1, n=1
    )
    assert paired({}, {})["n"] == 0
    missed = scores(tmp_path / "a.csv", dict(p=0.0), "HD95", status="missed")
    (mean, _), *_ = compare_scores(missed, scores(tmp_path / "b.csv", dict(p=3.0), "HD95"))
    assert (mean["n"], math.isnan(mean["p"])) == (0, True)
    a, b = dict(A=dict(p=1.0, q=math.nan), B=dict(p=0.5, q=0.25)), dict(A=dict(p=0.5, q=9.0), B=dict(p=0.5, q=0.5))
    assert case_means(a, b) == (dict(p=0.75, q=0.25), dict(p=0.5, q=0.5))  # what one has not scored counts in neither


def test_the_two_frames_of_a_patient_are_one_case():
    a = dict(patient001_frame01=0.5, patient001_frame12=0.7, patient002_frame01=0.4, b_frame=0.2)
    b = dict(patient001_frame01=0.6, patient001_frame12=0.6, patient002_frame01=0.5, b_frame=0.4)
    found = paired(a, b)
    assert found["n"] == 3
    assert (found["a"], found["b"]) == (pytest.approx((0.6 + 0.4 + 0.2) / 3), pytest.approx((0.6 + 0.5 + 0.4) / 3))
    assert found["p"] == wilcoxon([0.0, 0.1, 0.2]).pvalue


def test_runs_that_do_not_compare_are_refused_in_one_line(tmp_path):
    one = scores(tmp_path / "a.csv", dict(p=0.5, q=0.5))
    other = scores(tmp_path / "b.csv", dict(p=0.5, x=0.5))
    shown = tool("compare", one, other)
    assert shown.returncode == 2
    assert shown.stderr == f"error: cases differ: q (1) in {one} alone; x (1) in {other} alone\n"
    for words, text in (
        ((tmp_path, one), f"error: {tmp_path}: expected one metrics.csv, found none; cmems evaluate writes it\n"),
        ((one, tmp_path / "no"), "no: no such file or folder; expected a tested run, or a metrics.csv\n"),
        (
            (tmp_path,),
            f"error: {tmp_path}: a folder; expected a suite, or two runs, `cmems compare {tmp_path} OTHER`\n",
        ),
        ((one, one, "--steps", 3), f"error: --steps: for a suite; {one} and {one} are compared as they were tested\n"),
        (("methods", "--out", "x.csv"), "error: --out: expected two runs; a suite's report goes to --work-dir\n"),
        ((one, one), f"error: {one} and {one}: expected two runs, got one, {one}, twice\n"),
        ((one, other, "--out", tmp_path), f"error: --out {tmp_path}: is a folder; expected the name of a file\n"),
        ((one, other, "--out", one), f"error: --out {one}: is there, and is not what this command writes; name an"),
        (("methods", "--data", "d", "--datasets", "acdc", "--list"), "--data and --datasets: expected one of them\n"),
        ((one, scores(tmp_path / "c.csv", dict(p=1), "HD95")), "no metric in common; one has DSC, the other HD95\n"),
        ((one, scores(tmp_path / "d.csv", dict(p=1, q=1), cls="B")), f"A (1) in {one} alone; B (1) in"),
        ((one, Path("README.md")), "README.md: expected columns case, model, class and metrics"),
    ):
        refused = tool("compare", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert text in refused.stderr
    for name, preset in (("m", "strict"), ("n", "transunet")):
        rules = dict(DSC=dict(metric="DSC", preset=preset, unit="mm"))
        path = scores(tmp_path / name / "metrics.csv", dict(p=0.5))
        path.with_name("metrics.json").write_text(json.dumps(dict(conventions=rules)))
    with pytest.raises(InputError, match=r"convention strict in mm in .*m, convention transunet in mm in .*n"):
        compare_scores(tmp_path / "m", tmp_path / "n")
    shutil.copy(tmp_path / "n/metrics.csv", tmp_path / "renamed.csv")
    shown = tool("compare", tmp_path / "m", tmp_path / "renamed.csv").stdout
    assert shown.splitlines()[-2].startswith(f"{tmp_path / 'renamed.csv'}: the convention of DSC is not known")
    assert f"{tmp_path / 'm'}: the" not in shown


def test_the_table_of_two_runs_is_shown_and_kept(tmp_path):
    one, other = scores(tmp_path / "a.csv", dict(p=0.5, q=0.25)), scores(tmp_path / "b.csv", dict(p=0.75, q=0.25))
    for _ in range(2):  # an earlier table is replaced
        shown = tool("compare", one, other, "--out", tmp_path / "pairs.csv")
        assert shown.returncode == 0
    assert "| DSC A    | 0.375 | 0.500 | +0.125 | +0.000 to +0.250 | 1 | 2 |" in shown.stdout
    assert shown.stdout.endswith(f"{tmp_path / 'pairs.csv'}: the table as CSV, every figure in full\n")
    rows = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert [float(row["difference"]) for row in rows] == [0.125, 0.125]


def planned_rows(folder, rows, metric="DSC"):
    """Write tested runs, and return the plan of them: by label, scores by case of each seed; ``more`` of all."""
    plan = []
    for label, (seeds, more) in rows.items():
        runs, more = [], dict(dict(preset="strict", header={}, split="val"), **more)
        for seed, values in enumerate(seeds):
            run, mean = folder / label / str(seed), sum(values.values()) / len(values)
            entry = dict(mean=mean, volumes=len(values), missed=0)
            cleaned = {k: dict(mean=dict(entry, mean=v), A=dict(entry, mean=v)) for k, v in more.get("models", ())}
            path = scores(run / f"test_{more['split']}/metrics.csv", values, metric)
            summary = {metric: dict(ensemble=dict(mean=entry, A=entry), **cleaned)}
            rules = {metric: dict(metric=metric, preset=more["preset"], unit="mm")}
            content = dict(header=dict(classes=["A"], **more["header"]), summary=summary, conventions=rules)
            path.with_name("metrics.json").write_text(json.dumps(content))
            runs.append(dict(folder=str(run), name=label, dataset="d", exemplar="A", seed=seed, base="-"))
        plan.append(dict(dataset="d", row=Row(label, "-", one_slice=label != "full"), runs=runs))
    return get_suite(dict(name="x", rows=[entry["row"] for entry in plan])), plan


def test_a_report_pairs_every_row_with_the_best_of_one_slice_over_the_means_of_its_runs(tmp_path):
    values = dict(poor=[(0.1, 0.2), (0.3, 0.2)], best=[(0.5, 0.6), (0.7, 0.6)], full=[(0.9, 0.9), (0.9, 0.9)])
    rows = {label: ([dict(zip("pq", each, strict=True)) for each in seeds], {}) for label, seeds in values.items()}
    report = write_report(*planned_rows(tmp_path, rows), {}, tmp_path / "x")
    rows = list(csv.DictReader((tmp_path / "x" / "report_pairs.csv").read_text().splitlines()))
    assert [(row["row"], row["reference"], row["n"]) for row in rows] == [("poor", "best", "2"), ("full", "best", "2")]
    assert [float(row["difference"]) for row in rows] == pytest.approx([-0.4, 0.3])
    text = (tmp_path / "x" / "report.md").read_text()
    assert "| poor, DSC | 0.600 | 0.200 | -0.400 | -0.400 to -0.400 | 0.5 | 2 |" in text
    assert "poor, DSC" in report["text"]
    assert "DSC, split val, mean ± sd; a missed organ counts 0\n" in text


def test_a_report_pairs_the_runs_that_both_rows_have_and_takes_no_unfinished_row_for_the_best(tmp_path):
    easy, hard = dict(p=0.9, q=0.8), dict(p=0.5, q=0.4)
    rows = {"all": ([easy, hard], {}), "easy alone": ([dict(p=0.8, q=0.7)], {}), "other": ([hard], {})}
    suite, plan = planned_rows(tmp_path, rows)
    plan[0]["runs"][1]["exemplar"] = "B"
    plan[2]["runs"][0]["exemplar"] = "C"
    report = write_report(suite, plan, {}, tmp_path / "x")
    (pair,) = csv.DictReader((tmp_path / "x" / "report_pairs.csv").read_text().splitlines())
    assert (pair["row"], pair["reference"]) == ("easy alone", "all")
    assert (float(pair["a"]), float(pair["b"])) == pytest.approx((0.85, 0.75))
    lines = report["text"].splitlines()
    assert (
        "Compared over the runs of both alone: all and easy alone: runs differ: exemplar B seed 1 (1) in all alone."
        in lines
    )
    assert any(line.startswith("Not compared: all and other: runs differ: ") for line in lines)


def test_a_report_has_what_is_cleaned_up_in_tables_that_say_so(tmp_path):
    cleaning = [dict(p=0.5), dict(p=0.6)]
    rows = {"plain": ([dict(p=0.4)], {}), "cleaning": (cleaning, dict(models=[("cleaned", 0.75)]))}
    suite, plan = planned_rows(tmp_path, rows)
    plan[1]["runs"][1]["exemplar"] = "B"
    text = write_report(suite, plan, {}, tmp_path / "x")["text"]
    as_it_is, cleaned = (text.split(f"d: DSC{title}, split val, mean ± sd")[1] for title in ("", ", cleaned up"))
    as_it_is, cleaned = as_it_is.split("d: DSC")[0], cleaned.split("d: HD95")[0]
    assert "plain" in as_it_is
    assert "0.550 ± 0.071" in as_it_is
    assert "plain" not in cleaned
    assert "0.750 ± 0.000" in cleaned
    page = (tmp_path / "x" / "report.md").read_text()
    assert "| DSC by exemplar, cleaned up | A | B |\n|---|---|---|\n| cleaning | 0.750 | 0.750 |" in page
    assert "| cleaning | 0.500 | 0.600 |" in page
    figures = csv.DictReader((tmp_path / "x" / "report.csv").read_text().splitlines())
    means = {row["row"]: row["cleaned"] for row in figures if (row["metric"], row["class"]) == ("DSC", "mean")}
    assert means == dict(plain="", cleaning="0.75")


def test_a_report_pairs_no_rows_that_were_tested_otherwise_and_says_so(tmp_path):
    def known(mask, slices):
        return dict(header=dict(references=dict(p=mask, q="same"), spacings=dict(p=[slices, 1, 1])))

    low, as_best = dict(p=0.1, q=0.1), known("a", 3)
    rows = {
        "best": ([dict(p=0.5, q=0.5)], as_best),
        "alike": ([low], as_best),
        "older": ([low], {}),  # of which nothing is known
        "masks": ([low], known("b", 3)),
        "voxels": ([low], known("a", 10)),
        "rules": ([low], dict(as_best, preset="transunet")),
        "fewer": ([dict(p=0.1)], as_best),
        "others": ([dict(x=0.1)], dict(as_best, split="test")),
    }
    report = write_report(*planned_rows(tmp_path, rows), {}, tmp_path / "x")
    pairs = list(csv.DictReader((tmp_path / "x" / "report_pairs.csv").read_text().splitlines()))
    assert [(row["row"], row["n"]) for row in pairs] == [("alike", "2"), ("older", "2"), ("fewer", "1")]
    for line in (
        "Not compared: best and masks: their reference masks differ, of p (1).",
        "Not compared: best and voxels: their voxel sizes differ, of p (1).",
        "Not compared: best and rules: DSC: convention strict in mm in best, convention transunet in mm in rules.",
        "Compared on the cases of both alone: best and fewer: cases differ: q (1) in best alone.",
        "Not compared: best and others: cases differ: p, q (2) in best alone; x (1) in others alone.",
    ):
        assert line in report["text"].splitlines()
        assert line in (tmp_path / "x" / "report.md").read_text()


def test_a_cell_says_of_how_many_runs_it_is_where_others_have_no_value(tmp_path):
    rows = {"x": ([dict(p=3.0), dict(p=5.0), dict(p=7.0)], dict(preset="nan"))}
    suite, plan = planned_rows(tmp_path, rows, "HD95")
    for seed in (1, 2):
        path = Path(plan[0]["runs"][seed]["folder"], "test_val", "metrics.json")
        content = json.loads(path.read_text())
        for entry in content["summary"]["HD95"]["ensemble"].values():
            entry["mean"] = None
        path.write_text(json.dumps(content))
    assert "3.00 [1 of 3] | 3.00 [1 of 3] |" in write_report(suite, plan, {}, tmp_path / "x")["text"]


def test_a_report_of_distances_alone_says_what_a_missed_organ_counts(tmp_path):
    rows = {name: ([dict(p=3.0)], dict(preset=name)) for name in ("nan", "strict", "transunet")}
    suite, plan = planned_rows(tmp_path, rows, "HD95")
    plan[0]["runs"].append(dict(plan[0]["runs"][0], exemplar="B"))
    text = write_report(suite, plan, {}, tmp_path / "x")["text"]
    told = "a missed organ counts nothing by nan, the volume's diagonal by strict, 0 by transunet"
    assert f"d: HD95 in mm, split val, mean ± sd; {told}" in text.splitlines()


@pytest.fixture
def own(prepared_acdc, tmp_path):
    """A prepared data set of one's own, with the config that comes along; one training case has no label."""
    data = tmp_path / "hearts"
    shutil.copytree(prepared_acdc, data)
    exemplar = [dict(case="patient001_frame01", slice=1)]
    write_config(PreparedDataset(data), exemplar, Anatomy(upright=True, one_piece=True))
    unlabel(data, ["patient002_frame02"])
    return data


def test_methods_move_to_data_of_ones_own_with_all_that_is_the_datas(own, tmp_path):
    before = load_config(own)
    suite, plan = plan_own(get_suite("methods"), own, [0], ["A", "patient002_frame01:1"], tmp_path, steps=7)
    assert [e["row"].label for e in plan] == [r.label for r in SUITES["methods"].rows if r.label != "FullySup"]
    assert suite.notes == (
        f"FullySup is left out: {own}: full supervision needs every train case labelled; without: patient002_frame02",
    )
    assert not any(e["row"].paper for e in plan)
    picked = {e["row"].label: e["runs"] for e in plan if e["row"].label in ("UniMatch", "Cross Teaching", "MT-UNet")}
    for label, (first, second) in picked.items():
        (tmp_path / "one.py").write_text(second["config"])
        config, method = load_config(tmp_path / "one.py"), load_config(second["base"])
        assert second["folder"].startswith(f"{tmp_path}/runs/hearts/{Path(second['base']).parent.name}-")
        assert first["folder"] != second["folder"]
        assert config.model.objectives == method.model.objectives, label
        assert config.model.weak == before.model.weak != method.model.weak
        assert config.train_dataloader.exemplar_slice == dict(case="patient002_frame01", slice=1)
        assert config.train_dataloader.synthetic == before.train_dataloader.synthetic
        assert config.test_evaluator == before.test_evaluator
        assert {metric.preset for metric in config.test_evaluator} == {"strict"}  # no reward for a missed organ
        assert config.train_cfg.max_iters == 7
        assert "prediction" not in config.model
    plus = plan_own(get_suite("plus_methods"), own, [0], ["A"], tmp_path)[1][0]["runs"][0]
    (tmp_path / "one.py").write_text(plus["config"])
    assert load_config(tmp_path / "one.py").model.prediction == before.model.prediction  # not the heart's clean-up


def test_a_suite_on_ones_own_data_trains_reports_and_goes_on(own, tmp_path, in_this_process):
    small, theirs = {"model.backbone.channels": (4, 4, 4, 4, 4)}, dict(acdc=dict(DSC=dict(mean=1)))
    rows = [
        dict(label="one", config="configs/unet/unet_{dataset}.py", options=small, paper=theirs),
        dict(label="all", config="configs/fullysup/unet_{dataset}.py", options=small, one_slice=False),
    ]
    suite, work = dict(name="mine", rows=rows), tmp_path / "w"
    report, lines = quiet(suite, work_dir=work, steps=1, data=own)
    assert report["failed"] == 0
    assert lines[0].startswith("all is left out: ")
    text = (work / "mine" / "report.md").read_text()
    assert lines[0].split(": ", 1)[0] in text
    assert "(paper)" not in text
    assert "paper's figure" not in text
    assert quiet(suite, work_dir=work, steps=1, data=own)[1][1:] == ["mine: 1 runs, 1 of them done"]


def test_what_ones_own_data_lacks_is_said_before_anything_runs(own, tmp_path):
    suite = dict(name="x", rows=[dict(label="all", config="configs/fullysup/unet_{dataset}.py")])
    methods = [dict(label="one", config="configs/cmems/unet_{dataset}.py")]
    with pytest.raises(InputError, match="no case 'patient009'"):
        compare(dict(suite, rows=methods), work_dir=tmp_path / "w", data=own, exemplars=["patient009:1"])
    for options, text in (
        (dict(data=own), "all is left out: .*full supervision needs every train case labelled"),
        (dict(data=own, seeds=[1, 1]), "--seeds: expected each once, got 1 more than once"),
        (dict(data=own, exemplars=["B"]), "--exemplars B: hearts has exemplars A; or give case:slice"),
        (dict(data=own, datasets=["acdc"]), "--data and --datasets: expected one of them"),
        (dict(data=tmp_path), "a folder without a config.py"),
    ):
        with pytest.raises(InputError, match=text):
            compare(suite, work_dir=tmp_path / "w", **options)
    unlabel(own, [c for split in ("val", "test") for c in PreparedDataset(own).cases(split)])
    with pytest.raises(InputError, match="no case of val or test is labelled, so there is nothing to measure"):
        compare(suite, work_dir=tmp_path / "w", data=own)
    assert not (tmp_path / "w").exists()
