"""One file that predicts without its data set, in Python and on the command line, and goes on after an interruption."""

import inspect
import json
import math
import os
import pickle
import shutil
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import REPO, TINY
from scipy import ndimage

import cmems
from cmems.apis import pick, predict, publish, train
from cmems.apis import test as run_test
from cmems.apis.config import load_config
from cmems.apis.model_file import _kept, _networks, _problems, model_of_config, read_model
from cmems.apis.trust import read_trust
from cmems.cli import main
from cmems.engine.checkpoint import seal
from cmems.errors import InputError, SomeUnusable
from cmems.models.prediction import Prediction
from cmems.registry import BACKBONES
from cmems.visualization.panels import panel

EXTRA = 'val_dataloader = val_cfg = val_evaluator = None\nmodel["prediction"] = dict({})\n'


def make(root, prepared_acdc, prediction):
    """Return a config and a checkpoint of weights that give several classes; the data set lies in ``root``."""
    shutil.copytree(prepared_acdc, root / "data")
    config, path = root / "tiny.py", root / "w" / "last.pth"
    config.write_text(TINY.format(repo=REPO, base="cmems/unet_acdc.py", data=root / "data") + EXTRA.format(prediction))
    train(str(config), str(root / "w"), cfg_options={"train_cfg.max_iters": 1})
    saved, stream = torch.load(path, weights_only=True), torch.Generator().manual_seed(0)
    for name, values in saved["state_dict"].items():
        if name.endswith("head.weight"):
            values.normal_(0, 3, generator=stream)
    torch.save(saved, path)
    seal(path)
    return str(config), str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory, prepared_acdc):
    """A config, its checkpoint and the model file made of it."""
    root = tmp_path_factory.mktemp("made")
    clean = 'views=4, averaged=True, unknown_below=0.4, clean=[dict(type="KeepLargest", of="foreground")]'
    config, checkpoint = make(root, prepared_acdc, clean)
    publish(checkpoint, root / "model.pth")
    return config, checkpoint, str(root / "model.pth")


