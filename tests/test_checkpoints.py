"""Checkpoints as data: nothing in them runs, damage is named, and a run goes on from its own alone."""

import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, TINY, unlabel
from mmengine.runner import CheckpointLoader

from cmems import files
from cmems.apis import predict, train
from cmems.apis import test as run_test
from cmems.apis.config import load_config
from cmems.apis.places import default_work_dir
from cmems.cli.common import main_guard
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import newest_whole, read_checkpoint, read_meta, seal
from cmems.engine.loop import MutualLearningLoop
from cmems.engine.settings import differing
from cmems.errors import InputError, Stopped
from cmems.locks import folder_lock

NO_VALIDATION = "val_dataloader = val_cfg = val_evaluator = None\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory, prepared_acdc):
    """A config and the work directory of a run of two of its four steps."""
    root = tmp_path_factory.mktemp("made")
    config = root / "tiny.py"
    extra = "default_hooks = dict(checkpoint=dict(interval=1), exemplars=None)\n"
    config.write_text(
        TINY.format(repo=REPO, base="unet/unet_acdc.py", data=prepared_acdc) + NO_VALIDATION + extra,
    )
    train(str(config), str(root / "w"), cfg_options={"train_cfg.max_iters": 2})
    return str(config), root / "w"


@pytest.fixture
def work(made, tmp_path):
    """A copy of that run's checkpoints, to be spoilt."""
    folder = tmp_path / "w"
    folder.mkdir()
    for path in made[1].glob("*.pth"):
        shutil.copy(path, folder)
    return folder


def resume(config, folder, **options):
    return train(config, str(folder), resume=True, cfg_options=options)


def change(path, act, sealed=True):
    saved = torch.load(path, weights_only=True)
    act(saved)
    torch.save(saved, path)
    if sealed:
        seal(path)


def test_a_text_in_a_checkpoint_is_never_run(made, work, tmp_path):
    ran = tmp_path / "ran"
    text = f"x = __import__('pathlib').Path({str(ran)!r}).write_text('')\n"

    def poison(saved):
        saved["meta"].update(config=text, cfg=text, experiment_name=text, summary=text)

    change(work / "last.pth", poison)
    assert resume(made[0], work).iter == 4
    other = {"load_from": str(work / "previous.pth"), "resume": True}
    change(work / "previous.pth", poison)
    train(made[0], str(tmp_path / "other"), cfg_options=other)
    assert not ran.exists()


