"""Several processes, and accumulated gradients, against one process with the whole batch."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_method import learner

from cmems import processes
from cmems.apis import train
from cmems.datasets.sources import TrainData
from cmems.engine.loop import MutualLearningLoop
from cmems.errors import InputError
from cmems.models.losses import CrossEntropyDice, SoftmaxMSE
from cmems.models.losses.auxiliary import nt_xent, prototype_contrast
from cmems.seeding import Draws, Stream

REPO = Path(__file__).parents[1]
PARTS = {
    "two processes": [Draws(3, 5, rank, processes=2) for rank in (0, 1)],
    "two batches": [Draws(3, step, batches=2) for step in (10, 11)],
}


def data(root, batch_size):
    """Every kind of source, and all that Ω draws."""
    affine = dict(type="RandomAffine", elastic=0.03)
    look = dict(type="RandomGammaGain")
    organs = [dict(type="ClassGain"), dict(type="MatchQuantiles"), dict(type="AmplitudeMix")]
    paste = dict(
        type="ExemplarPaste",
        geometric=[affine, dict(type="RadialShape", classes=(2, 3))],
        intensity=look,
        organs=organs,
        apart=dict(type="OrganJitter", classes=(1, 2, 3)),
        drop={1: 0.5},
    )
    return TrainData(
        root,
        exemplar_slices=[dict(case="patient001_frame01", slice=i) for i in (0, 1)],
        exemplar=dict(
            type="ExemplarSource",
            batch_size=batch_size,
            copies=dict(type="WarpedExemplar", geometric=affine, intensity=look),
        ),
        synthetic=dict(type="SyntheticSource", batch_size=batch_size, synthesizer=paste),
        unlabeled=dict(type="UnlabeledSource", batch_size=batch_size),
    )


@pytest.mark.parametrize(("size", "batch"), [((6,), 0), ((6, 2, 5), 0), ((2, 6, 1), 1), ((2, 3, 6), 2)])
def test_parts_draw_together_what_one_draws(size, batch):
    whole, parts = Stream(7), [Stream(7, part=part, parts=3) for part in range(3)]
    own = [side // 3 if k == batch else side for k, side in enumerate(size)]
    for _ in range(2):
        assert torch.equal(torch.cat([p.bits(own, batch) for p in parts], batch), whole.bits(size))
    shared = whole.uniform(4)
    assert all(torch.equal(p.uniform(4, batch=None), shared) for p in parts)
    keys = torch.arange(2)
    assert torch.equal(Stream(keys, part=1, parts=3).bits((2, 4)), Stream(keys).bits((2, 4)))  # a row's key says all


@pytest.mark.parametrize("parts", PARTS)
def test_parts_see_together_what_one_sees(parts, prepared_acdc):
    whole, halves = (data(prepared_acdc, n) for n in (4, 2))
    expected, found = whole(Draws(3, 5)), [halves(draws) for draws in PARTS[parts]]
    for source, values in expected.items():
        for key in values:
            assert torch.equal(torch.cat([part[source][key] for part in found]), values[key]), (source, key)
    ours, theirs = PARTS[parts]
    assert ours.key("dropout") != theirs.key("dropout")


def test_accumulated_batches_have_the_mean_loss_of_one_and_one_teacher(prepared_acdc):
    entropy = dict(loss=dict(type="CrossEntropyDice", dice=0))  # Dice is no mean over samples
    objectives = [
        dict(type="Supervised", source="exemplar", **entropy),
        dict(type="Supervised", source="synthetic", **entropy),
        dict(type="Consistency", student="strong", teacher="cross", **entropy),
        dict(type="Consistency", student="feature", teacher="ema", loss=dict(type="SoftmaxMSE")),
    ]
    backbone = dict(channels=(4, 8, 8, 8, 8), dropout=(0.0,) * 5, norm_cfg=dict(type="GN", num_groups=2))
    model = learner(objectives=objectives, backbone=dict(type="UNet", num_classes=4, **backbone))
    whole, halves = (data(prepared_acdc, n) for n in (4, 2))
    one = model(batch=whole(Draws(3, 5)), draws=Draws(3, 5))
    teacher = next(model.teachers["ema"].parameters())
    before = teacher.clone()
    first, second = (model(batch=halves(draws), draws=draws) for draws in PARTS["two batches"])
    for name, loss in one.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss)
    with torch.no_grad():
        next(model.networks.parameters()).add_(1)
    model(batch=halves(PARTS["two batches"][1]), draws=PARTS["two batches"][1])
    assert torch.equal(teacher, before)  # the weights that it averages are those of whole updates
    model(batch=halves(PARTS["two batches"][0]), draws=PARTS["two batches"][0])
    assert not torch.equal(teacher, before)


def test_what_is_due_waits_for_the_step_that_uses_accumulated_gradients():
    loop = SimpleNamespace(runner=SimpleNamespace(optim_wrapper=SimpleNamespace(_accumulative_counts=3)))
    assert [k for k in range(1, 16) if MutualLearningLoop.passed(loop, k, 4)] == [6, 9, 12]
    loop.runner.optim_wrapper._accumulative_counts = 1
    assert [k for k in range(1, 16) if MutualLearningLoop.passed(loop, k, 4)] == [4, 8, 12]


def test_processes_that_would_time_their_steps_each_are_refused(tiny_config, tmp_path):
    with pytest.raises(InputError, match="--hours: expected one process, .* got --launcher pytorch; give --steps"):
        train(tiny_config(), str(tmp_path / "w"), hours=1, launcher="pytorch")


# Sums over the batch


def _inputs():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 6, 5, generator=g)
    labels = torch.randint(0, 3, (4, 6, 5), generator=g)
    weight = (torch.rand(4, 6, 5, generator=g) > torch.tensor([0.1, 0.9, 0.5, 0.5]).view(4, 1, 1)).float()
    return logits, labels, weight


LOSSES = {
    "cross-entropy and Dice": lambda z, y, w: CrossEntropyDice()(z, y),
    "weighted": lambda z, y, w: CrossEntropyDice()(z, y, w),
    "squares": lambda z, y, w: SoftmaxMSE()(z, torch.nn.functional.one_hot(y, 3).movedim(-1, 1)),
    "weighted squares": lambda z, y, w: SoftmaxMSE()(z, torch.nn.functional.one_hot(y, 3).movedim(-1, 1), w),
    "prototypes": lambda z, y, w: prototype_contrast(torch.nn.functional.normalize(z, dim=1), y, 3, 0.5),
    "contrast": lambda z, y, w: nt_xent(
        *(torch.nn.functional.normalize(processes.whole_batch(part), dim=1) for part in z.flatten(2).unbind(2)[:2]), 0.5
    ),
    "neighbours": lambda z, y, w: (
        (z * processes.neighbours(y % 2 == 0).unsqueeze(1)).square().mean()
        + (z * processes.neighbours(w).unsqueeze(1)).mean()
    ),
}


def _losses(rows):
    """Return ``{name: (loss, gradient)}`` of some rows of the batch."""
    found = {}
    for name, loss in LOSSES.items():
        logits, labels, weight = (value[rows] for value in _inputs())
        logits.requires_grad_(True)
        value = loss(logits, labels, weight)
        value.backward()
        found[name] = value.detach(), logits.grad
    return found


def _rank(rank, store, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = _losses(slice(2 * rank, 2 * rank + 2))
    found = {k: ({"loss": v} | {"loss": processes.mean({"loss": v})["loss"]}, g) for k, (v, g) in found.items()}
    found = {k: (v["loss"], g, processes.highest(rank)) for k, (v, g) in found.items()}
    torch.save(found, f"{results}{rank}.pt")
    processes.leave()


def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch(tmp_path):
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_rank, args=(r, tmp_path / "store", f"{tmp_path}/")) for r in (0, 1)]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join(60)
            assert process.exitcode == 0
    finally:
        for process in started:
            process.kill()
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, (loss, gradient) in _losses(slice(None)).items():
        torch.testing.assert_close(ours[name][0], loss)
        assert ours[name][0] == theirs[name][0]
        assert ours[name][2] == theirs[name][2] == 1
        # DistributedDataParallel averages the gradients of the processes' losses.
        torch.testing.assert_close(torch.cat([ours[name][1], theirs[name][1]]) / 2, gradient)


# Through torchrun

NO_BATCH_NORM = """
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.05, _delete_=True))
model["backbone"].update(norm_cfg=dict(type="GN", num_groups=4), dropout=(0, 0, 0, 0, 0))
model["objectives"] = [
    dict(type="Supervised", source="exemplar", mixup=True),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross"),
    dict(type="Consistency", student="feature", teacher="cross", loss=dict(type="SoftmaxMSE")),
    dict(type="Consistency", student="weak", teacher="cross", mix=dict(type="CutMix")),
    dict(type="CopyPaste", labeled="synthetic"),
    dict(type="GlobalContrast"),
]
default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1))
"""


def torchrun(config, work_dir, *options, **env):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "tools/train.py", config)
    command = [sys.executable, *launch, "--work-dir", str(work_dir), "--launcher", "pytorch", *options]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, env={**os.environ, **env})


def losses(work_dir):
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith("loss")} for row in rows if "loss" in row]


def test_two_processes_train_as_one_of_twice_the_batch(tiny_config, tmp_path):
    # As printed, every pixel counts: left out, one that rounding takes over the threshold is a large part of few.
    config = tiny_config("cmems_printed/unet_acdc.py", extra=NO_BATCH_NORM)
    done = torchrun(config, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4  ensemble DSC") == 1
    twice = {f"train_dataloader.{source}.batch_size": 4 for source in ("exemplar", "synthetic", "unlabeled")}
    train(config, str(tmp_path / "one"), cfg_options=twice)
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(two) == len(one) == 4
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    for ours, theirs in zip(two, one, strict=True):  # later ones differ by torch's version, up to 5e-4 seen
        assert ours == pytest.approx(theirs, rel=2e-3)
    with pytest.raises(InputError, match="processes: 2 there, 1 here"):
        train(config, str(tmp_path / "two"), resume=True)


def test_a_dead_process_ends_the_others_in_one_line(tiny_config, tmp_path):
    (tmp_path / "dying.py").write_text(
        "import os, pathlib, signal\n"
        "from mmengine.hooks import Hook\n"
        "from cmems.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class Dying(Hook):\n"
        "    def before_train_iter(self, runner, **kwargs):\n"
        "        if runner.rank == 1 and runner.iter == 3:\n"
        "            pathlib.Path(runner.work_dir, 'died').touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    extra = (
        'custom_imports = dict(imports=["dying"])\ncustom_hooks = [dict(type="Dying")]\n'
        "default_hooks = dict(checkpoint=dict(interval=1))\nval_dataloader = val_cfg = val_evaluator = None\n"
    )
    config = tiny_config(base="glcl/unet_acdc.py", extra=extra)
    done = torchrun(config, tmp_path / "w", PYTHONPATH=f"{tmp_path}{os.pathsep}{REPO}")
    assert time.time() - (tmp_path / "w" / "died").stat().st_mtime < 60
    assert done.returncode not in (0, None)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == [
        "error: training stopped: another of its processes ended, whose own message says why; --resume goes on from "
        f"{tmp_path / 'w'}"
    ]
    # The terms of the method took turns until then, in both processes.
    assert torch.load(tmp_path / "w" / "last.pth", weights_only=True)["meta"]["iter"] == 3
