"""Training as a user runs it: resuming, leaks, one's own components, and what bad input gets."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import tool, unlabel
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from PIL import Image

from cmems import ops
from cmems.apis import budget, load_config, train, train_rounds
from cmems.apis import test as run_test
from cmems.apis.budget import fit_to_hours, fit_to_steps
from cmems.apis.components import check_components
from cmems.apis.config import Texts, count_steps
from cmems.apis.record import read_record, write_record
from cmems.apis.training import _track
from cmems.datasets.prepare import prepare
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.engine.checks import check_model, check_optimizer
from cmems.engine.graph import StepGraph
from cmems.engine.loop import MutualLearningLoop
from cmems.engine.norm import measure_norms
from cmems.engine.runner import RECORD
from cmems.errors import InputError, Stopped, warn_once
from cmems.models.prediction import Prediction
from cmems.registry import HOOKS, METRICS, READERS

REPO = Path(__file__).parents[1]
OMEGA = "train_dataloader.synthetic.synthesizer.geometric"
NO_VALIDATION = "val_dataloader = val_cfg = val_evaluator = None\n"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=REPO, capture_output=True, text=True, **options)


def test_two_n_steps_are_n_steps_and_a_resume_and_n_steps_bit_for_bit(tiny_config, tmp_path):
    config = tiny_config()
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(config, str(whole))
    train(config, str(halves), cfg_options={"train_cfg.max_iters": 2})
    assert torch.load(halves / "last.pth", weights_only=True)["meta"]["iter"] == 2
    train(config, str(halves), resume=True)
    first, second = (torch.load(d / "last.pth", weights_only=True) for d in (whole, halves))
    assert same(first["state_dict"], second["state_dict"])
    for key, state in first["optimizer"]["state"].items():
        assert all(torch.equal(state[k], second["optimizer"]["state"][key][k]) for k in state)
    assert first["meta"]["best"] == second["meta"]["best"]


def test_a_seed_is_taken_by_a_config_without_any_randomness(tiny_config, tmp_path):
    options = {"randomness": None, "train_cfg.max_iters": 1}
    assert train(tiny_config(), str(tmp_path), cfg_options=options, seed=5).seed == 5


def test_terms_of_a_run_made_longer_act_where_they_would_have(tiny_config, tmp_path):
    unmeasured = "val_dataloader = val_cfg = val_evaluator = None\n"
    config, end = tiny_config("mean_teacher/unet_acdc.py", extra=unmeasured), {"model.objectives.2.end": 1.0}
    for steps in (10, 20, 30):
        runner = train(config, str(tmp_path), resume=True, cfg_options={"train_cfg.max_iters": steps, **end})
        last = runner.model.objectives[2]
        assert (last.ramp_up, last.end) == (3, None)  # the ramp of 0.3 is of the first length
    more = {"train_cfg.max_iters": 40, **end, "model.objectives.2.ramp_up": 0.5}
    with pytest.raises(InputError, match="ramp_up"):
        train(config, str(tmp_path), resume=True, cfg_options=more)


def test_a_damaged_validation_volume_is_found_before_the_first_step(tiny_config, tmp_path, prepared_acdc, monkeypatch):
    shutil.copytree(prepared_acdc, data := tmp_path / "data")
    paths = [data / f"volumes/{case}_image.npy" for case in PreparedDataset(data).cases("val")]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("cmems.engine.loop.MutualLearningLoop.run", lambda loop: pytest.fail("a step was made"))
    with pytest.raises(InputError) as caught:
        train(tiny_config(data=data), str(tmp_path / "work"))
    assert [line.split(": damaged")[0] for line in caught.value.problems] == [str(path) for path in paths]


def test_a_work_directory_loses_nothing_that_is_the_users(tiny_config, tmp_path, prepared_acdc):
    config = Path(tiny_config(extra=NO_VALIDATION + "train_cfg = dict(max_iters=1)  # mine\n"))
    text = config.read_text()
    train(str(config), str(config.parent))
    assert config.read_text() == text
    with pytest.raises(InputError, match="holds a prepared data set; name a folder of its own for the run"):
        train(str(config), str(prepared_acdc))
    work, other = tmp_path / "w", tmp_path / "others"
    train(str(config), str(work))
    other.mkdir()
    (other / config.name).write_text("# another, by hand\n")
    weights = str(work / "last.pth")
    for words, folder in (("a prepared data set", prepared_acdc), (f"another {config.name}", other)):
        for start in (lambda f: train(str(config), f), lambda f: run_test(str(config), weights, work_dir=f)):
            with pytest.raises(InputError, match=f"--work-dir .*: holds {words}"):
                start(str(folder))
    for option in ("out", "show_dir"):
        with pytest.raises(InputError, match=f"--{option.replace('_', '-')} .*: holds a prepared data set; name a"):
            run_test(str(config), weights, work_dir=str(tmp_path / "t"), **{option: str(prepared_acdc)})
    with pytest.raises(InputError, match="--work-dir .*: holds a prepared data set; .* for the rounds"):
        train_rounds([str(config)] * 2, str(prepared_acdc))
    assert not [path.name for path in prepared_acdc.iterdir() if path.name in ("round_1", "metrics.json")]
    copy = (work / config.name).read_text()
    run_test(str(config), weights, preset="strict", work_dir=str(work))
    assert (work / config.name).read_text() == copy
    assert (work / "metrics.json").is_file()
    assert (other / config.name).read_text() == "# another, by hand\n"


def test_a_killed_run_goes_on_to_the_same_bits(tiny_config, tmp_path):
    config = tiny_config(
        extra="default_hooks = dict(checkpoint=dict(interval=2))\nval_dataloader = val_cfg = val_evaluator = None\n"
    )
    options = {"train_cfg.max_iters": 16}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, str(whole), cfg_options=options)
    command = [
        sys.executable,
        "tools/train.py",
        config,
        "--work-dir",
        str(killed),
        "--cfg-options",
        "train_cfg.max_iters=16",
    ]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last, deadline = killed / "last.pth", time.monotonic() + 300
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = torch.load(last, weights_only=True)["meta"]["iter"]
    assert 0 < reached < 16
    train(config, str(killed), resume=True, cfg_options=options)
    assert same(weights(whole / "last.pth"), weights(last))


def test_a_resume_alone_says_that_another_thread_count_changes_the_bits(tiny_config, tmp_path):
    config, work = tiny_config(), tmp_path / "w"
    train(config, str(work), cfg_options={"train_cfg.max_iters": 2})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        run_test(config, str(work / "last.pth"), split="val", work_dir=str(tmp_path / "tested"))
        train(config, str(work), resume=True)
    finally:
        torch.set_num_threads(before)
    assert "CPU thread" not in max((tmp_path / "tested").glob("*/*.log")).read_text()
    log = max(work.glob("*/*.log")).read_text()
    assert f"made with {before} CPU thread(s) and goes on with {before + 1}" in log
    assert f"OMP_NUM_THREADS={before} keeps them" in log


def test_a_resume_says_that_it_goes_on_without_the_compiled_kernels(tiny_config, tmp_path, monkeypatch):
    config, work = tiny_config(), tmp_path / "w"
    for steps, reason in ((1, None), (2, None), (3, "g++: gone"), (4, None)):
        monkeypatch.setattr("cmems.engine.checkpoint.ops.why_not", lambda reason=reason: reason)
        train(config, str(work), resume=True, cfg_options={"train_cfg.max_iters": steps})
    said = [path.read_text() for path in sorted(work.glob("*/*.log"))]
    told = "made with the compiled kernels and goes on without them (g++: gone)"
    assert [told in text for text in said] == [False, False, True, False]
    assert "made without the compiled kernels and goes on with them:" in said[3]


def test_runs_of_one_second_share_no_folder_log_or_curves(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *args: "20300102_030405")
    config = tiny_config(extra="default_hooks = dict(logger=dict(interval=1))\n")
    for steps in (2, 3):  # the second goes on in the first one's folder
        train(config, str(tmp_path / "w"), resume=True, cfg_options={"train_cfg.max_iters": steps})
    first, second = sorted((tmp_path / "w").glob("20300102*"))
    assert f"{first.name}_1" == second.name
    logs = [(folder / f"{folder.name}.log").read_text() for folder in (first, second)]
    assert ["resumed from" in log for log in logs] == [False, True]
    curves = [(folder / "vis_data/scalars.json").read_text().splitlines() for folder in (first, second)]
    assert [{json.loads(line)["step"] for line in lines} for lines in curves] == [{1, 2}, {3}]


def test_another_seed_gives_other_weights(tiny_config, tmp_path):
    for seed in (0, 1):
        train(tiny_config(), str(tmp_path / str(seed)), seed=seed, cfg_options={"train_cfg.max_iters": 1})
    assert not same(weights(tmp_path / "0" / "last.pth"), weights(tmp_path / "1" / "last.pth"))


def test_a_program_that_computes_in_float64_trains_the_same_weights(tiny_config, tmp_path):
    found = {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            train(tiny_config(), str(tmp_path / str(dtype)), cfg_options={"train_cfg.max_iters": 1})
        finally:
            torch.set_default_dtype(torch.float32)
        found[dtype] = weights(tmp_path / str(dtype) / "last.pth")
    assert same(found[torch.float32], found[torch.float64])


def test_labels_cannot_leak(tiny_config, raw_acdc, tmp_path):
    """Every label but the exemplar's slice replaced by noise on disk: training gives the same bits."""
    noisy, random = tmp_path / "noisy", np.random.default_rng(0)
    shutil.copytree(raw_acdc, noisy)
    for path in noisy.rglob("*_gt.nii.gz"):
        image = nib.load(path)
        label = np.asarray(image.dataobj)
        noise = random.integers(0, 4, label.shape).astype(np.uint8)
        if path.name == "patient001_frame01_gt.nii.gz":
            noise[..., 1] = label[..., 1]
        nib.save(nib.Nifti1Image(noise, image.affine), path)
    prepare(READERS.get("acdc")(noisy), tmp_path / "prepared", size=32, workers=1)
    train(tiny_config(name="clean.py"), str(tmp_path / "a"))
    train(tiny_config(data=tmp_path / "prepared", name="noisy.py"), str(tmp_path / "b"))
    assert same(weights(tmp_path / "a" / "last.pth"), weights(tmp_path / "b" / "last.pth"))