@pytest.fixture
def model(made, tmp_path, monkeypatch):
    """A copy of the model file, alone in an empty folder, where this process is."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made[2], "model.pth")
    return "model.pth"


@pytest.fixture
def scans(raw_acdc, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for frame in (1, 2):
        name = f"patient003_frame0{frame}.nii.gz"
        shutil.copy(raw_acdc / "training/patient003" / name, folder)
    return folder


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_model_file_predicts_what_config_and_checkpoint_predict(made, model, scans):
    config, checkpoint, _ = made
    expected = predict(config, checkpoint, scans, "by_config")
    shutil.move(f"{config.removesuffix('tiny.py')}data", "data")  # the model file knows of none
    try:
        found = predict(model, None, scans, "by_model")
        segmenter = cmems.Segmenter(model)
    finally:
        shutil.move("data", f"{config.removesuffix('tiny.py')}data")
    assert found.trust == expected.trust
    assert found.model == expected.model == "the ensemble, cleaned up"
    for name, path in found.paths.items():
        assert len(np.unique(voxels(path))) > 2
        assert np.array_equal(voxels(path), voxels(expected.paths[name]))
        scan = nib.load(scans / f"{name}.nii.gz")
        array = np.asarray(scan.dataobj).T
        for labels in (segmenter(scans / f"{name}.nii.gz"), segmenter(array, (8, 1.5, 1.5), axes="RAS"),
                       segmenter(array, spacing=(8, 1.5, 1.5))):  # fmt: skip
            assert labels.dtype == np.uint8
            assert np.array_equal(labels.T, voxels(path))


def test_the_file_holds_the_averaged_weights_and_no_optimiser(made):
    config, checkpoint, path = made
    saved = torch.load(path, weights_only=True)
    whole = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert set(saved) == {"state_dict", "meta"}
    for name, values in saved["state_dict"].items():
        assert torch.equal(values, whole[f"teachers.ema.{name}"])
    by_config = cmems.Segmenter(config, checkpoint)
    assert by_config.key == cmems.Segmenter(path).key
    assert model_of_config(config, checkpoint).preparation == read_model(path).preparation
    with pytest.raises(InputError, match="it is a model file already"):
        publish(path, "again.pth")


def test_a_model_file_takes_the_prediction_of_every_config_that_is_shipped():
    seen = set()
    for path in sorted(set(REPO.glob("configs/*/*.py")) - set(REPO.glob("configs/_base_/*"))):
        prediction = load_config(str(path)).model.get("prediction") or {}
        seen |= set(prediction)
        content = dict(networks=[{"type": "UNet"}], env={}, channels_last=True, preparation={})
        assert not list(_problems(dict(content, prediction=json.loads(json.dumps(_kept(prediction))))))
    assert {"views", "scales", "resize", "averaged", "clean", "unknown_below"} <= seen
    assert {*_kept(inspect.signature(Prediction).parameters)} == {
        "batch",
        "views",
        "scales",
        "resize",
        "bfloat16",
        "clean",
    }


def test_settings_changed_since_the_training_come_from_a_config(made, tmp_path):
    config, checkpoint, path = made
    publish(checkpoint, tmp_path / "one.pth", config, {"model.prediction.views": 1})
    assert cmems.Segmenter(tmp_path / "one.pth").prediction.views == 1
    assert cmems.Segmenter(tmp_path / "one.pth", views=4).key == cmems.Segmenter(path).key
    keys = []
    for scales in ([1, 1.0], [1.25, 1], [1, 1.25, 1.25], [1, 1.3]):
        publish(checkpoint, tmp_path / "scaled.pth", config, {"model.prediction.scales": scales})
        keys.append(cmems.Segmenter(tmp_path / "scaled.pth").key)
    assert keys[0] == cmems.Segmenter(path).key  # the same prediction, spelt otherwise
    assert keys[1] == keys[2]
    assert len({*keys}) == 3
    other = {"model.backbone.act_cfg": dict(type="ReLU")}
    for use in (publish, cmems.Segmenter, run_test):
        words = (checkpoint, tmp_path / "one.pth", config) if use is publish else (config, checkpoint)
        with pytest.raises(InputError, match=r"built otherwise: model.backbone: act_cfg: .* there, .*ReLU.* here"):
            use(*words, cfg_options=other)
    same = {"norm_cfg": dict(type="SyncBN"), "dropout": (0, 0, 0, 0, 0)}
    assert cmems.Segmenter(config, checkpoint, {f"model.backbone.{key}": value for key, value in same.items()})
    with pytest.raises(InputError, match=r"this config has 1 network\(s\): UNet\(4 classes\); .* not expected"):
        publish(checkpoint, tmp_path / "one.pth", config, {"model.num_networks": 1})
    saved = torch.load(checkpoint, weights_only=True)
    del saved["meta"]["preparation"]  # as those from before it was kept
    torch.save(saved, tmp_path / "old.pth")
    with pytest.raises(InputError, match="does not tell what it was trained with; --config CONFIG does"):
        publish(tmp_path / "old.pth", tmp_path / "two.pth")
    assert not (tmp_path / "two.pth").exists()


def test_publish_takes_no_other_data_and_replaces_nothing_but_a_model_file(made, tmp_path):
    config, checkpoint, path = made
    data = shutil.copytree(config.replace("tiny.py", "data"), tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(dict(manifest, classes=manifest["classes"][::-1])))
    with pytest.raises(InputError, match="it was trained on data that were prepared otherwise than acdc: classes: "):
        publish(checkpoint, tmp_path / "one.pth", config, {"data_root": str(data)})
    best = tmp_path / "best.pth"
    shutil.copy(checkpoint, best)
    before = best.read_bytes()
    with pytest.raises(InputError, match=r"best\.pth: is there, and is no file of `cmems publish`"):
        publish(checkpoint, best)
    assert best.read_bytes() == before
    shutil.copy(path, tmp_path / "one.pth")
    publish(checkpoint, tmp_path / "one.pth", config, {"model.prediction.views": 1})
    assert cmems.Segmenter(tmp_path / "one.pth").prediction.views == 1


def test_a_network_that_computes_as_it_is_built_is_read_too():
    settings = dict(type="SwinUNet", num_classes=2)
    weights = BACKBONES.build(dict(settings)).state_dict()
    content = dict(networks=[settings], channels_last=True)
    (net,) = _networks(content, dict(state_dict={f"0.{k}": v for k, v in weights.items()}, meta={}), "model x")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in weights.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_are_float32_whatever_the_program_around_computes_in(dtype, made, scans):
    config, checkpoint, path = made
    scan = scans / "patient003_frame01.nii.gz"
    expected = cmems.Segmenter(path)(scan)
    torch.set_default_dtype(dtype)
    try:
        found = [cmems.Segmenter(*words) for words in ([path], [config, checkpoint])]
        labels = [segmenter(scan) for segmenter in found]
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    for segmenter, each in zip(found, labels, strict=True):
        assert {p.dtype for net in segmenter.networks for p in net.parameters()} == {torch.float32}
        assert np.array_equal(each, expected)


def poison(path, act):
    saved = torch.load(path, weights_only=True)
    content = json.loads(saved["meta"]["model"])
    act(content)
    saved["meta"]["model"] = json.dumps(content)
    torch.save(saved, path)
    seal(path)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("networks", 0, "type"), "evil.UNet", "'evil.UNet' is not among the registered backbones, which are"),
        (("networks", 0, "type"), "evil", "'evil' is not among the registered backbones"),
        (("networks", 0, "type"), "cmems.evil", "'cmems.evil' is not among the registered backbones"),
        (("networks", 1, "norm_cfg"), {"type": "evil.Norm"}, "norm_cfg.type: 'evil.Norm' is not among"),
        (("networks", 1, "norm_cfg"), {"type": "BN", "_scope_": "evil"}, "reads nothing from elsewhere"),
        (("networks", 0, "init_cfg"), {"type": "Pretrained"}, "reads nothing from elsewhere"),
        (("networks", 0, "pretrained"), True, "reads nothing from elsewhere"),
        (("networks", 0, "drop_path"), "hub", "drop_path: a model file reads nothing from elsewhere"),
        (("networks", 0, "drop_path"), 0.2, "networks: TypeError"),  # a number leads nowhere
        (("networks", 0, "encoder"), "hf-hub:evil/net", "expected a plain word"),
        (("networks", 0, "channels"), [1 << 40] * 5, "weights|shape|networks"),
        (("networks", 0, "surprise"), 1, "networks: TypeError"),
        (("prediction", "clean", 0, "type"), "evil.Clean", "not among the registered post-processors"),
        (("prediction", "views"), 3, "expected 1, 4 or 8"),
        (("prediction", "scales"), [1] * 9, "model.pth: .*expected 1 to 8 numbers"),
        (("prediction", "clean", 0, "surprise"), 3, "model.pth: prediction: .*surprise"),
        (("prediction", "clean", 0, "classes"), [4], "KeepLargest: classes: expected labels, 1 to 3, got 4"),
        (("prediction", "resize"), ["labels"], "prediction.resize: expected"),
        (("preparation", "classes"), ["RV"], "networks of 2 classes"),
        (("preparation", "size"), 1 << 30, "size: expected 4096 or less"),
        (("preparation", "intensity"), "by hand", "intensity: expected one of"),
        (("env", "compiled_kernels"), "yes", "expected true or false"),
        (("version",), 2, "expected a file of `cmems publish`"),
    ],
)
def test_nothing_in_a_model_file_is_imported_or_runs_or_leads_out(where, value, message, model, tmp_path, monkeypatch):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)

    def act(content):
        node = content
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = value

    poison(model, act)
    with pytest.raises(InputError, match=message):
        cmems.Segmenter(model)
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def test_a_damaged_model_file_is_refused_in_one_line(made, model, scans, monkeypatch, capsys, tmp_path):
    content = bytearray((tmp_path / model).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / model).write_bytes(content)
    for path, message in [(model, "its bytes are not those of its checksum"), (made[1], "a file of `cmems publish`"),
                          ("none.pth", "no such file")]:  # fmt: skip
        monkeypatch.setattr("sys.argv", ["cmems", "predict", path, str(scans), "masks"])
        with pytest.raises(SystemExit):
            main()
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "masks").exists()


def test_an_interrupted_prediction_goes_on(model, scans, tmp_path):
    segmenter = cmems.Segmenter(model)
    segmenter.together = 1

    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    shutil.copy(scans / "patient003_frame01.nii.gz", scans / "a.nii.gz")
    with pytest.raises(KeyboardInterrupt):
        predict(segmenter, None, scans, "masks", progress=stop)
    seen = []
    found = predict(segmenter, None, scans, "masks", progress=lambda *a: seen.append(a[0]))
    assert found.kept == ["a", "patient003_frame01"]
    assert seen == [1, 2, 3]
    assert len(found.trust) == 9
    assert (tmp_path / "masks/trust.csv").read_text().count("\n") == 10
    edited = tmp_path / "masks/a.nii.gz"
    before = nib.load(edited)
    nib.save(nib.Nifti1Image(np.zeros_like(voxels(edited)), before.affine, before.header), edited)
    shutil.copy(scans / "patient003_frame02.nii.gz", scans / "patient003_frame01.nii.gz")  # another scan of that name
    (tmp_path / "masks/patient003_frame02.nii.gz").write_bytes(b"cut")
    found = predict(segmenter, None, scans, "masks")
    assert (found.kept, found.mended) == ([], ["a", "patient003_frame02"])  # of damage it cannot tell
    assert not voxels(edited).any()
    rows = [row for row in read_trust(tmp_path / "masks/trust.csv") if row["scan"] in found.mended]
    assert [(row["note"], row["components"]) for row in rows] == [("by hand", None)] * 6
    assert all(math.isnan(row["ml"]) for row in rows)
    assert [p.scan for p in pick(str(scans), "more", 3, after="masks")] == ["patient003_frame01"]
    parts = [tmp_path / "masks" / f".{name}.nii.gz.123.part" for name in "ab"]
    for part in parts:
        part.write_bytes(b"of a killed process")
    os.utime(parts[0], (0, 0))
    (tmp_path / "masks/trust.csv").unlink()  # of whom no row tells, by the prediction
    found = predict(segmenter, None, scans, "masks")
    assert (found.kept, sorted(found.mended)) == ([], ["a", "patient003_frame02"])
    assert not voxels(edited).any()
    assert [part.exists() for part in parts] == [False, True]  # the other may be being written
    parts[1].unlink()
    for path in (edited, tmp_path / "masks/patient003_frame02.nii.gz"):
        path.unlink()
    assert predict(model, None, scans, "masks", views=1).kept == []
    assert predict(model, None, scans, "masks", views=1, probabilities=True).kept == []
    assert len(predict(model, None, scans, "masks", views=1, probabilities=True).kept) == 3


def test_maps_of_the_mask_before_go_with_it_and_what_is_not_ours_stays(model, scans, tmp_path):
    out, maps = tmp_path / "masks", dict(doubt_maps=True, probabilities=True, pictures=True)
    first, *rest = sorted(path.name[:-7] for path in scans.iterdir())
    predict(model, None, scans, out, **maps)
    names = [f"doubt/{first}_entropy.nii.gz", f"doubt/{first}_disagreement.nii.gz", f"probabilities/{first}.nii.gz"]
    names = [out / name for name in (*names, f"pictures/{first}.png")]
    own = out / f"doubt/{rest[0]}_entropy.nii.gz"
    shutil.copy(scans / f"{first}.nii.gz", own)  # somebody's
    (out / f"{first}.nii.gz").unlink()
    predict(model, None, scans, out)  # by the same model, of the same scan
    assert all(name.is_file() for name in names)
    shutil.copy(scans / f"{rest[0]}.nii.gz", scans / f"{first}.nii.gz")  # another scan of that name
    predict(model, None, scans, out, pictures=True)
    assert [name.is_file() for name in names] == [False, False, False, True]
    predict(model, None, scans, out, network=1, views=1)
    left = [path for folder in ("doubt", "probabilities", "pictures") for path in (out / folder).iterdir()]
    assert left == [own]


def test_a_name_too_long_for_its_files_ends_no_other_scan(model, scans, tmp_path):
    long = shutil.copy(scans / "patient003_frame01.nii.gz", scans / f"{'x' * 240}.nii.gz")
    assert len(predict(model, None, scans, tmp_path / "masks").paths) == 3
    with pytest.raises(SomeUnusable, match=r"x\.nii\.gz: its files' names would take 260 bytes, of 255 that") as caught:
        predict(model, None, scans, tmp_path / "masks", doubt_maps=True, network="ensemble")
    assert len(caught.value.made.paths) == 2
    assert len(list((tmp_path / "masks/doubt").iterdir())) == 4
    assert predict(model, None, long, tmp_path / "masks", network=1).paths  # to which no such map belongs


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_a_name_that_is_not_unicode_ends_no_other_scan(model, scans, tmp_path):
    shutil.copy(scans / "patient003_frame01.nii.gz", scans / os.fsdecode(b"sc\xe4n.nii.gz"))
    with pytest.raises(SomeUnusable, match=r"sc\\udce4n\.nii\.gz: its name is not in Unicode .*; rename") as caught:
        predict(model, None, scans, tmp_path / "masks")
    assert len(caught.value.made.paths) == 2
    assert len({row["scan"] for row in read_trust(tmp_path / "masks/trust.csv")}) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("patient003_frame01.nii.gz", "file"), ("trust.csv", "file"), ("labels_itksnap.txt", "file"), ("doubt", "folder")],
)
def test_what_cannot_be_written_over_is_told_before_anything_is_segmented(name, expected, model, scans, tmp_path):
    out = tmp_path / "masks"
    (out / name if expected == "file" else out).mkdir(parents=True)
    if expected == "folder":
        (out / name).write_text("mine")
    with pytest.raises(InputError, match=f"^{out / name}: expected a {expected}, got a "):
        predict(model, None, scans, out, doubt_maps=True)
    assert [path.name for path in out.iterdir()] == [name]


def test_parts_of_the_scans_are_segmented_side_by_side(model, scans, tmp_path, monkeypatch, capsys, in_this_process):
    """By two commands, of which one meets a file that is no scan; then by a part alone, whose masks stay."""

    def cmems_predict(*words):
        monkeypatch.setattr("sys.argv", ["cmems", "predict", model, "scans", *words, "--views", "1", "--network=1"])
        try:
            main()
        except SystemExit as ended:
            return ended.code, capsys.readouterr()
        return 0, capsys.readouterr()

    shutil.copy(scans / "patient003_frame01.nii.gz", scans / "a.nii.gz")
    whole = predict(model, None, scans, "whole", views=1, network=1)
    (scans / "b.nii.gz").write_bytes(b"none")
    code, said = cmems_predict("masks", "--jobs", "2")
    assert code == 2
    assert (tmp_path / "masks/parts/2_of_2.txt").is_file()
    assert "b.nii.gz: truncated or not a NIfTI file" in said.err
    assert (tmp_path / "masks/trust.csv").read_text() == (tmp_path / "whole/trust.csv").read_text()
    for name, path in whole.paths.items():
        assert (tmp_path / "masks" / f"{name}.nii.gz").read_bytes() == path.read_bytes()
    os.replace(scans / "a.nii.gz", tmp_path / "aside")
    (scans / "a.nii.gz").write_bytes(b"none")  # whose mask is of the scan that was there
    edited = tmp_path / "masks/patient003_frame01.nii.gz"
    before = nib.load(edited)
    nib.save(nib.Nifti1Image(np.zeros_like(voxels(edited)), before.affine, before.header), edited)
    code, said = cmems_predict("masks", "--jobs", "2")
    assert "masks: 2 masks by network 1, cleaned up, 1 by hand" in said.out
    assert "| patient003_frame01 | RV    |              – |           – |    – |     – | by hand" in said.out
    assert said.err.count("stays as it is; remove it to have it predicted anew: patient003_frame01\n") == 1
    os.replace(tmp_path / "aside", scans / "a.nii.gz")
    (scans / "b.nii.gz").unlink()
    code, said = cmems_predict("parts", "--part", "7/7")
    assert (code, said.out.splitlines()[-1]) == (0, "parts: no scan is left for part 7 of 7")
    code, said = cmems_predict("parts", "--part", "1/2")
    assert code == 0
    assert said.out.endswith("which to look at first: trust_1_of_2.csv\n")
    assert {p.name for p in (tmp_path / "parts").glob("[!.]*.*")} - {"labels_itksnap.txt", "labels_slicer.ctbl"} == {
        "a.nii.gz", "patient003_frame02.nii.gz", "trust_1_of_2.csv"}  # fmt: skip
    code, said = cmems_predict("parts")
    assert "3 masks by network 1, cleaned up, 2 of them from before" in said.out
    assert (tmp_path / "parts/trust.csv").read_text() == (tmp_path / "whole/trust.csv").read_text()
    assert not list((tmp_path / "parts").glob("trust_*"))
    for words, message in ((("--part", "3/2"), "expected K/N"), (("--jobs", "0"), "--jobs: expected 1 or more"),
                           (("--part", "1/2", "--jobs", "2"), "expected one of them"),
                           (("--slurm", "timeout_min=5"), "timeout_min=5: is for --launcher slurm")):  # fmt: skip
        code, said = cmems_predict("none", *words)
        assert code == 2
        assert message in said.err


def test_a_row_of_trust_is_of_the_mask_that_is_there(model, scans, tmp_path):
    """Killed after a mask and before its row, or run by another model before: the old row is not believed."""
    shutil.copy(scans / "patient003_frame01.nii.gz", scans / "+a.nii.gz")
    first = predict(model, None, scans, "masks", views=1)
    table = tmp_path / "masks/trust.csv"
    rows = table.read_text()
    second = predict(model, None, scans, "masks", network=1, clean=False, views=1)
    assert (first.kept, second.kept) == ([], [])
    table.write_text(rows)
    assert predict(model, None, scans, "masks", network=1, clean=False, views=1).kept == []
    (tmp_path / "masks/trust_1_of_2.csv").write_text(rows)
    again = predict(model, None, scans, "masks", network=1, clean=False, views=1)
    assert again.kept == ["+a", "patient003_frame01", "patient003_frame02"]
    assert len(again.trust) == 9
    (scans / "patient003_frame01.nii.gz").unlink()
    predict(model, None, scans, "masks", views=1)  # the rows of what is not among the scans stay
    assert table.read_text().count("patient003_frame01") >= 3
    (tmp_path / "masks/patient003_frame01.nii.gz").write_bytes(b"another")
    predict(model, None, scans, "masks", views=1)
    assert "patient003_frame01" not in table.read_text()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.prediction.vews", 1, "model.prediction.vews: .* no such setting; did you mean views"),
        ("model.objectives", None, "model.objectives: expected a value, got None"),
        ("test_dataloader.batch_size", -1, "test_dataloader.batch_size: expected a positive integer, got -1"),
        ("test_dataloader.batch_size", 0, "test_dataloader.batch_size: expected a positive integer, got 0"),
        ("model.prediction.clean", [dict(type="KeepLargest", classes=["RV"])], "expected labels, 1 to 3, got 'RV'"),
        (
            "model.prediction.clean",
            [dict(type="CutAtBase", classes=[1], wall=4)],
            "wall: expected a label, 1 to 3, got",
        ),
        (
            "model.prediction.clean",
            [dict(type="KeepLargest", beside=[2])],
            r"beside: expected a label, 1 to 3, got \[2\]",
        ),
        ("model.prediction.clean", [dict(type="RemoveSmall", mm3=1, classes=[9])], "RemoveSmall: classes: expected"),
    ],
)
def test_a_mistake_in_what_predicts_ends_in_one_message(key, value, message, made, scans, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        predict(*made[:2], scans, str(tmp_path / "masks"), cfg_options={key: value})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "masks").exists()


def test_networks_views_and_clean_up_are_chosen(made, model, scans, monkeypatch, capsys):
    path = scans / "patient003_frame01.nii.gz"
    plain = cmems.Segmenter(model, clean=False)
    ready = plain.preparation.ready(plain.volume(path), path)
    (models,) = plain.prediction.segment(plain.networks, [ready.content])
    assert np.array_equal(plain(path), models["ensemble"])
    assert np.array_equal(cmems.Segmenter(model, network=2, clean=False)(path), models["network_2"])
    assert (models["network_2"] != models["ensemble"]).any()
    largest = cmems.Segmenter(model, network=1, clean=False, keep_largest=True)(path)
    assert all(ndimage.label(largest == k)[1] <= 1 for k in (1, 2, 3))
    assert ndimage.label(models["network_1"] == 1)[1] > 1
    with pytest.raises(InputError, match="--network 3: model.pth has 1, 2 or ensemble"):
        cmems.Segmenter(model, network=3)
    words = ["predict", model, str(path), "masks", "--network", "2", "--views", "1", "--no-clean", "--keep-largest"]
    drawn = []
    module = sys.modules["cmems.apis.predict"]  # whose name is the function's too
    monkeypatch.setattr(module, "panel", lambda sample, **how: drawn.append(sample) or panel(sample, **how))
    monkeypatch.setattr("sys.argv", ["cmems", *words, "--pictures"])
    main()
    assert list(drawn[0]["predictions"]) == ["network_2", "cleaned"]
    said = capsys.readouterr().out
    assert said.startswith("model.pth: network 2, cleaned up, on ")
    assert "masks: 1 mask by network 2, cleaned up; 1 RV, 2 Myo, 3 LV;" in said


def test_a_segmenter_warns_of_what_predict_says(model, scans, monkeypatch, capsys):
    segmenter = cmems.Segmenter(model, network=1, views=1)
    whole = nib.load(scans / "patient003_frame01.nii.gz")
    odd = nib.Nifti1Image(np.asarray(whole.dataobj), whole.affine @ np.diag([8, 8, 1, 1]))
    nib.save(odd, scans / "odd.nii.gz")
    array = np.asarray(whole.dataobj).T
    for scan in ((scans / "odd.nii.gz",), (array, (8, 12, 12))):
        with pytest.warns(UserWarning, match="pixels of quite another size than the prepared cases'.*12 mm"):
            segmenter(*scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segmenter(array, (8, 1.5, 1.5))
    with pytest.raises(InputError, match="the model: expected the path of a file, got NoneType"):
        cmems.Segmenter(None)
    for words, message in (((model, "scans", "mask.nii.gz"), "mask.nii.gz: expected a folder, where masks are called"),
                           ((str(scans), "scans", "m"), "expected a checkpoint behind a data set or a config"),
                           (("x.py", "scans", "m"), "cmems predict x.py CHECKPOINT scans m")):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["cmems", "predict", *words])
        with pytest.raises(SystemExit):
            main()
        assert message in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["cmems", "check", model])
    main()
    assert "model.pth: whole; a model file, " in capsys.readouterr().out


def test_probabilities_and_label_names_lie_beside_the_masks(made, model, scans, tmp_path):
    segmenter = cmems.Segmenter(model, network=1, clean=False, views=1)
    segmenter.prediction.resize = "probabilities"
    predict(segmenter, None, scans, "masks", probabilities=True)
    soft = nib.load("masks/probabilities/patient003_frame01.nii.gz")
    shares = soft.get_fdata()
    assert shares.shape == (40, 40, 3, 4)
    assert np.allclose(shares.sum(-1), 1, atol=1e-4)
    mask = voxels("masks/patient003_frame01.nii.gz")
    assert (shares.argmax(-1) == mask).mean() > 0.999  # but for ties
    assert np.array_equal(soft.affine, nib.load(scans / "patient003_frame01.nii.gz").affine)
    assert '    1  86 180 233 1 1 1 "RV"\n' in (tmp_path / "masks/labels_itksnap.txt").read_text()
    assert "2 Myo 240 228 66 255\n" in (tmp_path / "masks/labels_slicer.ctbl").read_text()


def test_masks_overlay_their_scans_in_every_orientation(model, scans, tmp_path):
    (tmp_path / "turned").mkdir()
    scan = nib.load(scans / "patient003_frame01.nii.gz")
    oblique = np.eye(4)
    oblique[:3, :3] = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.2, 1, 0.1], [0.1, -0.1, 1]]))[0]
    oblique *= np.sign(np.diag(oblique))  # columns that keep their directions
    image = nib.Nifti1Image(np.asarray(scan.dataobj), oblique @ scan.affine)
    images = {}
    for axes in np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T:
        if len(set(axes)) == 3:
            for flips in np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T:
                name = "".join(map(str, axes)) + "".join("-+"[int(f > 0)] for f in flips)
                path = tmp_path / "turned" / f"{name}.nii"
                nib.save(image.as_reoriented(np.stack([axes, flips], 1)), path)
                images[name] = nib.load(path)
    assert len({nib.aff2axcodes(each.affine) for each in images.values()}) == 48
    masks = predict(model, None, tmp_path / "turned", "masks", network=1, views=1).paths
    expected = np.asarray(nib.load(masks["012+++"]).dataobj)
    assert len(np.unique(expected)) > 1
    for name, path in masks.items():
        mask = nib.load(path)
        assert np.array_equal(mask.affine, images[name].affine)
        back = nib.orientations.io_orientation(np.linalg.inv(image.affine) @ mask.affine)
        assert np.array_equal(np.asarray(mask.as_reoriented(back).dataobj), expected), name


@pytest.mark.parametrize(
    ("array", "spacing", "axes", "message"),
    [
        (np.zeros((4, 4)), (1, 1, 1), None, r"expected \(D, H, W\) real numbers"),
        (np.zeros((2, 4, 4), complex), (1, 1, 1), None, "of complex128"),
        (np.ones((2, 4, 4)), (1, 1, 1), None, "the array: expected an image, got the constant 1"),
        (np.arange(32, dtype=np.uint64).reshape(2, 4, 4) + 2**63, (1, 1, 1), None, "tell apart, got 92.*08 to 92.*39$"),
        (
            np.arange(500, 532).reshape(2, 4, 4) + np.iinfo(np.int64).min,  # which a float64 rounds to two values
            (1, 1, 1),
            None,
            "the array: expected voxels that a float64 can tell apart, got -92",
        ),
        (
            np.ma.masked_less(np.eye(4)[None], 1),
            (1, 1, 1),
            None,
            "the array: expected all its voxels, got some that are",
        ),
        (np.eye(4)[None], None, None, "spacing: expected"),
        (np.eye(4)[None], (1, 1, 0), None, "spacing: expected"),
        (np.eye(4)[None], (1, 1, 1), "RL", "axes: expected three letters"),
        (np.eye(4)[None], "abc", None, "spacing: expected .* got 'abc'$"),
        (np.eye(4)[None], (1e300, 1e300, 1e300), None, "spacing: expected"),
        ("scan.nii", (1, 1, 1), None, "its header tells spacing and axes"),
        (__file__, None, None, r"\.py: not NIfTI, NRRD, PNG or DICOM by its name; convert it"),
        (
            os.path.dirname(__file__),
            None,
            None,
            r"tests: expected a scan, .*of a series any of its files.*, got a folder",
        ),
        (torch.zeros(2, 4, 4), (1, 1, 1), None, "the scan: expected a path, or a NumPy array .*, got Tensor$"),
        ([[1, 2]], (1, 1, 1), None, "the scan: expected .*, got list$"),
        (None, None, None, "the scan: expected .*, got NoneType$"),
    ],
)
def test_an_array_that_is_no_scan_is_refused(array, spacing, axes, message, made):
    with pytest.raises(InputError, match=message):
        cmems.Segmenter(made[2])(array, spacing, axes)


def test_a_choice_that_is_none_is_refused_in_one_line(made, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    path = made[2]
    for choice, message in [
        (dict(network=1.0), "--network 1.0: .*model.pth has 1, 2 or ensemble"),
        (dict(network=True), "--network True: "),
        (dict(views=0), "--views 0: expected 1, 4 or 8"),
        (dict(views=True), "--views True: expected 1, 4 or 8"),
        (dict(clean="no"), "clean: expected True or False, got 'no'"),
        (dict(keep_largest="no"), "keep_largest: expected True or False, got 'no'"),
        (dict(device="cuda"), "--device cuda: there is none here; expected (mps or )?cpu"),
        (dict(device="banana"), "--device banana: there is none here; expected (mps or )?cpu"),
    ]:
        with pytest.raises(InputError, match=message):
            cmems.Segmenter(path, **choice)
    second = cmems.Segmenter(path, network=np.int64(2), views=np.int64(1), device="cpu")
    assert second.whose.startswith("network 2")
    for given, message in [
        (dict(part="1/2"), r"part: expected \(K, N\), two integers, got '1/2'"),
        (dict(part=(2, 1)), "--part 2/1: expected K/N"),
        (
            dict(checkpoint="x.pth", cfg_options=dict(x=1), views=1),
            "checkpoint, cfg_options, views: expected none beside",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            predict(second, given.pop("checkpoint", None), scans, tmp_path / "masks", **given)
    assert not (tmp_path / "masks").exists()


def test_threads_take_turns_at_one_segmenter_and_a_copy_has_a_turn_of_its_own(model, scans):
    segmenter, inside, most = cmems.Segmenter(model, network=1, views=1), [], []
    path = scans / "patient003_frame01.nii.gz"
    labels, whole = segmenter(path), segmenter.prediction.segment

    def watched(*args):
        inside.append(0)
        most.append(len(inside))
        time.sleep(0.05)
        try:
            return whole(*args)
        finally:
            inside.pop()

    segmenter.prediction.segment = watched
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(segmenter, [path] * 8):
            assert np.array_equal(found, labels)
    assert most == [1] * 8
    del segmenter.prediction.segment
    again = pickle.loads(pickle.dumps(segmenter))
    assert np.array_equal(again(path), labels)