def test_weights_that_a_config_names_are_data_too(tmp_path):
    class Door:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    torch.save(dict(state_dict=Door()), tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        CheckpointLoader.load_checkpoint(str(tmp_path / "x.pth"))


def test_a_folder_is_no_checkpoint_but_may_hold_some(made):
    with pytest.raises(InputError, match=r"expected a file, got a folder; it holds .*last\.pth"):
        read_checkpoint(made[1])


@pytest.mark.parametrize("times", [1, 64])
def test_every_flipped_bit_and_zeroed_block_is_noticed(made, times, tmp_path):
    whole, random, path = (made[1] / "last.pth").read_bytes(), np.random.default_rng(times), tmp_path / "x.pth"
    for at in random.integers(0, len(whole) - times, 60):
        data = bytearray(whole)
        data[at : at + times] = bytes(times) if times > 1 else [data[at] ^ (1 << int(random.integers(8)))]
        if data == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.pth: (truncated or damaged|damaged)"):
            read_checkpoint(path)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 70, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.pth: "):
            read_checkpoint(path)


def test_a_file_without_a_checksum_is_read_with_one_warning_and_its_parts_are_checked(work, capsys):
    change(work / "last.pth", lambda saved: None, sealed=False)
    for _ in range(2):
        read_checkpoint(work / "last.pth")
    assert capsys.readouterr().err.count("carries no checksum") == 1
    data = bytearray((work / "last.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (work / "last.pth").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(work / "last.pth")


def test_a_resume_goes_on_from_the_newest_whole_checkpoint_and_says_so(made, work, capsys):
    assert read_checkpoint(work / "previous.pth")["meta"]["iter"] == 1
    assert newest_whole(work) == (work / "last.pth", None)
    (work / "last.pth").write_bytes((work / "last.pth").read_bytes()[:-1000])
    resume(made[0], work)
    said = capsys.readouterr().out
    assert "last.pth: truncated or damaged" in said
    assert "previous.pth, step 1" in said
    whole = shutil.copytree(made[1], work.parent / "whole")
    # How the optimiser works is the config's, which no file switches.
    change(whole / "last.pth", lambda s: s["optimizer"]["param_groups"][0].update(maximize=True, differentiable=True))
    train(made[0], str(whole), cfg_options={"resume": True})  # as MMEngine's configs say it
    ours, theirs = (torch.load(d / "last.pth", weights_only=True)["state_dict"] for d in (work, work.parent / "whole"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    for name in ("last.pth", "previous.pth"):
        (work / name).write_bytes(b"PK")
    with pytest.raises(InputError, match=r"2 problems:\n.*last\.pth.*\n.*previous\.pth"):
        resume(made[0], work)


def drop(key):
    return lambda saved: saved.pop(key)


def first_state(saved):
    return next(iter(saved["optimizer"]["state"].values()))


SPOILT = {
    "no optimiser": (drop("optimizer"), "holds no state of an optimiser"),
    "another optimiser": (lambda s: s["meta"].update(optimizer="SGD"), "not that of this Adam: made with SGD"),
    "no groups": (lambda s: s["optimizer"].pop("param_groups"), "'param_groups' or 'state' is missing"),
    "a setting missing": (lambda s: s["optimizer"]["param_groups"][0].pop("betas"), "optimiser"),
    "an empty state": (lambda s: s["optimizer"]["state"].clear(), "it is empty"),
    "another shape": (lambda s: first_state(s).update(exp_avg=torch.zeros(1)), "exp_avg: expected shape"),
    "another type": (lambda s: first_state(s).update(exp_avg=3), "exp_avg: expected shape .* got int"),
    "a part missing": (lambda s: first_state(s).pop("exp_avg_sq"), "expected step, exp_avg, exp_avg_sq, got step"),
    "NaN": (lambda s: first_state(s)["exp_avg"].fill_(float("nan")), "exp_avg: not finite"),
    "no schedule": (drop("param_schedulers"), "its schedules"),
    "a foreign schedule": (lambda s: s["param_schedulers"][0].update(step="text"), "its schedules"),
    "no step": (lambda s: s["meta"].pop("iter"), "does not tell how many steps"),
    "a text as step": (lambda s: s["meta"].update(iter="1"), "meta: iter: expected int, got str"),
    "settings that are no JSON": (lambda s: s["meta"].update(settings="{"), "its settings are not JSON"),
    "settings without end": (lambda s: s["meta"].update(settings="[" * 100_000), "its settings are not JSON"),
    "a text in a schedule": (lambda s: s["param_schedulers"][0].update(base_values=["x"]), "its schedules"),
    "a tensor for parameters": (
        lambda s: s["optimizer"]["param_groups"][0].update(params=[torch.zeros(3)]),
        "its parameters are others",
    ),
    "a tensor for a number": (
        lambda s: s["meta"].update(steps=torch.zeros(2)),
        "meta: steps: expected int, got Tensor",
    ),
    "a tensor for a text": (
        lambda s: s["meta"].update(settings=torch.zeros(2)),
        "meta: settings: expected a plain value, got a tensor",
    ),
    "a tensor without end": (
        lambda s: first_state(s).update(exp_avg=torch.zeros(1).expand(2**40)),
        r"tensor of shape \(1099511627776,\) of float32 is not in the file in full",
    ),
    "no weights": (lambda s: s.update(state_dict=[1]), "expected a dict with 'state_dict'"),
    "a weight of text": (lambda s: s["state_dict"].update({next(iter(s["state_dict"])): "x"}), "got str"),
    "a weight by number": (
        lambda s: s["state_dict"].update({3: torch.zeros(1)}),
        "state_dict: expected tensors by name, got Tensor by 3",
    ),
    "weights that are NaN": (
        lambda s: s["state_dict"]["networks.0.head.weight"].fill_(float("nan")),
        r"1 of \d+ weights are not finite \(first networks\.0\.head\.weight\)",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_checkpoint_that_lacks_or_changes_a_part_is_one_line(what, made, work):
    act, expected = SPOILT[what]
    change(work / "last.pth", act)
    (work / "previous.pth").unlink()
    with pytest.raises(InputError, match=expected) as caught:
        resume(made[0], work)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optim_wrapper.optimizer.type": "SGD"}, r'optim_wrapper\.optimizer\.type: "Adam" there, "SGD" here'),
        ({"randomness.seed": 7}, r"seed: 0 there, 7 here"),
        ({"train_dataloader.exemplar_slice.slice": 0}, r"exemplar_slice\.slice: 1 there, 0 here"),
        ({"default_hooks.precise_norm.slices": 3}, r"precise_norm\.slices: 256 there, 3 here"),
        ({"default_hooks.precise_norm": None}, r"precise_norm: not set there, null here"),
    ],
)
def test_a_run_of_another_config_is_not_gone_on_with(options, expected, made, work):
    before = (work / "last.pth").read_bytes()
    with pytest.raises(InputError, match=expected):
        resume(made[0], work, **options)
    assert (work / "last.pth").read_bytes() == before


def test_a_checkpoint_from_before_a_setting_was_kept_goes_on(made, work):
    def without(saved):
        settings = json.loads(saved["meta"]["settings"])
        del settings["precise_norm"]
        saved["meta"]["settings"] = json.dumps(settings)

    change(work / "last.pth", without)
    assert resume(made[0], work).iter == 4


def test_a_work_directory_is_one_run_s(made, work, tmp_path, monkeypatch):
    before = {p.name: p.read_bytes() for p in work.glob("*.pth")}
    with pytest.raises(InputError, match=r"holds a run \(last\.pth, previous\.pth\): --resume"):
        train(made[0], str(work), seed=7)
    with (
        folder_lock(work, "training"),
        pytest.raises(InputError, match="another process is training"),
    ):
        resume(made[0], work)
    with pytest.raises(InputError, match="nowhere"):
        train(made[0], str(work), overwrite=True, cfg_options={"data_root": "nowhere"})
    assert before == {p.name: p.read_bytes() for p in work.glob("*.pth")}
    old = work / "20200101_000000" / "vis_data"
    old.mkdir(parents=True)
    (work / "exemplars.png").touch()
    train(made[0], str(work), overwrite=True, cfg_options={"train_cfg.max_iters": 1, "default_hooks.exemplars": None})
    assert not (work / "exemplars.png").exists()
    assert read_checkpoint(work / "last.pth")["meta"]["iter"] == 1
    assert not (work / "previous.pth").exists()
    assert not old.exists()
    monkeypatch.chdir(tmp_path)
    assert default_work_dir("configs/cps/unet_acdc.py") == str(Path("work_dirs", "cps", "unet_acdc"))
    Path("mine").mkdir()
    for name in ("config.py", "round2.py", "child.py"):  # one's own config beside data is no run of theirs
        Path("mine", name).touch()
    assert default_work_dir("mine/config.py") == str(Path("work_dirs", "mine", "config"))
    Path("mine", "manifest.json").touch()
    names = ("mine", "mine/round2.py", "mine/child.py")
    assert [default_work_dir(name) for name in names] == [
        "work_dirs/cmems_plus/mine", "work_dirs/cmems_plus/mine_rounds", str(Path("work_dirs", "mine", "child"))
    ]  # fmt: skip


def test_a_run_is_made_longer_and_its_schedule_stays(made, work, tmp_path, capsys):
    for options in ({"param_scheduler.end": 6}, {"param_scheduler.end": 100, "train_cfg.max_iters": 6}):
        if "train_cfg.max_iters" in options:
            assert resume(made[0], work, **options).iter == 6
            assert "laid out for 2 steps and goes on to 6" in capsys.readouterr().out
        else:
            with pytest.raises(InputError, match=r"param_scheduler\.end: 100 there, 6 here"):
                resume(made[0], work, **options)
    ends = {"param_scheduler": dict(_delete_=True, type="PolyLR", by_epoch=False)}
    train(made[0], str(tmp_path / "own_end"), cfg_options={**ends, "train_cfg.max_iters": 1})
    assert resume(made[0], tmp_path / "own_end", **ends, **{"train_cfg.max_iters": 2}).iter == 2


def test_the_best_of_another_validation_is_none_of_this_one_s(tiny_config, prepared_acdc, tmp_path):
    other = shutil.copytree(prepared_acdc, tmp_path / "other")
    unlabel(other, PreparedDataset(other).cases("val")[:1])
    resized = shutil.copytree(prepared_acdc, tmp_path / "resized")
    manifest = json.loads((resized / "manifest.json").read_text())
    manifest["cases"][manifest["splits"]["val"][0]]["spacing"][0] = 10.0
    (resized / "manifest.json").write_text(json.dumps(manifest))
    ways = {
        "data": ({"val_dataloader.dataset.data_root": str(other)}, "it was chosen by another validation: references: "),
        "voxels": ({"val_dataloader.dataset.data_root": str(resized)}, "chosen by another validation: spacings: "),
        "another": ({"val_evaluator.0.preset": "strict"}, 'val_evaluator.0.preset: "transunet" there, "strict" here'),
        "split": ({"val_dataloader.dataset.split": "test"}, 'data.split: "val" there, "test" here'),
        "clean-up": (
            {
                "model.prediction": dict(clean=[dict(type="FillHoles")]),
                "default_hooks.checkpoint.save_best": "cleaned/DSC",
            },
            'prediction.clean.0.type: not set there, "FillHoles" here',
        ),
        "scales": ({"model.prediction": dict(scales=[1.25, 1])}, "prediction.scales.0: not set there, 1.0 here"),
        "a scale": ({"model.prediction": dict(scales=[1, 1.0])}, None),
        "by": ({"default_hooks.checkpoint.save_best": "network_1/DSC"}, "by network_1/DSC, not ensemble/DSC"),
        "same": ({}, None),
    }
    config, work = tiny_config(extra='val_evaluator = [dict(type="DSC", preset="transunet")]\n'), tmp_path / "w"
    train(config, str(work), cfg_options={"train_cfg.max_iters": 2})
    saved = torch.load(work / "last.pth", weights_only=True)
    saved["meta"]["best"]["score"] = 2.0  # which no validation reaches
    torch.save(saved, work / "last.pth")
    for name, (options, told) in ways.items():
        folder = shutil.copytree(work, tmp_path / name)
        runner = resume(config, folder, **options)
        best, log = read_checkpoint(folder / "last.pth")["meta"]["best"], max(folder.glob("*/*.log")).read_text()
        assert (best["score"] == 2.0) == (told is None), name
        assert runner.iter == 4
        assert ("chosen anew" in log) == (told is not None)
        assert told is None or told in log


def test_a_run_that_began_with_other_weights_is_another(tiny_config, tmp_path):
    config, begun = tiny_config(extra="val_dataloader = val_cfg = val_evaluator = None\n"), tmp_path / "begun"
    one, other = (str(tmp_path / name / "last.pth") for name in ("one", "other"))
    for seed, path in enumerate((one, other)):
        train(config, str(Path(path).parent), seed=seed, cfg_options={"train_cfg.max_iters": 1})
    train(config, str(begun), cfg_options={"train_cfg.max_iters": 1, "load_from": one})
    with pytest.raises(InputError, match="holds a run"):
        train(config, str(begun), cfg_options={"train_cfg.max_iters": 1, "load_from": other})
    with pytest.raises(InputError, match=r'made by another config or from other data: load_from: "\w{16}" there'):
        resume(config, begun, **{"train_cfg.max_iters": 2, "load_from": other})
    shutil.copy(one, tmp_path / "moved.pth")
    assert resume(config, begun, **{"train_cfg.max_iters": 2, "load_from": str(tmp_path / "moved.pth")}).iter == 2
    assert resume(config, begun, **{"train_cfg.max_iters": 3}).iter == 3


def test_a_run_that_goes_on_with_other_code_of_one_s_own_says_so(tiny_config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changed_since.py"
    module.write_text("")
    extra = 'custom_imports = dict(imports=["changed_since"])\nval_dataloader = val_cfg = val_evaluator = None\n'
    config, work = tiny_config(extra=extra), tmp_path / "w"
    logs, more, hook = [], "more = 1\n", ["EmptyCacheHook"]
    ways = (("", "", []), ("", "", []), (more, "", []), (more, "", hook), (more, more, hook))
    for steps, (text, helper, hooks) in enumerate(ways, 1):
        module.write_text(f"def later():\n    import changed_helper\n{text}")
        (tmp_path / "changed_helper.py").write_text(helper)
        hooks = [dict(type=each) for each in hooks]
        train(config, str(work), resume=steps > 1, cfg_options={"train_cfg.max_iters": steps, "custom_hooks": hooks})
        logs.append(max(work.glob("*/*.log"), key=os.path.getmtime).read_text())
    told = "the run goes on with other code of one's own: "
    assert [log.count(told) for log in logs] == [0, 0, 1, 1, 1]
    assert f'{told}modules: "' in logs[2]
    assert f'{told}modules: "' in logs[4]  # of what it imports from beside it
    assert f'{told}custom_hooks.0.type: not set there, "EmptyCacheHook" here' in logs[3]


def test_what_was_made_already_is_said(made, work, capsys):
    before = (work / "last.pth").read_bytes()
    for again in (resume, lambda config, folder, **options: train(config, str(folder), cfg_options=options)):
        again(made[0], work, **{"train_cfg.max_iters": 2})
        assert "all steps are made already (2 of 2)" in capsys.readouterr().out
        assert (work / "last.pth").read_bytes() == before
    (work.parent / "empty").mkdir()
    resume(made[0], work.parent / "empty", **{"train_cfg.max_iters": 1})
    assert "holds no checkpoint: training starts at step 0" in capsys.readouterr().out


def test_a_number_that_is_none_stops_the_training_and_the_last_good_checkpoint_stays(made, work, monkeypatch):
    before = (work / "last.pth").read_bytes()
    forward = MutualLearningLoop.batch

    def spoil(loop, step):
        found = forward(loop, step)
        if step == 3:
            images = found["batch"]["exemplar"]["images"]
            found["batch"]["exemplar"]["images"] = torch.full_like(images, float("nan"))
        return found

    monkeypatch.setattr(MutualLearningLoop, "batch", spoil)
    with pytest.raises(InputError, match="training stopped at step 3: loss_exemplar is nan") as caught:
        resume(made[0], work)
    assert "not_finite.json replays the step" in str(caught.value)
    assert read_checkpoint(work / "last.pth")["meta"]["iter"] == 3
    assert (work / "previous.pth").read_bytes() == before
    report = json.loads((work / "not_finite.json").read_text())
    assert (report["step"], report["seed"]) == (3, 0)
    with pytest.raises(InputError, match="training stopped at step 3: loss_exemplar is nan"):
        resume(made[0], work)


def test_weights_that_are_none_are_not_kept(made, tmp_path):
    with pytest.raises(InputError, match=r"weights are not finite|loss\w* is (nan|inf)"):
        train(made[0], str(tmp_path / "w"), cfg_options={"optim_wrapper.optimizer.lr": 1e38})
    assert not (tmp_path / "w" / "last.pth").exists() or read_checkpoint(tmp_path / "w" / "last.pth")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_the_step_and_the_run_goes_on_to_the_same_bits(name, made, work, monkeypatch, capsys):
    signum = getattr(signal, name, None)
    if signum is None:
        pytest.skip("this system has no such signal")
    run_iter = MutualLearningLoop.run_iter

    def interrupted(loop, batch):
        os.kill(os.getpid(), signum)
        run_iter(loop, batch)

    monkeypatch.setattr(MutualLearningLoop, "run_iter", interrupted)
    outside = signal.getsignal(signum)
    before = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    signal.signal(signum, before)  # what started the tests may ignore it, as nohup does
    try:
        with pytest.raises(SystemExit) as ended:
            main_guard(resume)(made[0], work)
        assert signal.getsignal(signum) is before
    finally:
        signal.signal(signum, outside)
    assert ended.value.code == 128 + signum
    assert "stopped after step 3; --resume goes on" in capsys.readouterr().err
    assert read_checkpoint(work / "last.pth")["meta"]["iter"] == 3


@pytest.mark.parametrize("hooks", ["", "custom_hooks = [dict(type='EMAHook', momentum=0.3)]\n"])
def test_a_signal_in_a_validation_leaves_the_step_and_the_resume_validates_first(
    hooks, tiny_config, tmp_path, monkeypatch
):
    config, whole, halves = tiny_config("unet/unet_acdc.py", extra=hooks), tmp_path / "whole", tmp_path / "halves"
    train(config, str(whole))
    with monkeypatch.context() as patch:
        validate = MutualLearningLoop._validate

        def interrupted(loop):
            os.kill(os.getpid(), signal.SIGTERM)
            validate(loop)

        patch.setattr(MutualLearningLoop, "_validate", interrupted)
        with pytest.raises(Stopped):
            train(config, str(halves))
    assert read_checkpoint(halves / "last.pth")["meta"]["validated"] is False
    assert not (halves / "best.pth").exists()
    train(config, str(halves), resume=True)
    for name in ("last.pth", "best.pth"):
        first, second = (read_checkpoint(folder / name) for folder in (whole, halves))
        assert first["meta"]["best"] == second["meta"]["best"]
        assert all(torch.equal(v, second["state_dict"][k]) for k, v in first["state_dict"].items())


def test_a_training_outside_the_main_thread_leaves_signals_alone(made, tmp_path):
    failures = []

    def work():
        try:
            train(made[0], str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


@contextmanager
def small_files(limit):
    """Let the system refuse what any file would grow to beyond so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[1] if limit is None else limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "limit"),
    [("train", 0), ("train", 20_000), ("test", 0), ("test", 2500), ("predict", 0), ("predict", 100)],
)
def test_a_file_that_may_not_grow_is_named_and_none_is_cut(
    command, limit, made, work, raw_acdc, tmp_path, monkeypatch, capsys
):
    def load(*args, **options):  # through a copy in the system's folder for such
        with small_files(None):
            return load_config(*args, **options)

    for module in ("training", "testing", "model_file"):
        monkeypatch.setattr(sys.modules[f"cmems.apis.{module}"], "load_config", load)
    scan = raw_acdc / "training/patient004/patient004_frame01.nii.gz"
    last, out = str(work / "last.pth"), str(tmp_path / "out")
    act, *words = {
        "train": (resume, made[0], work),
        "test": (run_test, made[0], last, None, None, out, out, str(tmp_path / "tested")),
        "predict": (predict, made[0], last, str(scan), out),
    }[command]
    with small_files(limit), pytest.raises(SystemExit) as ended:
        main_guard(act)(*words)
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert said.startswith(f"error: {tmp_path}")
    assert said.endswith(": File too large")
    for path in tmp_path.rglob("*"):
        assert path.suffix not in (".part", ".png", ".gz", ".csv"), path
        if path.suffix == ".pth":
            assert read_checkpoint(path)["meta"]["iter"] < 3
        if path.name == "metrics.json":
            assert json.loads(path.read_text())


def test_the_log_of_a_test_is_whole_or_not_there(made, work, tmp_path, monkeypatch):
    """Beside MMEngine's log of a test lie its figures, as JSON."""
    words = made[0], str(work / "last.pth"), None, None, None, None, str(tmp_path / "tested")
    run_test(*words)
    (written,) = (tmp_path / "tested").glob("2*/2*.json")
    assert "DSC" in str(json.loads(written.read_text()))
    written.unlink()

    def fail(figures, file, **_):
        Path(file).write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmems.engine.logging.dump", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        run_test(*words)
    assert str(caught.value.filename).startswith(str(tmp_path / "tested"))
    assert not list((tmp_path / "tested").glob("2*/*.json*"))


def test_a_config_is_not_blamed_for_a_full_folder_of_temporary_files(made):
    with small_files(0), pytest.raises(OSError, match="File too large") as caught:
        load_config(made[0])
    assert caught.value.filename == tempfile.gettempdir()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_checkpoint_of_before_and_names_the_file(call, made, work, monkeypatch, capsys):
    before = (work / "last.pth").read_bytes()

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, call, refuse)
    with pytest.raises(SystemExit) as ended:
        main_guard(resume)(made[0], work)
    monkeypatch.undo()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {work / 'last.pth'}: No space left on device\n")
    assert not list(work.glob(".*.part"))
    assert newest_whole(work)[0].read_bytes() == before


def test_testing_refuses_weights_that_are_none_and_a_split_without_labels(made, work, tmp_path, prepared_acdc):
    change(work / "last.pth", lambda s: s["state_dict"]["networks.0.head.weight"].fill_(float("inf")))
    with pytest.raises(InputError, match="not finite"):
        run_test(made[0], str(work / "last.pth"))
    bare = tmp_path / "bare"
    shutil.copytree(prepared_acdc, bare)
    unlabel(bare, [*PreparedDataset(bare).cases("val"), *PreparedDataset(bare).cases("test")])
    with pytest.raises(InputError, match="no case of split 'test' is labelled"):
        run_test(made[0], str(made[1] / "last.pth"), cfg_options={"data_root": str(bare)})


def test_differences_are_told_by_key():
    made = dict(a=dict(b=[1, dict(c=2)]), seed=0)
    assert differing(made, made) == []
    assert differing(made, dict(a=dict(b=[1, dict(c=3)]))) == [
        "a.b.1.c: 2 there, 3 here",
        "seed: 0 there, not set here",
    ]


def test_a_checkpoint_is_read_once_for_what_it_says_and_again_once_it_changed(tiny_config, tmp_path, monkeypatch):
    config, path, read = (
        tiny_config(extra="val_dataloader = val_cfg = val_evaluator = None\n"),
        tmp_path / "last.pth",
        [],
    )
    train(config, str(tmp_path), cfg_options={"train_cfg.max_iters": 1})
    monkeypatch.setattr(
        "cmems.engine.checkpoint.torch.load", lambda *a, _load=torch.load, **k: read.append(1) or _load(*a, **k)
    )
    assert [read_meta(path)["iter"] for _ in range(3)] == [1] * 3
    assert len(read) == 1
    resume(config, tmp_path, **{"train_cfg.max_iters": 2})
    assert len(read) == 2  # for its weights
    assert read_meta(path)["iter"] == 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_meta(path)