def test_a_data_set_without_validation_cases_trains_and_says_so(tiny_config, raw_acdc, tmp_path, capsys):
    prepare(READERS.get("acdc")(raw_acdc, val=["none"]), tmp_path / "prepared", size=32, workers=1)
    train(tiny_config(data=tmp_path / "prepared"), str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 2})
    assert [p.name for p in (tmp_path / "w").glob("*.pth")] == ["last.pth"]
    assert "split 'val' holds no case: no validation, and last.pth alone is kept" in capsys.readouterr().out


def test_full_supervision_and_the_exemplar_alone_train_too(tiny_config, tmp_path):
    for base in ("unet/unet_acdc.py", "fullysup/unet_acdc.py"):
        config = tiny_config(base)
        train(config, str(tmp_path / base), cfg_options={"train_cfg.max_iters": 2})
        assert all(v.isfinite().all() for v in weights(tmp_path / base / "last.pth").values())


def test_a_perturbation_from_a_file_outside_the_package_trains(tiny_config, tmp_path):
    (tmp_path / "my_noise.py").write_text(
        "import torch\n"
        "from cmems.registry import PERTURBATIONS\n"
        "@PERTURBATIONS.register_module()\n"
        "class MyNoise:\n"
        "    calls = 0\n"
        "    def __init__(self, width):\n"
        "        self.width = width\n"
        "    def __call__(self, images, stream):\n"
        "        MyNoise.calls += 1\n"
        "        return (images + stream.uniform(images.shape, -self.width, self.width)).clamp(0, 1)\n"
    )
    config = tiny_config(
        extra='custom_imports = dict(imports=["my_noise"])\n'
        'model["strong"] = [dict(type="ColorJitter", strength=0.5), dict(type="MyNoise", width=0.1)]\n'
    )
    assert Path(config).parent == tmp_path  # beside the file, so that no PYTHONPATH is needed
    done = run("tools/train.py", config, "--work-dir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "best.pth").is_file()


def test_the_log_holds_losses_and_monitors_and_the_terminal_stays_short(tiny_config, tmp_path):
    config = tiny_config(extra="default_hooks = dict(runtime_info=dict(interval=2), logger=dict(interval=2))\n")
    done = tool("train", config, "--work-dir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) + len(done.stderr.splitlines()) < 15
    (scalars,) = (tmp_path / "w").glob("*/vis_data/scalars.json")
    row = json.loads(scalars.read_text().splitlines()[-2])
    for key in (
        "loss_exemplar",
        "loss_synthetic",
        "loss_cmip",
        "loss_cmfp",
        "share_confident",
        "agreement",
        "share_LV",
    ):
        assert key in row
    assert list((tmp_path / "w").glob("*/*.log"))


def test_a_checkpoint_is_tested_from_the_command_line_and_the_files_agree_with_the_table(tiny_config, tmp_path):
    config = tiny_config()
    train(config, str(tmp_path / "w"))
    done = tool(
        "test",
        config,
        tmp_path / "w" / "best.pth",
        "--show-dir",
        tmp_path / "panels",
        "--metrics-preset",
        "strict",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "w" / "test_test" / "metrics.json").read_text())
    assert "strict" in json.dumps(report["conventions"])
    for row in ("network 1", "network 2", "ensemble"):
        assert row in done.stdout
    assert done.stdout.endswith(f"next: cmems report {tmp_path / 'w'} --metrics-preset strict\n")
    done = tool("test", config, tmp_path / "w" / "last.pth")
    assert f"{tmp_path / 'w' / 'test_test'}: its tables are of best.pth, and those of last.pth replace" in done.stdout
    assert done.stdout.endswith(f"next: cmems report {tmp_path / 'w'} --checkpoint {tmp_path / 'w' / 'last.pth'}\n")
    drawn = sorted((tmp_path / "panels").glob("*.png"))
    assert len(drawn) == 2
    Image.new("L", (40, 40)).save(drawn[0])  # somebody's scan
    scan = drawn[0].read_bytes()
    with pytest.raises(InputError, match=f"--show-dir: {drawn[0]} is there and was not drawn by cmems"):
        run_test(config, str(tmp_path / "w" / "best.pth"), show_dir=str(tmp_path / "panels"))
    assert drawn[0].read_bytes() == scan
    drawn[0].unlink()
    run_test(config, str(tmp_path / "w" / "best.pth"), show_dir=str(tmp_path / "panels"))  # over its own, drawn before
    assert drawn[0].is_file()


def test_predictions_come_back_on_the_volumes_own_grid(tiny_config, tmp_path, capsys):
    config, idle = tiny_config(), {"train_cfg.max_iters": 1}
    warn_once.cache_clear()
    train(config, str(tmp_path / "w"), cfg_options=idle)
    assert "read by training alone" not in capsys.readouterr().err
    metrics = run_test(config, str(tmp_path / "w" / "last.pth"), split="val", cfg_options=idle)
    assert "--cfg-options train_cfg.max_iters: read by training alone" in capsys.readouterr().err
    assert 0 <= metrics["ensemble/DSC"] <= 1
    assert "network_2/HD95_Myo" in metrics


def test_scans_of_the_training_that_are_tested_on_are_named(tiny_config, raw_acdc, tmp_path, capsys):
    config, last = tiny_config(), str(tmp_path / "w" / "last.pth")
    train(config, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
    prepare(READERS.get("acdc")(raw_acdc, test=["patient001"]), tmp_path / "other", size=32, workers=1)
    capsys.readouterr()
    run_test(config, last)
    assert "the training saw" not in "".join(capsys.readouterr())
    run_test(config, last, cfg_options={"test_dataloader.dataset.data_root": str(tmp_path / "other")})
    said = (
        "split 'test': the training saw these scans, which flatters the scores: patient001_frame01, patient001_frame02"
    )
    assert "".join(capsys.readouterr()).count(f"warning: {tmp_path / 'other'}: {said}\n") == 1


def test_every_slice_counts_alike_in_the_statistics_of_prediction():
    store = torch.full((33, 1, 4, 4), 0.5)
    store[-1] = 0  # of 33 in batches of at most 32
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1))
    torch.nn.init.ones_(net[0].weight)
    networks, prediction = torch.nn.ModuleList([net]), Prediction(bfloat16=False)
    model = SimpleNamespace(networks=networks, predictors=networks, prediction=prediction, eval=networks.eval)
    measure_norms(model, SimpleNamespace(store=store, sources=dict(scans=SimpleNamespace(serves_scans=True))))
    torch.testing.assert_close(net[1].running_mean, store.mean().view(1), atol=1e-3, rtol=0)


@HOOKS.register_module()
class StopAt(Hook):
    """Ends a training after a step."""

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.train_loop.stop_training = runner.iter + 1 >= self.step


@pytest.mark.parametrize(("validates", "counts", "last"), [(True, 1, 3), (False, 1, 3), (False, 2, 4)])
def test_a_training_that_a_hook_ends_keeps_its_last_step(validates, counts, last, tiny_config, tmp_path):
    extra = "custom_hooks = [dict(type='StopAt', step=3)]\n"
    if not validates:
        extra += "val_dataloader = val_cfg = val_evaluator = None\n"
    options = {"train_cfg.max_iters": 6, "train_cfg.val_interval": 2, "optim_wrapper.accumulative_counts": counts}
    runner = train(tiny_config(extra=extra), str(tmp_path), cfg_options=options)
    kept = weights(tmp_path / "last.pth")
    measured = {name: value.clone() for name, value in kept.items() if "running" in name}
    measure_norms(runner.model, runner.train_loop.data)
    for name, value in measured.items():  # what prediction has is what the slices have
        torch.testing.assert_close(value, runner.model.state_dict()[name])
    meta = read_checkpoint(tmp_path / "last.pth")["meta"]
    assert (meta["iter"], meta["validated"]) == (last, True)
    assert (tmp_path / "best.pth").is_file() == validates
    record = read_record(tmp_path)
    assert (record["steps"], record["of"], record["finished"]) == (last, 6, True)


def test_a_resumed_training_has_the_interval_of_the_step_that_it_goes_on_from():
    loop = object.__new__(MutualLearningLoop)
    loop.dynamic_milestones, loop.dynamic_intervals = [0, 2], [1000, 2]
    loop.go_on(4, validated=False)
    assert loop.val_interval == 2


def test_a_run_without_weights_to_begin_with_is_not_the_one_with_them(tiny_config, tmp_path):
    config, options = tiny_config(), {"train_cfg.max_iters": 1}
    for name in ("a", "b"):
        train(config, str(tmp_path / name), cfg_options=options)
    train(config, str(tmp_path / "a"), cfg_options=options)  # finished, and found so
    with pytest.raises(InputError, match="holds a run"):
        train(config, str(tmp_path / "a"), cfg_options={**options, "load_from": str(tmp_path / "b" / "last.pth")})


def test_optimisers_are_tried_whatever_the_first_weight_and_their_own_state_are():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

    class Stateful(torch.optim.Adagrad):
        """As torch 2.4 has it: its state is made when it is built."""

        def step(self, closure=None):
            return [self.state[p]["sum"] for group in self.param_groups for p in group["params"]]

    Stateful.__module__ = "torch.optim.adagrad"
    for kind in (torch.optim.Adam, Stateful):
        check_optimizer(OptimWrapper(kind(Scaled().parameters(), lr=1e-3)))


@pytest.mark.parametrize("validates", [True, False])
def test_prediction_normalises_by_the_statistics_of_unlabelled_slices(validates, tiny_config, prepared_acdc, tmp_path):
    extra = 'model["prediction"] = dict(bfloat16=False)\n'
    if not validates:
        extra += "val_dataloader = val_cfg = val_evaluator = None\n"
    runner = train(tiny_config(extra=extra), str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 2})
    images = torch.from_numpy(PreparedDataset(prepared_acdc).train_images().astype(np.float32))[:, None]
    saved = weights(tmp_path / "w" / "last.pth")
    for m, net in enumerate(runner.model.networks):
        first = net.encoder[0][0]
        with torch.no_grad():
            features = first.conv(images)
        name = f"networks.{m}.encoder.0.0.bn"
        torch.testing.assert_close(saved[f"{name}.running_mean"], features.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(saved[f"{name}.running_var"], features.var((0, 2, 3)), atol=1e-5, rtol=1e-4)
        assert first.bn.momentum == 0.1


MISTAKES = {
    "data folder": ("train_dataloader.data_root=nowhere", "nowhere: no such folder"),
    "unknown case": ("train_dataloader.exemplar_slice.case=patient1", "no case 'patient1'; near: patient00"),
    "slice beyond": ("train_dataloader.exemplar_slice.slice=9", "expected an integer from 0 to 2"),
    "unknown type": ("model.backbone.type=Unet", "backbone 'Unet' is not registered: did you mean UNet"),
    "unknown student": (
        "model.objectives.2.student=weird",
        "expected one of weak, strong, strong2, feature, got 'weird'",
    ),
    "unknown argument": ("model.backbone.depth=3", "model.backbone.depth: UNet has no such setting; did you mean"),
    "misspelt key": ("train_cgf.max_iters=3", "no 'train_cgf'; did you mean train_cfg"),
    "lonely network": ("model.num_networks=1", "needs num_networks of 2 or more"),
    "wrong classes": ("model.backbone.num_classes=9", "num_classes=9, but the data has 4: background, RV, Myo, LV"),
    "bad steps": ("train_cfg.max_iters=0", "train_cfg.max_iters: expected a positive integer, got 0"),
    "endless steps": ("train_cfg.max_iters=inf", "train_cfg.max_iters: expected a positive integer, got inf"),
    "steps that are a switch": ("train_cfg.val_interval=True", "train_cfg.val_interval: expected a number, got True"),
    "half a step between": ("train_cfg.val_interval=1.5", "val_interval: expected a positive integer, got 1.5"),
    "no first validation": ("train_cfg.val_begin=nan", "val_begin: expected an integer of 0 or more, got nan"),
    "first validation before": ("train_cfg.val_begin=-1", "val_begin: expected an integer of 0 or more, got -1"),
    "no intervals": (
        "train_cfg.dynamic_intervals=5",
        "train_cfg.dynamic_intervals: expected (first step, steps between validations) pairs, the earliest first, got",
    ),
    "intervals of nothing": ("train_cfg.dynamic_intervals=[(2,0)]", "pairs, the earliest first, got [(2, 0)]"),
    "intervals out of order": ("train_cfg.dynamic_intervals=[(3,1),(2,1)]", "the earliest first, got [(3, 1), (2, 1)]"),
    "misspelt prediction": (
        "model.prediction={'view': 1}",
        "model.prediction.view: model.prediction has no such setting; did you mean views?",
    ),
    "no clean-up": ("model.prediction={'clean': None}", "model.prediction.clean: expected a list, got None"),
    "misspelt last key": ("train_cfg.max_itres=3", "train_cfg.max_itres: MutualLearningLoop has no such setting; did"),
    "a variable of the file": ("objectives.0.weight=2", "nothing reads it; did you mean model.objectives.0.weight?"),
    "unknown at the top": ("data_rot=x", "--cfg-options data_rot: nothing reads it; did you mean data_root"),
    "key of a list": ("val_evaluator.preset=nan", "'val_evaluator' is a list; expected val_evaluator.N, N from 0 to 0"),
    "text for settings": (
        "train_dataloader.exemplar_slice=a",
        "expected settings, as key.name=value, or None, got 'a'",
    ),
    "text for a slice": (
        "train_dataloader.exemplar_slices=[patient001_frame01:2]",
        "exemplar_slices: expected a list of dict(case=..., slice=...), got ['patient001_frame01:2']",
    ),
    "slice without a number": (
        "train_dataloader.exemplar_slices=[patient001_frame01]",
        "exemplar_slices: expected a list of dict(case=..., slice=...), got ['patient001_frame01']",
    ),
    "the exemplar again": (
        "train_dataloader.exemplar_slices=[{'case':'patient001_frame01','slice':1}]",
        "exemplar_slices: case=patient001_frame01 slice=1: named twice, exemplar_slice included",
    ),
    "a slice twice": (
        f"train_dataloader.exemplar_slices={[dict(case='patient002_frame01', slice=0)] * 2}",
        "exemplar_slices: case=patient002_frame01 slice=0: named twice",
    ),
    "text for cases": ("train_dataloader.labeled_cases=patient001_frame01", "labeled_cases: expected a list of"),
    "misspelt source": (
        "model.objectives=[{'type': 'Supervised', 'source': 'exemplr'}]",
        "Supervised: source 'exemplr' is not in train_dataloader, which has: exemplar, synthetic, unlabeled",
    ),
    "unknown source": (
        "train_dataloader.unlabelled=3",
        "expected a source (a dict with a type); did you mean unlabeled",
    ),
    "late component": ("train_dataloader.synthetic.synthesizer.geometric.degree=1", "did you mean degrees?"),
    "late value": ("val_dataloader.num_workers=-1", "val_dataloader or val_evaluator: num_workers"),
    "schedule": ("param_scheduler.powr=3", "PolyLR has no such setting; did you mean power?"),
    "text for a number": ("optim_wrapper.optimizer.lr=abc", "optimizer.lr: expected a number, got 'abc'"),
    "negative rate": ("optim_wrapper.optimizer.lr=-1", "optim_wrapper: Invalid learning rate: -1"),
    "no rate": ("optim_wrapper.optimizer.lr=nan", "optim_wrapper: Invalid learning rate: nan"),
    "endless rate": ("optim_wrapper.optimizer.lr=inf", "optim_wrapper.optimizer.lr: expected a finite number, got inf"),
    "steps by closures": (
        "optim_wrapper.optimizer={'_delete_': True, 'type': 'LBFGS'}",
        "optim_wrapper.optimizer: LBFGS cannot train networks: ",
    ),
    "sparse steps": (
        "optim_wrapper.optimizer={'_delete_': True, 'type': 'SparseAdam', 'lr': 1e-3}",
        "SparseAdam cannot train networks: SparseAdam does not support dense gradients",
    ),
    "settings left of another": (
        "model.strong={'type': 'GaussianBlur'}",
        "model.strong.strength: GaussianBlur has no such setting; it has: probability, sigma; with _delete_=True",
    ),
    "nothing to read labels of": (
        "model.objectives=[{'type': 'Supervised', 'source': 'unlabeled'}]",
        "Supervised: expected a source of labels, got 'unlabeled', a UnlabeledSource, which has none",
    ),
    "text to clip by": ("optim_wrapper.clip_grad={'max_norm':'abc'}", "optim_wrapper.clip_grad: could not convert"),
    "negative to clip by": ("optim_wrapper.clip_grad={'max_norm':-1}", "clip_grad.max_norm: expected a number of more"),
    "text for a switch": ("model.batch_views=yes", "model.batch_views: expected True or False, got 'yes'"),
    "text for dicts": ("model.objectives=[exemplar]", "model.objectives: expected a list of dicts, "),
    "no interval": ("default_hooks.checkpoint.interval=0", "interval: expected a positive number of steps, got 0"),
    "negative seed": ("randomness.seed=-1", "seed: expected an integer from 0 to 4294967295, got -1"),
    "data elsewhere": ("data_root=nowhere", "nowhere: no such folder"),
    "metric to keep": (
        "default_hooks.checkpoint.save_best=ensemble/DCS",
        "DCS is not measured by val_evaluator; near: ",
    ),
    "range upside down": (
        f"{OMEGA}.scale=[2,1]",
        "RandomAffine: scale: expected (low, high), numbers of more than 0, low at most high, got [2, 1]",
    ),
    "half a range": (f"{OMEGA}.scale=[1]", "numbers of more than 0, low at most high, got [1]"),
    "no probability": (f"{OMEGA}.flip=7", "RandomAffine: flip: expected a number from 0 to 1, got 7"),
    "no gain": ("train_dataloader.synthetic.synthesizer.intensity.gain=[-1,1]", "RandomGammaGain: gain: expected (low"),
    "no organ is dropped": (
        "train_dataloader.synthetic.synthesizer.drop={1: 2}",
        "drop: expected a probability, 0 to 1",
    ),
    "half a pixel": ("train_dataloader.synthetic.synthesizer.margin=0.5", "margin: expected an integer of 0 or more"),
    "negative strength": ("model.strong.strength=-1", "ColorJitter: strength: expected a number of 0 or more, got -1"),
    "negative weight": ("model.objectives.1.weight=-5", "Supervised: weight: expected a number of 0 or more, got -5"),
    "no weight": ("model.objectives.1.weight=nan", "Supervised: weight: expected a number of 0 or more, got nan"),
    "no section": ("train_dataloader=[5]", "train_dataloader: expected settings (a dict) or None, got [5]"),
    "no part of a section": ("val_dataloader.dataset=5", "val_dataloader.dataset: expected settings"),
    "maybe": ("resume=maybe", "resume: expected True or False, got 'maybe'"),
    "launcher": ("launcher=pytorch", "launcher: it acts from no config; cmems train --launcher starts processes"),
    "compiled step": ("compile=True", "compile: it acts from no config; model.compile=True compiles networks"),
    "foreign runner": ("runner_type=Runner", "runner_type: expected SegmentationRunner or a subclass of it, got 'Run"),
    "unknown level": ("log_level=foo", "log_level: expected DEBUG or INFO or WARNING or ERROR or CRITICAL, got 'foo'"),
    "text for determinism": ("randomness.deterministic=abc", "deterministic: expected True or False, got 'abc'"),
    "nothing for a number": ("model.ema_momentum=None", "model.ema_momentum: expected a number, got None"),
    "no share": ("model.ema_momentum=-1", "ema_momentum: expected a number from 0 to 1, got -1"),
    "more than all": ("model.ema_momentum=2", "ema_momentum: expected a number from 0 to 1, got 2"),
    "not a number": ("model.ema_momentum=nan", "ema_momentum: expected a number from 0 to 1, got nan"),
    "nothing for a threshold": ("model.pseudo_labeler.threshold=None", "threshold: expected a number, got None"),
    "nothing for a rate": ("optim_wrapper.optimizer.lr=None", "optimizer.lr: expected a number, got None"),
    "half of a pair": ("optim_wrapper.optimizer.betas=[0.9]", "betas: expected 2 numbers, got [0.9]"),
    "nothing for a network": ("model.backbone=None", "model.backbone: expected a value, got None"),
    "text for a part": ("model.prediction={'clean': ['foo']}", "post-processor: expected settings (a dict with a type"),
    "no slice a forward": ("model.prediction={'batch': 0}", "batch: expected an integer of 1 to 4096, got 0"),
    "more slices than a model file takes": ("model.prediction={'batch': 5000}", "of 1 to 4096, got 5000"),
    "a switch for views": ("model.prediction={'views': True}", "model.prediction.views: expected a number, got True"),
    "a text for scales": ("model.prediction={'scales': 'big'}", "model.prediction.scales: expected a list, got 'big'"),
    "a scale too large": (
        "model.prediction={'scales': [1, 4.1]}",
        "1 to 8 numbers of 0.5 to 4, one of them 1 or less",
    ),
    "a scale too small": (
        "model.prediction={'scales': [0.4, 1]}",
        "1 to 8 numbers of 0.5 to 4, one of them 1 or less",
    ),
    "a scale that is none": ("model.prediction={'scales': [True]}", "1 to 8 numbers of 0.5 to 4, one of them"),
    "no scale that shows all": ("model.prediction={'scales': [1.2, 2]}", "one of them 1 or less, got [1.2, 2]"),
    "a number for bfloat16": ("model.prediction={'bfloat16': 1}", "bfloat16: expected True or False, got 1"),
    "parts without one": (
        f"{OMEGA}=[]",
        "geometric: expected settings (a dict with a type), or a list of them, got []",
    ),
    "no power": ("param_scheduler.power=None", "param_scheduler.power: expected a number, got None"),
    "power that raises": ("param_scheduler.power=-5", "param_scheduler.power: expected a number from 0 to"),
    "rate that rises": ("param_scheduler.eta_min=5", "eta_min: expected a number from 0 to 0.0003, where lr begins"),
    "epochs": ("param_scheduler.by_epoch=True", "by_epoch: expected False, as steps are counted, got True"),
    "no image of a background": (
        "train_dataloader.synthetic.per_background=0",
        "SyntheticSource: per_background: expected a positive integer or None, got 0",
    ),
    "far levels": ("train_dataloader.synthetic.levels=2", "levels: expected a number from 0 to 1, got 2"),
    "no slice to measure": ("default_hooks.precise_norm.slices=-1", "slices: expected a positive integer, got -1"),
    "nothing to measure": ("default_hooks.precise_norm.slices=None", "slices: expected a number, got None"),
    "no batch": ("val_dataloader.batch_size=None", "val_dataloader.batch_size: expected a positive integer, got None"),
    "processes without end": ("val_dataloader.num_workers=99999", "val_dataloader.num_workers: expected at most "),
    "cases left out": ("val_dataloader.drop_last=True", "val_dataloader.drop_last: expected False, as every case is"),
    "cases for ever": (
        "val_dataloader.sampler={'type': 'InfiniteSampler', 'shuffle': False}",
        "val_dataloader: expected a sampler that draws each of the 2 cases once, as DefaultSampler, got one that",
    ),
    "no metric": ("val_evaluator=[]", "val_evaluator: expected one or more metrics, got none"),
    "no objective": ("model.objectives=[]", "model.objectives: expected one or more, got none"),
    "unknown metric": ("val_evaluator.0.type=Dice", "metric 'Dice' is not registered"),
    "a metric twice": (
        "val_evaluator=[{'type': 'DSC'}, {'type': 'DSC', 'preset': 'nan'}]",
        "val_evaluator: expected each metric once, got DSC more than once",
    ),
    "half a process": ("val_dataloader.num_workers=2.5", "num_workers: expected an integer of 0 or more, got 2.5"),
    "nothing to keep by": (
        "default_hooks.checkpoint.save_best=None",
        "save_best: expected a metric or 'auto', got None",
    ),
    "nothing to stop by": (
        "custom_hooks=[{'type': 'EarlyStoppingHook', 'monitor': 'DSC', 'rule': 'greater'}]",
        "EarlyStoppingHook: monitor: DSC is not measured by val_evaluator; near: ",
    ),
    "nothing to lower by": (
        "param_scheduler=[{'type': 'ReduceOnPlateauLR', 'monitor': 'loss'}]",
        "ReduceOnPlateauLR: monitor: loss is not measured by val_evaluator",
    ),
    "nothing to choose by": (
        "custom_hooks=[{'type': 'CheckpointHook', 'by_epoch': False, 'save_best': 'DSC', 'rule': 'greater'}]",
        "CheckpointHook: save_best: DSC is not measured by val_evaluator",
    ),
    "a hook alone": (
        "custom_hooks={'type': 'EMAHook'}",
        "custom_hooks: expected a list of settings (dicts with a type)",
    ),
    "no schedule": ("param_scheduler=[5]", "param_scheduler: expected a list of settings (dicts with a type), got [5]"),
    "a strange index": ("model.objectives.².weight=1", "'model.objectives' is a list; expected model.objectives.N"),
    "settings for a list": (
        "model.objectives={'9': {'weight': 1}}",
        "expected a list, or settings of its parts by number, below 4",
    ),
    "nothing for a part": ("model.objectives.0=None", "--cfg-options model.objectives.0: cannot be merged with"),
    "settings of nothing": ("train_dataloader.exemplar_slice={}", "{} changes nothing: settings are merged; "),
    "no folder": ("data_root=[1]", "data_root: expected a text, got [1]"),
    "no file": ("load_from=[1]", "load_from: expected a text, got [1]"),
    "a number for a file": ("load_from=2024", "checkpoint 2024: no such file"),
    "half a step": (
        "optim_wrapper.accumulative_counts=2.5",
        "accumulative_counts: expected a positive integer, got 2.5",
    ),
    "a seed a process": ("randomness.diff_rank_seed=True", "diff_rank_seed: expected False, as processes draw"),
    "a rate by the batch": (
        "auto_scale_lr={'enable': True, 'base_batch_size': 8}",
        "auto_scale_lr: expected None, got",
    ),
    "a preprocessor": (
        "data_preprocessor={'type': 'ImgDataPreprocessor', 'mean': [0.5], 'std': [2]}",
        "model.data_preprocessor: expected None, as batches come prepared, got",
    ),
    "modules too late": (
        "custom_imports.imports=[mine]",
        "custom_imports: modules are imported as the config's file is",
    ),
    "a norm without its groups": (
        "model.backbone.norm_cfg={'type': 'GN'}",
        "model.backbone: norm_cfg, act_cfg or conv_cfg lacks",
    ),
    "an unknown objective": (
        "model.objectives.0.type=Supervisd",
        "objective 'Supervisd' is not registered: did you mean Supervised",
    ),
    "a switch for names": (
        "activation_checkpointing=True",
        "activation_checkpointing: expected a list of modules' names",
    ),
    "no module": (
        "activation_checkpointing=['netwoks']",
        "activation_checkpointing: expected modules of the model, as net",
    ),
    "a list of modules": (
        "activation_checkpointing=['networks']",
        "activation_checkpointing: networks only holds other modules; name one of them, as networks.0",
    ),
    "modules that branch": (
        "efficient_conv_bn_eval=['networks.0']",
        "efficient_conv_bn_eval: networks.0, a UNet, cannot be traced: ",
    ),
    "less than no digit": ("log_processor.num_digits=-5", "num_digits: expected an integer of 0 or more, got -5"),
    "no step to log": ("log_processor.window_size=0", "window_size: expected an integer of 1 or more, got 0"),
    "half a pattern": ("log_processor.mean_pattern=[", "log_processor: unterminated character set"),
    "a number for a runner": ("runner_type=5", "runner_type: expected SegmentationRunner or a subclass of it, got 5"),
    "less than no class": ("model.backbone.num_classes=-1", "num_classes: expected an integer of 2 or more, got -1"),
    "unknown budget": ("budget={'rate': {}}", "budget.rate: budget has no such setting; did you mean rates?"),
    "nothing to learn at first": (
        "model.objectives=[{'type': 'Supervised', 'source': 'exemplar', 'begin': 1}]",
        "model.objectives: expected one or more at every step, but none acts at step 0",
    ),
    "nothing to learn between": (
        "model.objectives=[{'type': 'Supervised', 'source': 'exemplar', 'end': 2}, "
        "{'type': 'Supervised', 'source': 'exemplar', 'begin': 3}]",
        "model.objectives: expected one or more at every step, but none acts at step 2",
    ),
    "no name": ("default_hooks.logger.type=''", "default_hooks.logger.type: expected a component's name, got ''"),
    "no name of a library's": ("val_dataloader.sampler.type=''", "val_dataloader.sampler.type: expected a component's"),
    "a setting of a hook without any": (
        "default_hooks.exemplars.width=3",
        "default_hooks.exemplars.width: ExemplarsHook has no such",
    ),
    "a list for the log": ("log_processor=[1]", "log_processor: expected settings (a dict) or None, got [1]"),
    "a module's name": ("default_hooks.logger.type=json", "hook 'json' is not registered"),
    "half a step at the end": (
        "param_scheduler.end=0.5",
        "param_scheduler: expected begin and end in steps, integers, got 0 and 0.5",
    ),
    "a list for a number": ("model.pseudo_labeler.threshold=[1]", "threshold: expected a number, got [1]"),
    "a list for a switch of a library's": ("val_dataloader.num_workers=[1]", "num_workers: expected a number, got [1]"),
    "no function": (
        "val_dataloader.collate_fn.type=abc",
        "collate_fn.type: expected one of MMEngine's or your own functions",
    ),
    "a list for a sampler": (
        "val_dataloader.sampler=[{'type': 'X'}]",
        "sampler: expected settings (a dict with a type) or None, got",
    ),
    "curves that nothing draws": (
        "visualizer.vis_backends.0.type=X",
        "vis_backends.0.type: expected one of MMEngine's or",
    ),
    "endless decay": ("optim_wrapper.optimizer.weight_decay=inf", "weight_decay: expected a finite number, got inf"),
    "no optimizer": (
        "optim_wrapper.optimizer=[]",
        "optim_wrapper.optimizer: expected an optimizer (a dict with a type)",
    ),
    "a type where none is built": (
        "model.prediction.type=X",
        "model.prediction.type: model.prediction has no such setting",
    ),
    "no source to share": (
        "model.shared_weak=[unlabelled]",
        "shared_weak: unlabelled is not in train_dataloader, which",
    ),
    "a number to share": ("model.shared_weak=(0.5,-1)", "model.shared_weak: expected a list of sources, got (0.5, -1)"),
    "no list for W": ("model.weak=[]", "perturbation: expected settings (a dict with a type), got []"),
    "less than no loss": (
        "model.objectives.0.loss={'type': 'CrossEntropyDice', 'ce': -1}",
        "ce: expected a number of 0 or",
    ),
    "no loss": (
        "model.objectives.0.loss={'type': 'CrossEntropyDice', 'ce': 0, 'dice': 0}",
        "CrossEntropyDice: ce, dice: expected one of more than 0, got 0 and 0",
    ),
    "a source that is no text": ("model.objectives.0.source=[1]", "Supervised: source: expected a text, got [1]"),
    "a student that is no text": (
        "model.objectives.2.student=[a]",
        "student: expected one of weak, strong, strong2, feature",
    ),
    "a preset that is no text": ("val_evaluator.0.preset=[a]", "metric preset ['a']: known presets: "),
    "a text for mm3": (
        "model.prediction={'clean': [{'type': 'RemoveSmall', 'mm3': 'all'}]}",
        "RemoveSmall: mm3: expected a number of 0 or more, got 'all'",
    ),
    "half a validation": (
        "val_evaluator=None",
        "val_evaluator: got None; expected none or, for no validation, all of val_dataloader, val_cfg, val_evaluator",
    ),
    "channels": ("model.backbone.channels=[8]", "UNet: channels, dropout: expected two or more, as many of each, got "),
    "no runner": ("runner_type=''", "runner_type: expected SegmentationRunner or a subclass of it, got ''"),
    "a list for a data set": (
        "val_dataloader.dataset=[1]",
        "val_dataloader.dataset: expected a data set (a dict with a",
    ),
    "splits": ("val_dataloader.dataset.split=[val]", "split: expected one of train, val, test, got ['val']"),
    "unknown preset": ("val_evaluator.0.preset=transnet", "did you mean transunet"),
    "a hook that is none": (
        "default_hooks.curvs=None",
        "default_hooks.curvs: there is no such hook; did you mean curves",
    ),
    "a rate of no parameter": (
        "optim_wrapper.paramwise_cfg={'custom_keys': {'networcs': {'lr_mult': 0.1}}}",
        "optim_wrapper.paramwise_cfg.custom_keys: 'networcs' is in no parameter's name, as networks",
    ),
    "no setting of parameters": (
        "optim_wrapper.paramwise_cfg={'norm_decay': 0}",
        "paramwise_cfg.norm_decay: no such setting; expected norm_decay_mult",
    ),
    "epochs into steps": ("param_scheduler.convert_to_iter_based=True", "convert_to_iter_based: PolyLR has no such"),
    "half a milestone": (
        "param_scheduler={'_delete_': True, 'type': 'MultiStepLR', 'by_epoch': False, 'milestones': [0.5]}",
        "param_scheduler.milestones: expected steps, integers of 0 or more, got 0.5",
    ),
    "no size of a step": (
        "param_scheduler={'_delete_': True, 'type': 'StepLR', 'by_epoch': False, 'step_size': 0}",
        "param_scheduler.step_size: expected a positive integer, got 0",
    ),
    "a rate below none": (
        "param_scheduler={'_delete_': True, 'type': 'StepLR', 'by_epoch': False, 'step_size': 2, 'gamma': -1}",
        "param_scheduler.gamma: expected a number of more than 0, got -1",
    ),
    "averages that never begin": (
        "custom_hooks=[{'type': 'EMAHook', 'begin_iter': 99}]",
        "custom_hooks: self.begin_iter should be smaller than or equal to",
    ),
    "no channel": ("model.backbone.channels=[4, 4, 0, 8, 8]", "UNet: channels: expected positive integers, got "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_config_ends_in_one_message_before_any_step(mistake, tiny_config, tmp_path):
    option, expected = MISTAKES[mistake]
    with pytest.raises(InputError) as caught:
        train(tiny_config(), str(tmp_path / "w"), cfg_options=Texts([option.split("=")]))
    assert expected in str(caught.value)
    assert not list((tmp_path / "w").glob("*.pth"))


def test_a_network_that_keeps_more_than_tensors_is_refused():
    class Scaled(torch.nn.Linear):
        def get_extra_state(self):
            return {"scale": 1}

    check_model(torch.nn.Linear(2, 2), {})
    with pytest.raises(InputError, match="which checkpoints keep, got _extra_state, of kind dict"):
        check_model(Scaled(2, 2), {})


TEST_MISTAKES = {
    "a metric twice": (
        "test_evaluator=[{'type': 'DSC'}, {'type': 'DSC', 'preset': 'nan'}]",
        "test_evaluator: expected each metric once, got DSC more than once",
    ),
    "half a process": ("test_dataloader.num_workers=2.5", "num_workers: expected an integer of 0 or more, got 2.5"),
    "no metric": ("test_evaluator=[]", "test_evaluator: expected one or more metrics, got none"),
    "no batch": (
        "test_dataloader.batch_size=None",
        "test_dataloader.batch_size: expected a positive integer, got None",
    ),
    "cases left out": ("test_dataloader.drop_last=True", "test_dataloader.drop_last: expected False, as every case is"),
    "averages": (
        "model.prediction={'averaged': True}",
        "averages of weights come with model.prediction.averaged=True or an objective's teacher='ema'",
    ),
}


def test_a_mistake_in_what_is_measured_ends_in_one_message(tiny_config, tmp_path):
    config, work = tiny_config(), tmp_path / "w"
    train(config, str(work), cfg_options={"train_cfg.max_iters": 1})
    for option, expected in TEST_MISTAKES.values():
        with pytest.raises(InputError) as caught:
            run_test(config, str(work / "last.pth"), cfg_options=Texts([option.split("=", 1)]))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (work / "test_test" / "metrics.json").exists()


def test_what_libraries_and_components_allow_is_taken():
    for options in (
        {"optim_wrapper.clip_grad": None, "optim_wrapper.optimizer.fused": None, "optim_wrapper.optimizer.lr": 1},
        {"optim_wrapper.optimizer.betas": [0.9, 0.99], "train_dataloader.synthetic.per_background": None},
        {"model.strong": None, "model.shared_weak": ["unlabeled"], "model.ema_momentum": 1, "param_scheduler": None},
        {"default_hooks.precise_norm": None, "val_dataloader.prefetch_factor": None, "randomness.seed": None},
        {"param_scheduler": [dict(type="LinearLR", end=9, by_epoch=False), dict(type="PolyLR", eta_min=0.0)]},
        {"optim_wrapper": dict(type="AmpOptimWrapper", loss_scale=dict(init_scale=512.0))},
        {"default_hooks.checkpoint": dict(type="CheckpointHook", interval=1, save_best=["DSC"], _delete_=True)},
    ):
        load_config(REPO / "configs/cmems/unet_acdc.py", options)


def test_objectives_that_are_none_are_refused_in_a_file_too(tiny_config, tmp_path):
    for text in ('["exemplar"]', '"exemplar"'):
        config = tiny_config(extra=f"model = dict(objectives={text})\n")
        with pytest.raises(InputError, match=r"model\.objectives: expected a list of dicts, each with a type, got"):
            train(config, str(tmp_path / "w"))
    with pytest.raises(InputError, match=r"train_dataloader: expected settings \(a dict\) or None, got 5"):
        train(tiny_config(extra="train_dataloader = 5\n"), str(tmp_path / "w"))


def test_a_launcher_that_did_not_start_the_process_is_refused(tiny_config, tmp_path, monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    wanted = dict(
        pytorch="--launcher pytorch: expected to be started by torchrun, but RANK is not set",
        slurm="--launcher slurm: expected to be started by srun, but SLURM_PROCID is not set",
        foo="--launcher: expected one of none, pytorch, slurm, mpi, got 'foo'",
    )
    for launcher, message in wanted.items():
        with pytest.raises(InputError, match=message):
            train(tiny_config(), str(tmp_path / "w"), launcher=launcher)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1" if name == "WORLD_SIZE" else "0")
    for name, value, message in [
        ("RANK", "x", "expected a whole number, got 'x'"),
        ("RANK", "1", "expected a number below 1, got 1"),
        ("MASTER_PORT", "-1", "expected a whole number, got '-1'"),
        ("MASTER_PORT", "99999", "expected a number below 65536, got 99999"),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(InputError, match=f"--launcher pytorch: {name}: {message}"):
                train(tiny_config(), str(tmp_path / "w"), launcher="pytorch")
    assert not (tmp_path / "w").exists()


def test_sections_whose_keys_are_labels_are_walked_through():
    check_components(Config(dict(model=dict(weights={1: dict(gain=2.0)}))))


def test_what_is_typed_is_read_as_what_it_replaces():
    typed = {
        "val_evaluator.0.preset": "nan",
        "train_dataloader.exemplar_slice.case": "005",
        "data_root": "my data",
        "model.strong": "None",
        "optim_wrapper.optimizer.lr": "1e-4",
        "train_dataloader.synthetic.synthesizer.intensity.gamma": "(0.5, 2)",
        "model.objectives": "[{'type': 'Supervised', 'source': 'exemplar'}]",
        "val_cfg": "{'type': 'ValLoop', 'fp16': False}",
        "model.prediction": "dict(views=8, clean=[dict(type='KeepLargest', classes=(2, 3))])",
    }
    config = load_config(REPO / "configs/cmems/unet_acdc_128.py", Texts(typed))
    assert config.val_evaluator[0].preset == "nan"
    assert config.train_dataloader.exemplar_slice.case == "005"
    assert config.train_dataloader.data_root == config.test_dataloader.dataset.data_root == "my data"
    assert config.val_dataloader.dataset.data_root == "my data"
    assert config.model.strong is None
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1e-4)
    assert config.train_dataloader.synthetic.synthesizer.intensity.gamma == (0.5, 2)
    assert [dict(each) for each in config.model.objectives] == [dict(type="Supervised", source="exemplar")]
    assert config.val_cfg == dict(type="ValLoop", fp16=False)
    assert config.model.prediction == dict(views=8, clean=[dict(type="KeepLargest", classes=(2, 3))])


def test_a_type_may_have_the_scope_of_the_package(tiny_config):
    path = tiny_config(extra="val_dataloader = dict(dataset=dict(type='cmems.VolumeDataset'))\n")
    config = load_config(path, Texts({"model.backbone.type": "cmems.UNet", "val_evaluator.0.type": "cmems.HD95"}))
    found = config.val_dataloader.dataset.type, config.model.backbone.type, config.val_evaluator[0].type
    assert found == ("VolumeDataset", "UNet", "HD95")
    with pytest.raises(InputError, match=r"backbone\.chanels: UNet has no such setting"):
        load_config(path, Texts({"model.backbone": "{'type': 'cmems.UNet', 'chanels': 3}"}))


@pytest.mark.parametrize(
    "typed", ["dict(views=8", "dict(views)", "dict(**settings)", "[dict(type='KeepLargest', of=)]"]
)
def test_what_is_typed_and_cannot_be_read_is_refused(typed):
    with pytest.raises(InputError) as caught:
        load_config(REPO / "configs/cmems/unet_acdc_128.py", Texts({"model.prediction": typed}))
    assert str(caught.value) == f"--cfg-options: expected a value as Python writes it, got {typed!r}"


def test_prediction_must_be_settings(tiny_config, tmp_path):
    with pytest.raises(InputError, match=r"prediction: expected settings \(a dict\) or None, got 'abc'"):
        train(tiny_config(), str(tmp_path / "w"), cfg_options={"model.prediction": "abc"})


def test_settings_of_prediction_are_typed_where_the_config_has_none():
    config = load_config(REPO / "configs/cmems/unet_acdc_128.py", Texts({"model.prediction.views": "8"}))
    assert config.model.prediction == dict(views=8)
    with pytest.raises(InputError, match=r"model\.prediction\.vews: .* no such setting; did you mean views\?"):
        load_config(REPO / "configs/cmems/unet_acdc_128.py", Texts({"model.prediction.vews": "8"}))


def test_a_config_file_that_ends_the_process_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match=r"mine\.py: SystemExit: 0"):
        load_config(tmp_path / "mine.py")


def test_a_misspelt_section_of_a_config_file_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("train_cgf = dict(max_iters=3)\nmy_width = 3\n")
    with pytest.raises(InputError, match=r"mine\.py: nothing reads 'train_cgf'; did you mean train_cfg\?"):
        load_config(tmp_path / "mine.py")


def test_hooks_of_one_s_own_come_beside_those_that_training_needs(tiny_config, tmp_path):
    runner = train(
        tiny_config(extra='custom_hooks = [dict(type="EmptyCacheHook")]\n' + NO_VALIDATION),
        str(tmp_path / "w"),
        cfg_options={"train_cfg.max_iters": 1},
    )
    names = [type(hook).__name__ for hook in runner.hooks]
    for name in ("EmptyCacheHook", "PreciseNormHook", "LastBestCheckpointHook", "TrainLogHook", "ProgressHook"):
        assert name in names


FOREIGN_HOOKS = {
    "none": None,
    "MMEngine's": dict(_delete_=True, type="CheckpointHook", interval=1, by_epoch=False, max_keep_ckpts=1),
}


@pytest.mark.parametrize("name", FOREIGN_HOOKS)
def test_last_and_best_are_written_whatever_stands_in_the_place_of_their_hook(name, tiny_config, tmp_path):
    options = {"default_hooks.checkpoint": FOREIGN_HOOKS[name], "train_cfg.max_iters": 2}
    train(tiny_config(), str(tmp_path / "w"), cfg_options=options)
    written = {path.name for path in (tmp_path / "w").glob("*.pth")}
    assert written == {"last.pth", "best.pth", *["iter_2.pth"] * (name != "none")}


def test_metrics_of_one_s_own_keep_the_last_weights_or_the_best_by_their_name(tiny_config, tmp_path, monkeypatch):
    class Volumes(BaseMetric):
        default_prefix = "own"

        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return dict(volumes=len(results))

    monkeypatch.setitem(METRICS.module_dict, "Volumes", Volumes)
    config = tiny_config(extra='val_evaluator = [dict(type="Volumes")]\ntrain_cfg["max_iters"] = 2\n')
    for metric, best in {"auto": False, "own/volumes": True}.items():
        work = tmp_path / metric.replace("/", "_")
        train(config, str(work), cfg_options={"default_hooks.checkpoint.save_best": metric})
        assert (work / "last.pth").is_file()
        assert (work / "best.pth").is_file() == best
        assert ("name the metric to maximise" in max(work.glob("*/*.log")).read_text()) != best


def test_validation_cases_without_labels_are_told_of_before_the_first_step(
    tiny_config, prepared_acdc, tmp_path, capsys
):
    bare = tmp_path / "bare"
    shutil.copytree(prepared_acdc, bare)
    val = PreparedDataset(bare).cases("val")
    unlabel(bare, val[:1])
    train(tiny_config(data=bare), str(tmp_path / "a"), cfg_options={"train_cfg.max_iters": 1})
    assert f"left out of the scores, having no label: {val[0]}\n" in capsys.readouterr().out
    unlabel(bare, val)
    train(tiny_config(data=bare), str(tmp_path / "b"), cfg_options={"train_cfg.max_iters": 1})
    assert "split 'val' holds no labelled case: no validation" in capsys.readouterr().out


def test_validation_data_that_were_prepared_otherwise_or_trained_on_are_told_of(
    tiny_config, raw_acdc, tmp_path, capsys
):
    reader, key = READERS.get("acdc"), "val_dataloader.dataset.data_root"
    prepare(reader(raw_acdc, val=["patient001"], test=["patient004"]), tmp_path / "seen", size=32, workers=1)
    train(tiny_config(), str(tmp_path / "w"), cfg_options={key: str(tmp_path / "seen"), "train_cfg.max_iters": 1})
    assert "split 'val': the training saw these scans, which flatters the scores" in capsys.readouterr().out
    shutil.copytree(tmp_path / "seen", tmp_path / "turned")
    manifest = json.loads((tmp_path / "turned" / "manifest.json").read_text())
    manifest["classes"] = manifest["classes"][::-1]
    (tmp_path / "turned" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r'data_root=.*turned: prepared otherwise .*: classes: \["RV", "Myo", "LV"\]'):
        train(tiny_config(), str(tmp_path / "v"), cfg_options={key: str(tmp_path / "turned")})


def test_the_command_prints_the_message_without_a_traceback(tiny_config, tmp_path):
    done = run(
        "tools/train.py", tiny_config(), "--work-dir", tmp_path / "w", "--cfg-options", "model.backbone.type=Unet"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: backbone 'Unet' is not registered")
    assert "Traceback" not in done.stderr + done.stdout


def test_a_work_dir_that_cannot_be_made_ends_in_one_message(tiny_config, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = tool("train", tiny_config(), "--work-dir", tmp_path / "file" / "w")
    assert done.returncode == 2
    assert done.stderr.endswith(f"error: {tmp_path / 'file' / 'w'}: Not a directory\n")
    assert "Traceback" not in done.stderr


def test_an_exemplar_that_lacks_a_class_is_refused_with_slices_that_have_all(tiny_config, raw_acdc, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(raw_acdc, broken)
    path = broken / "training" / "patient001" / "patient001_frame01_gt.nii.gz"
    image = nib.load(path)
    label = np.asarray(image.dataobj).copy()
    label[..., 1][label[..., 1] == 3] = 2
    nib.save(nib.Nifti1Image(label, image.affine), path)
    prepare(READERS.get("acdc")(broken), tmp_path / "prepared", size=32, workers=1)
    with pytest.raises(InputError, match=r"LV is absent; slices that hold all: case=patient\d+_frame\d+ slice=\d"):
        train(tiny_config(data=tmp_path / "prepared"), str(tmp_path / "w"))


def test_a_checkpoint_of_another_config_a_truncated_one_and_a_missing_one_are_told_apart(tiny_config, tmp_path):
    config = tiny_config()
    train(config, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
    last = tmp_path / "w" / "last.pth"
    with pytest.raises(InputError, match=r"belongs to another config: it was made by 2 network\(s\).*has 1 network"):
        run_test(tiny_config("unet/unet_acdc.py", name="one.py"), str(last))
    (tmp_path / "cut.pth").write_bytes(last.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.pth: truncated"):
        run_test(config, str(tmp_path / "cut.pth"))
    with pytest.raises(InputError, match=r"las\.pth: no such file; .* holds last\.pth"):
        run_test(config, str(tmp_path / "w" / "las.pth"))


def test_every_shipped_config_reads_and_names_known_components():
    paths = sorted(p for p in (REPO / "configs").glob("*/*.py") if p.parent.name != "_base_")
    assert len(paths) >= 100
    for path in paths:
        config = load_config(path)
        assert config.model.objectives, path
        assert config.train_cfg.type == "MutualLearningLoop"


def test_bfloat16_trains_near_float32(tiny_config, tmp_path):
    for name, amp in (("a", False), ("b", True)):
        train(tiny_config(), str(tmp_path / name), amp=amp, cfg_options={"train_cfg.max_iters": 2})
    first, second = weights(tmp_path / "a" / "last.pth"), weights(tmp_path / "b" / "last.pth")
    key = "networks.0.head.weight"
    assert second[key].dtype == torch.float32
    assert (first[key] - second[key]).abs().max() < 5e-3


def test_the_kernels_are_a_switch_and_the_log_tells_its_state(tiny_config, tmp_path):
    wide = 'model["backbone"].update(channels=(16, 16, 16, 16, 16), dropout=(0, 0, 0, 0, 0))\n'
    for name, on in (("on", True), ("off", False)):
        train(tiny_config(extra=wide), str(tmp_path / name), cfg_options={"env_cfg.compiled_kernels": on})
    said = {n: next((tmp_path / n).glob("*/*.log")).read_text() for n in ("on", "off")}
    assert "compiled kernels: switched off" in said["off"]
    ops.enable(True)
    assert f"compiled kernels: {ops.why_not() or 'on'}" in said["on"]
    first, second = (weights(tmp_path / name / "last.pth") for name in ("on", "off"))
    for key in first:  # Adam's first steps are of the size of the rate, whatever the gradient's
        torch.testing.assert_close(first[key].float(), second[key].float(), atol=2e-2, rtol=2e-2)


def test_kept_memory_is_not_taken_from_the_system_again():
    code = """
import resource, sys, torch
from cmems.engine.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("no glibc"); raise SystemExit
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.zeros(40_000_000)  # freed, it holds what follows wherever small allocations fall
print(min(faults() for _ in range(20)))  # the system may take idle pages by itself
"""
    kept, returned = (run("-c", code, mode).stdout.strip() for mode in ("keep", "return"))
    if kept == "no glibc":
        pytest.skip("keep_freed_memory: this C library is not glibc")
    assert int(kept) < 100 < int(returned)


@pytest.fixture
def device_side_steps(monkeypatch):
    """Make CPU runs read step index and learning rates from tensors, as a captured step does."""
    monkeypatch.setattr("cmems.engine.loop.why_not", lambda runner, data: None)


NO_DROPOUT = 'model["backbone"]["dropout"] = (0, 0, 0, 0, 0)\n'
RECORDS = "default_hooks = dict(runtime_info=dict(interval=2), logger=dict(interval=2))\n"


@pytest.mark.parametrize("method", ["cmems", "glcl"])  # in the second terms begin and end
def test_a_step_that_reads_its_index_from_the_device_is_the_same_step(method, tiny_config, tmp_path, request):
    # A learning rate that float32, in which the device keeps it, holds exactly.
    rate = "optim_wrapper = dict(optimizer=dict(lr=2**-11))\nparam_scheduler = None\n"
    one_by_one = 'model["batch_views"] = False\n'  # a captured step runs its views in turn, whose sums round otherwise
    config = tiny_config(f"{method}/unet_acdc.py", extra=NO_DROPOUT + RECORDS + rate + one_by_one)
    train(config, str(tmp_path / "plain"))
    request.getfixturevalue("device_side_steps")
    train(config, str(tmp_path / "graph"))
    assert same(weights(tmp_path / "plain" / "last.pth"), weights(tmp_path / "graph" / "last.pth"))
    logs = [next((tmp_path / d).glob("*/vis_data/scalars.json")).read_text().splitlines() for d in ("plain", "graph")]
    for a, b in zip(*([json.loads(line) for line in log] for log in logs), strict=True):
        assert a.keys() == b.keys()
        for key in ("loss", "loss_cmip", "share_confident", "agreement"):
            assert a.get(key) == b.get(key)


def test_such_steps_resume_bit_for_bit_with_dropout(tiny_config, tmp_path, device_side_steps):
    config = tiny_config()
    train(config, str(tmp_path / "whole"))
    train(config, str(tmp_path / "halves"), cfg_options={"train_cfg.max_iters": 2})
    train(config, str(tmp_path / "halves"), resume=True)
    first, second = (torch.load(tmp_path / d / "last.pth", weights_only=True) for d in ("whole", "halves"))
    assert same(first["state_dict"], second["state_dict"])
    assert isinstance(second["optimizer"]["param_groups"][0]["lr"], float)


def test_a_missing_compiler_is_said_and_training_goes_on(tiny_config, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    train(tiny_config(), str(tmp_path / "w"), cfg_options={"model.compile": True, "train_cfg.max_iters": 1})
    assert (tmp_path / "w" / "last.pth").is_file()


def test_a_rate_is_lowered_where_a_validation_gains_nothing(tiny_config, tmp_path):
    lowers = dict(type="ReduceOnPlateauLR", monitor="ensemble/DSC", rule="greater", patience=0, threshold=9)
    options = {"param_scheduler": [lowers], "optim_wrapper.optimizer.lr": 1e-3}
    for steps, rate in ((4, 1e-4), (6, 1e-5)):  # the first validation is always better than none
        runner = train(
            tiny_config(), str(tmp_path), resume=steps > 4, cfg_options={**options, "train_cfg.max_iters": steps}
        )
        assert runner.optim_wrapper.param_groups[0]["lr"] == pytest.approx(rate)


def test_a_term_that_never_acts_is_warned_of(capsys):
    parts = [
        dict(type="One", begin=5),
        dict(type="Two", begin=2, end=1),
        dict(type="Three", begin=0.9),
        dict(type="Four"),
        dict(type="Five", begin=0.6, end=0.4),
        dict(type="Six", begin=1.0),
        dict(type="Seven", end=0.001),
        dict(type="Eight", begin=2, end=0.4),
        dict(type="Nine", end=0),
        dict(type="Ten", begin=0.6, end=1.0),
    ]
    count_steps(Config(dict(train_cfg=dict(max_iters=5), model=dict(objectives=parts))))
    told = [line.removeprefix("warning: model.objectives: ") for line in capsys.readouterr().err.splitlines()]
    never = [
        "One: begin=5", "Two: begin=2, end=1", "Five: begin=0.6, end=0.4", "Six: begin=1.0", "Seven: end=0.001",
        "Eight: begin=2, end=0.4", "Nine: end=0",
    ]  # fmt: skip
    assert told == [f"{term}: in 5 steps it never acts" for term in never]


def test_a_folder_may_be_called_by_a_number(tiny_config, prepared_acdc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared_acdc, "2024")
    typed = Texts({"data_root": "2024", "work_dir": "2025", "default_hooks.table.out": "2026"})
    config = load_config(tiny_config(extra="data_root = None\n"), typed)
    assert (config.data_root, config.work_dir, config.default_hooks.table.out) == ("2024", "2025", "2026")


def test_a_number_of_steps_takes_validations_ramps_and_rate_along(tiny_config, tmp_path):
    config = load_config(tiny_config(extra="budget = dict(rates={2: 1e-2, 8: 1e-4})\n"))
    config.train_cfg.update(max_iters=30, val_interval=10)
    config.model.objectives[2].ramp_up = 0.5
    fit_to_steps(config, 4)
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (
        4,
        2,
    )  # three validations, the last at the end
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1e-3)  # half way between, both logarithmic
    count_steps(config)
    assert config.model.objectives[2].ramp_up == 2
    for steps, rate in ((1, 1e-2), (100, 1e-4)):
        fit_to_steps(config, steps)
        assert config.optim_wrapper.optimizer.lr == pytest.approx(rate)
    config = load_config(config.filename, Texts({"budget.rates.8": "5e-4"}))  # by a text, beside the number
    fit_to_steps(config, 8)
    assert config.optim_wrapper.optimizer.lr == pytest.approx(5e-4)


def test_what_is_typed_stays_as_typed_whatever_the_budget(tiny_config, monkeypatch):
    options = Texts({"optim_wrapper.optimizer.lr": "0.5", "train_cfg.val_interval": "3", "train_cfg.max_iters": "8"})
    config = load_config(tiny_config(extra="budget = dict(rates={2: 1e-2, 8: 1e-4})\n"), options)
    fit_to_steps(config, 8, options)
    assert (config.optim_wrapper.optimizer.lr, config.train_cfg.val_interval, config.train_cfg.max_iters) == (0.5, 3, 8)
    fit_to_steps(config, 8, {"optim_wrapper": dict(optimizer=dict(lr=0.5))})
    assert config.optim_wrapper.optimizer.lr == 0.5
    fit_to_steps(config, 8, {"optim_wrapper": dict(clip_grad=None)})
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1e-4)
    monkeypatch.setattr("cmems.apis.budget._seconds", lambda cfg: (2.0, 3.0))
    found = fit_to_hours(config, 0.05, "nowhere", options={"train_cfg.val_interval": 3})
    assert (found["steps"], config.train_cfg.val_interval) == ((180 - 20 * 3) // 2, 3)


BUDGET_MISTAKES = {
    "two lengths": ("train_cfg.max_iters=9", dict(steps=2), "--steps 2: expected no other number of"),
    "hours and steps": ("train_cfg.max_iters=9", dict(hours=1), "--hours 1: finds the number of steps; expected"),
    "endless": (
        "randomness.seed=1",
        dict(hours=math.inf),
        "--hours: expected a number of more than 0, at most 1000000",
    ),
    "beyond all hours": ("randomness.seed=1", dict(hours=1e308), "--hours: expected a number of more than 0, at most"),
    "hours in words": ("randomness.seed=1", dict(hours="1"), "--hours: expected a number of more than 0, at most"),
    "beyond all steps": (
        "randomness.seed=1",
        dict(steps=10**400),
        "--steps: expected at most 1000000000000, got 1000",
    ),
    "no interval": ("train_cfg.val_interval=0", dict(steps=1), "val_interval: expected a positive integer, got 0"),
    "interval": ("train_cfg.val_interval=-1", dict(hours=1), "val_interval: expected a positive integer, got -1"),
    "negative rate": ("optim_wrapper.optimizer.lr=-1", dict(steps=1), "optim_wrapper: Invalid learning rate: -1"),
    "rate, timed": ("optim_wrapper.optimizer.lr=inf", dict(hours=1), "optimizer.lr: expected a finite"),
    "no model": ("model.prediction.vews=8", dict(hours=1), "vews"),
    "rates": ("budget.rates={'a': 1}", dict(steps=1), "budget.rates: invalid literal for int() with base 10: 'a'"),
}


@pytest.mark.parametrize("mistake", BUDGET_MISTAKES)
def test_a_mistake_beside_a_budget_ends_in_one_message_before_any_step(mistake, tiny_config, tmp_path):
    option, length, expected = BUDGET_MISTAKES[mistake]
    config = tiny_config(extra="budget = dict(rates={2: 1e-2})\n")
    with pytest.raises(InputError) as caught:
        train(config, str(tmp_path), cfg_options=Texts([option.split("=")]), **length)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    "option",
    [
        ("default_hooks.checkpoint.save_best", "network_1/DCS"),
        ("model.backbone.channels", "(4,4,0,8,8)"),
        ("custom_hooks", "[dict(type='EarlyStoppingHook', monitor='network_1/DCS', rule='greater')]"),
    ],
)
def test_a_run_is_replaced_once_the_new_one_made_a_step(option, tiny_config, tmp_path):
    config = tiny_config()
    train(config, str(tmp_path))
    made = {name: (tmp_path / name).read_bytes() for name in ("last.pth", "run.json")}
    with pytest.raises(InputError):
        train(config, str(tmp_path), cfg_options=Texts([option]), overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in made} == made


def test_where_steps_are_captured_a_captured_one_is_timed(tiny_config, monkeypatch):
    replayed = []
    monkeypatch.setattr("cmems.apis.budget.why_not", lambda run, data: None)
    monkeypatch.setattr(StepGraph, "__call__", lambda self, step: replayed.append(step))
    config = load_config(tiny_config())
    config.val_dataloader = None
    budget._seconds(config)
    assert replayed == [config.train_cfg.max_iters - 1] * (StepGraph.warm_up + 1 + 4)


def test_the_step_in_which_most_terms_act_is_timed(tiny_config, monkeypatch, capsys):
    replayed = []
    monkeypatch.setattr("cmems.apis.budget.why_not", lambda run, data: None)
    monkeypatch.setattr(StepGraph, "__call__", lambda self, step: replayed.append(step))
    config = load_config(tiny_config())
    config.train_cfg.max_iters = 100
    config.model.objectives[2].end = 0.95
    config.val_dataloader.dataset = dict(type="Volumes", root="of one's own")
    assert budget._seconds(config)[1] == 0
    assert set(replayed) == {94}
    assert config.model.objectives[2].end == 0.95  # counted when the number of steps is known
    assert "validations of Volumes are not timed" in capsys.readouterr().err


def test_hours_become_steps_that_a_resume_keeps(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmems.apis.budget._seconds", lambda cfg: (2.0, 3.0))
    config = load_config(tiny_config())
    config.train_cfg.update(max_iters=30, val_interval=10)
    found = fit_to_hours(config, 0.05, tmp_path)
    budget.keep_budget(found, tmp_path)
    assert found["steps"] == config.train_cfg.max_iters == (180 - 3 * 3) // 2
    monkeypatch.setattr("cmems.apis.budget._seconds", lambda cfg: (1.0, 3.0))
    assert fit_to_hours(config, 0.05, tmp_path, resume=True) == found
    assert not capsys.readouterr().err
    assert fit_to_hours(config, 3, tmp_path, resume=True) == found
    assert f"budget.json lays the run out for {found['steps']} steps" in capsys.readouterr().err
    assert fit_to_hours(config, 0.05, tmp_path)["steps"] > found["steps"]
    with pytest.raises(InputError, match="too little"):
        fit_to_hours(config, 0.001, tmp_path)
    other = json.dumps(dict(found, steps=-1))
    for text, why in (('{"steps": 10}', "KeyError"), (other, "ValueError"), ("[" * 9999, "RecursionError")):
        (tmp_path / "budget.json").write_text(text)
        with pytest.raises(InputError, match=rf"budget\.json: damaged; expected what --hours wrote there \({why}"):
            fit_to_hours(config, 0.05, tmp_path, resume=True)


ODD_RECORDS = [
    "[" * 9999,
    '{"seconds": null, "started": 3}',
    '{"seconds": "x"}',
    '{"seconds": 1e999, "steps": {}, "data": 1, "modules": "m", "config": []}',
]


@pytest.mark.parametrize("text", ODD_RECORDS, ids=range(len(ODD_RECORDS)))
def test_a_record_that_is_none_ends_no_training(text, tmp_path):
    (tmp_path / RECORD).write_text(text)
    assert read_record(tmp_path) == {}
    write_record(tmp_path, time.time() - 1, True, goes_on=True)
    assert read_record(tmp_path)["seconds"] >= 1


def test_a_budget_in_hours_ends_with_the_run_that_it_was_found_for(tiny_config, tmp_path):
    config, budget_file = tiny_config(), tmp_path / "w" / "budget.json"
    train(config, str(tmp_path / "w"), steps=2)
    ways = {"resume": {}, "steps": dict(steps=3)}
    for name, options in ways.items():
        budget_file.write_text("{}")
        train(config, str(tmp_path / "w"), resume=True, **options)
        assert budget_file.exists() == (name == "resume")
    budget_file.write_text("{}")
    train(config, str(tmp_path / "w"), overwrite=True, steps=2)
    assert not budget_file.exists()


def test_a_resume_goes_on_to_the_steps_that_an_option_laid_out(tiny_config, tmp_path, monkeypatch, capsys):
    config, work = tiny_config(extra="budget = dict(rates={2: 1e-2, 8: 1e-4})\n"), tmp_path / "w"
    own = MutualLearningLoop.stop_if_asked

    def asked(loop, validating=False):
        loop._signals.received = signal.SIGINT if loop.iter == 3 else None
        own(loop, validating)

    with monkeypatch.context() as patched:
        patched.setattr(MutualLearningLoop, "stop_if_asked", asked)
        with pytest.raises(Stopped):
            train(config, str(work), steps=6)
    train(config, str(work), resume=True)
    meta = read_checkpoint(work / "last.pth")["meta"]
    assert (meta["iter"], meta["budget"]) == (6, dict(steps=6))
    assert "goes on to the 6 steps of --steps 6; --steps N changes that" in capsys.readouterr().out
    train(config, str(tmp_path / "unbroken"), steps=6)
    assert same(weights(work / "last.pth"), weights(tmp_path / "unbroken/last.pth"))
    train(tiny_config(), str(tmp_path / "typed"), steps=2)
    train(tiny_config(), str(tmp_path / "typed"), resume=True, cfg_options={"train_cfg.max_iters": 3})
    assert read_checkpoint(tmp_path / "typed/last.pth")["meta"]["iter"] == 3
    train(tiny_config(), str(tmp_path / "typed"), resume=True)  # the file's own again
    assert read_checkpoint(tmp_path / "typed/last.pth")["meta"]["iter"] == 4


@pytest.mark.parametrize("names", [["networks.0", "networks.1"], ["networks.0.decoder.0", "networks.1.encoder.0"]])
def test_activations_that_are_computed_anew_change_no_weight(names, tiny_config, tmp_path):
    for run, options in (("plain", {}), ("anew", {"activation_checkpointing": names})):
        train(tiny_config(), str(tmp_path / run), steps=2, cfg_options={"model.batch_views": False, **options})
    plain, anew = (weights(tmp_path / run / "last.pth") for run in ("plain", "anew"))
    learned = [name for name in plain if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(plain[name], anew[name]) for name in learned)


def test_a_command_that_finds_its_run_at_its_end_leaves_what_is_recorded_of_it(tiny_config, tmp_path):
    config = tiny_config()
    train(config, str(tmp_path / "w"))
    before = (tmp_path / "w/run.json").read_bytes()
    train(config, str(tmp_path / "w"))
    train(config, str(tmp_path / "w"), resume=True)
    assert (tmp_path / "w/run.json").read_bytes() == before
    train(config, str(tmp_path / "w"), resume=True, steps=5)
    assert read_record(tmp_path / "w")["steps"] == 5


def test_the_command_of_a_run_of_some_hours_leaves_it_at_its_end(tiny_config, tmp_path, monkeypatch, capsys):
    timed = iter([(1.0, 0.0)])
    monkeypatch.setattr("cmems.apis.budget._seconds", lambda cfg: next(timed))
    config, work = tiny_config(), tmp_path / "w"
    train(config, str(work), hours=0.003)
    kept = [(work / name).read_bytes() for name in ("last.pth", "budget.json")]
    capsys.readouterr()
    train(config, str(work), hours=0.003)
    assert "all steps are made already (10 of 10)" in capsys.readouterr().out
    for options in (dict(hours=0.006), dict(hours=0.003, seed=5)):
        with pytest.raises(InputError, match=r"holds a run \(last\.pth"):
            train(config, str(work), **options)
    assert kept == [(work / name).read_bytes() for name in ("last.pth", "budget.json")]
    with pytest.raises(StopIteration):  # timed anew
        train(config, str(work), hours=0.003, overwrite=True)


def test_a_step_and_a_validation_are_timed_before_any_runner_was_made(tiny_config, monkeypatch):
    monkeypatch.setattr(DefaultScope, "_instance_dict", {})
    config = load_config(tiny_config(extra='optim_wrapper = dict(type="AutocastOptimWrapper")\n'))
    assert all(seconds > 0 for seconds in budget._seconds(config))


def test_hours_do_without_a_validation_case(tiny_config, tmp_path, prepared_acdc, monkeypatch):
    def seconds(cfg):
        assert cfg.val_dataloader is None
        raise InputError("timed")

    data = tmp_path / "data"
    shutil.copytree(prepared_acdc, data)
    unlabel(data, PreparedDataset(data).cases("val"))
    monkeypatch.setattr("cmems.apis.budget._seconds", seconds)
    with pytest.raises(InputError, match="timed"):
        train(tiny_config(data=data), str(tmp_path / "w"), hours=0.5)


def test_a_tracker_gets_a_backend_beside_the_log_or_is_named_as_absent(tiny_config, tmp_path, monkeypatch):
    cfg = load_config(tiny_config())
    cfg.work_dir = "w"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "wandb" else None)
    _track(cfg, "wandb")
    local, wandb = cfg.visualizer.vis_backends
    assert (local.type, wandb.type, wandb.init_kwargs.mode) == ("LocalVisBackend", "WandbVisBackend", "offline")
    cfg.work_dir = str(tmp_path / "a b")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    _track(cfg, "mlflow")
    mlflow = cfg.visualizer.vis_backends[-1]
    assert mlflow.tracking_uri == f"sqlite:///{tmp_path}/a b/mlflow.db"
    assert mlflow.artifact_location == f"file://{tmp_path}/a%20b/mlflow"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "mlflow" else None)
    with pytest.raises(InputError, match="--tracker mlflow: it is not installed; pip install mlflow"):
        train(tiny_config(), str(tmp_path / "w"), tracker="mlflow")
    assert not (tmp_path / "w").exists()
