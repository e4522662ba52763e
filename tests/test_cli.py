"""The command ``cmems``: quick help, a config for one's own data, and an installed package that works from anywhere."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from test_formats import nrrd, segments

from cmems.apis import load_config
from cmems.apis.places import find_config, known_configs
from cmems.apis.record import read_record
from cmems.apis.training import _flat
from cmems.cli import main
from cmems.cli.commands import COMMANDS
from cmems.datasets.prepared import PreparedDataset
from cmems.errors import InputError

REPO = Path(__file__).parents[1]
TOOLS = sorted((REPO / "tools").glob("*.py"))
TINY = ("--cfg-options", "model.backbone.channels=(4,4,8,8,8)")


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run ``cmems`` in this process, in an empty folder; give its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["cmems", *map(str, words)])
        capsys.readouterr()
        try:
            code = main() or 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def own(raw_acdc, tmp_path):
    """One's own scans: four, and one mask painted on slice 1 of one of them."""
    root = tmp_path / "own"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for p in (1, 2, 3, 4):
        shutil.copy(raw_acdc / f"training/patient00{p}/patient00{p}_frame01.nii.gz", root / f"images/p{p}.nii.gz")
    paint(root, raw_acdc)
    return root


def paint(root, raw_acdc, without=(), patient=1):
    whole = nib.load(raw_acdc / f"training/patient00{patient}/patient00{patient}_frame01_gt.nii.gz")
    mask = np.zeros(whole.shape, np.uint8)
    mask[..., 1] = np.asarray(whole.dataobj)[..., 1]
    mask[np.isin(mask, without)] = 0
    nib.save(nib.Nifti1Image(mask, whole.affine), root / f"labels/p{patient}.nii.gz")


def prepare(cli, own, *more):
    return cli("prepare", "nifti", own, "DATA", "--classes", "RV,Myo,LV", "--size", 32, "--workers", 1, *more)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "nifti", "raw", "out", "--exemplr", "x"), "--exemplr x; did you mean --exemplar?"),
        (("predict", "m.pth", "S", "M", "--qq"), "--qq"),
        (("check", "DATA", "zzz"), "zzz"),
    ],
)
def test_an_option_that_is_none_is_said_by_its_command(words, said, cli):
    done = cli(*words)
    assert done.code == 2
    assert done.err.startswith(f"usage: cmems {words[0]}")
    assert done.err.endswith(f"error: unrecognized arguments: {said}\n")


def test_every_help_has_an_example_and_imports_nothing_heavy():
    code = """
import contextlib, io, sys
from cmems.cli import main
from cmems.cli.commands import COMMANDS
for words in ([], *([name] for name in COMMANDS)):
    sys.argv, out = ["cmems", *words, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
    assert "example:\\n  cmems " + " ".join(words) in out.getvalue(), (words, out.getvalue())
    print(out.getvalue())
print(sorted({"torch", "mmengine", "numpy", "rich", "cmems.apis", "cmems.comparison"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "(default: 224)" in done.stdout
    assert "None)" not in done.stdout
    assert "False)" not in done.stdout


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.stem)
def test_a_tool_is_one_of_the_commands(path, monkeypatch, capsys):
    assert len(path.read_text().splitlines()) < 8
    monkeypatch.setattr("sys.argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    assert sum(module.EXAMPLE in capsys.readouterr().out for module in [COMMANDS[_command_of(path)]]) == 1


def _command_of(path):
    renamed = dict(test="evaluate", prepare_data="prepare", make_phantom="phantom")
    return renamed.get(path.stem, path.stem)


@pytest.mark.parametrize("told_as", [SyntaxError, InputError])
def test_ctrl_c_that_a_library_made_another_error_of_ends_in_a_word(told_as, cli, monkeypatch):
    def act(path):
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise told_as("pages of it") from None

    monkeypatch.setattr("cmems.cli.check.check_data", act)
    done = cli("check", ".")
    assert (done.code, done.err) == (130, "interrupted\n")


def test_a_current_folder_that_was_removed_is_told(cli, tmp_path):
    tmp_path.rmdir()
    done = cli("check", "data")
    assert (done.code, done.err) == (2, "error: the current folder was removed; go to one that is there\n")


def test_the_fuzz_reaches_the_tools(prepared_acdc, monkeypatch):
    monkeypatch.syspath_prepend(REPO / "tests/fuzz")
    monkeypatch.delitem(sys.modules, "tools", raising=False)
    from tools import outcome

    monkeypatch.delitem(sys.modules, "tools")
    assert outcome("prepare_data", "--check", prepared_acdc) == ("ok", "")
    ended, said = outcome("prepare_data", "--check", prepared_acdc, "--val", "a", "--channel", "0", "--overwrite")
    assert ended == "refused"
    assert "looks at a prepared data set alone; --val, --channel, --overwrite was given too" in said
    ended, said = outcome("prepare_data", "acdc", prepared_acdc / "none", "out")
    assert ended == "refused"
    assert "no such folder" in said


def test_the_configs_of_the_package_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(known_configs()) == len([p for p in (REPO / "configs").glob("*/*.py") if p.parent.name != "_base_"])
    there = load_config(REPO / "configs/cmems_plus/unet_acdc_cpu.py")
    for name in ("cmems::cmems_plus/unet_acdc_cpu", "cmems::cmems_plus/unet_acdc_cpu.py",
                 "configs/cmems_plus/unet_acdc_cpu.py"):  # fmt: skip
        assert load_config(name)._cfg_dict == there._cfg_dict
    Path("mine.py").write_text('_base_ = "cmems::cmems_plus/unet_acdc_cpu.py"\ndata_root = "here"\n')
    assert load_config("mine.py").train_dataloader.exemplar == there.train_dataloader.exemplar
    with pytest.raises(InputError, match="no such config comes with cmems; did you mean cmems::cmems_plus/unet_nifti"):
        find_config("cmems::cmems_plus/unet_nift")
    with pytest.raises(InputError, match=r"a folder without a config\.py"):
        find_config(tmp_path)
    Path("last.pth").touch()
    with pytest.raises(InputError, match=r"last\.pth: expected a Python file.*, which comes before the checkpoint"):
        find_config("last.pth")


def test_one_painted_slice_is_enough_to_train_and_predict_without_a_config(cli, own):
    done = prepare(cli, own)
    assert done.code == 0, done.err
    assert "modality mr, assumed" in done.out
    assert "exemplar: p1 slice 1; slices are counted from 0" in done.out
    assert done.out.splitlines()[-1].endswith("next: cmems train DATA; in two rounds: cmems rounds DATA")
    config = load_config("DATA")
    assert config.train_dataloader.data_root == str(Path("DATA").resolve())
    assert config.train_dataloader.exemplar_slice == dict(case="p1", slice=1)
    assert config.model.backbone.num_classes == 4
    done = cli("train", "DATA", "--steps", 1, "--seed", 3, *TINY)
    assert done.code == 0, done.err
    assert not done.err
    work = Path("work_dirs/cmems_plus/DATA")
    words = done.out.replace("\n", " ")
    assert f"next: cmems predict DATA {work.resolve()}/last.pth SCANS MASKS --cfg-options 'model.backbone." in words
    record = read_record(work)
    manifest = json.loads(Path("DATA/manifest.json").read_text())
    assert record["finished"] is True
    assert (record["steps"], record["seed"], record["data"]["name"]) == (1, 3, manifest["dataset"])
    assert {"torch", "device", "seconds", "started", "commit"} <= set(record)
    done = cli("predict", "DATA", work / "last.pth", own / "images", "MASKS", *TINY)
    assert done.code == 0, done.err
    assert len(list(Path("MASKS").glob("*.nii.gz"))) == 4
    done = cli("report", work)
    assert done.code == 0, done.err
    assert "report.html: the run's page" in done.out.replace("\n", " ")
    assert "training cases" in (work / "report.html").read_text()
    done = cli("train", "DATA", "--steps", 1)
    assert done.code == 2
    assert "holds a run" in done.err
    assert "step 1" in cli("check", work).out
    (work / "last.pth").write_bytes(b"damaged")
    assert cli("check", work / "last.pth").code == 2
    assert cli("check", "DATA").out.splitlines()[-1].endswith("as its manifest says; next: cmems train DATA")


def test_what_pick_draws_beside_masks_is_no_mask(cli, own):
    assert cli("pick", own / "images", own / "labels").code == 0
    assert prepare(cli, own).code == 0


def test_picks_are_told_before_the_scans_that_could_not_be_read(cli, own):
    (own / "images" / "z.nii.gz").write_bytes(b"cut")
    done = cli("pick", own / "images", "PICKED")
    assert done.code == 2
    assert "p1 slice 1 of 0 to 2: " in done.out
    assert "paint the one that shows every class best" in done.out
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "z.nii.gz: truncated or not a NIfTI file" in done.err


def test_every_painted_slice_is_learned_from(cli, own, raw_acdc):
    prepare(cli, own)
    paint(own, raw_acdc, patient=2)
    done = prepare(cli, own, "--overwrite")
    assert "exemplars, every painted slice: p" in done.out
    assert "the others are not learned from" not in done.out
    loader = load_config("DATA").train_dataloader
    assert {loader.exemplar_slice.case, *(each.case for each in loader.exemplar_slices)} == {"p1", "p2"}
    assert cli("train", "DATA", "--steps", 1, *TINY).code == 0
    done = prepare(cli, own, "--overwrite", "--exemplar", "p2:1")
    assert "exemplar: p2 slice 1;" in done.out
    assert "the others are not learned from; --exemplar CASE:SLICE" in done.out
    for patient in (1, 2):  # of whole masks, one slice is the exemplar
        name = f"training/patient00{patient}/patient00{patient}_frame01_gt.nii.gz"
        shutil.copy(raw_acdc / name, own / f"labels/p{patient}.nii.gz")
    done = prepare(cli, own, "--overwrite")
    assert "exemplar: p" in done.out
    assert "the others are not learned from" in done.out
    assert isinstance(load_config("DATA").train_dataloader.exemplar_slice, dict)


def test_the_lines_of_the_readme_lead_from_scans_to_masks_and_their_page(cli, own, raw_acdc):
    """The slice that `pick` proposes painted by the phantom's own labels, as 3D Slicer saves segments."""
    (block,) = (
        b for b in re.findall(r"```bash\n(.*?)```", (REPO / "README.md").read_text(), re.S) if "pick SCANS" in b
    )
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [line[0] for line in lines] == ["pick", "prepare", "train", "predict", "report", "publish"]
    own.rename("RAW")
    (Path("RAW") / "labels" / "p1.nii.gz").unlink()
    names = dict(SCANS="RAW/images", RAW="RAW")
    for line in lines:
        words = [names.get(word, word) for word in line]
        if line[0] == "train":
            words[-2:] = ["--steps", "1"]
        done = cli(*words, *(TINY if line[0] in ("train", "predict") else ()))
        assert done.code == 0, done.err
        for case, z in re.findall(r"^p(\d) slice (\d) ", done.out, re.M) if line[0] == "pick" else ():
            truth = nib.load(raw_acdc / f"training/patient00{case}/patient00{case}_frame01_gt.nii.gz")
            slice_ = np.zeros(truth.shape, np.uint8)
            slice_[..., int(z)] = np.asarray(truth.dataobj)[..., int(z)]
            if len(np.unique(slice_)) == 4:
                nrrd(Path(f"RAW/labels/p{case}.seg.nrrd"), slice_, truth.affine, **segments("RV", "Myo", "LV"))
                break
    assert len(list(Path("MASKS").glob("*.nii.gz"))) == 4
    assert "training cases" in Path("work_dirs/cmems_plus/DATA/report.html").read_text()
    done = cli("predict", "heart.pth", "RAW/images", "MASKS")
    assert done.code == 0, done.err
    assert "4 masks" in done.out


def test_a_data_set_is_trained_in_two_rounds_without_a_config(cli, own):
    prepare(cli, own)
    done = cli("rounds", "DATA", "--steps", 1, *TINY)
    assert done.code == 0, done.err
    work = Path("work_dirs/cmems_plus/DATA_rounds")
    assert {p.name for p in work.glob("labels_1/*")} == {f"p{k}.nii.gz" for k in (1, 2, 3, 4)}
    last = work / "round_2/last.pth"
    assert cli("check", work).out.count("whole; step") == 2
    assert f"next: cmems predict DATA/round2.py {last} SCANS MASKS" in done.out.replace("\n", " ")
    second = load_config("DATA/round2.py").model
    assert (second.num_networks, second.strong.type, len(second.objectives)) == (1, "ColorJitter", 2)
    assert second.prediction.averaged is True
    assert cli("predict", "DATA/round2.py", last, own / "images", "MASKS", *TINY).code == 0
    assert len(list(Path("MASKS").glob("*.nii.gz"))) == 4
    done = cli("rounds", "cmems::cmems_plus/unet_nifti")
    assert done.code == 2
    assert "one round is `cmems train`" in done.err


def test_a_class_that_the_only_mask_lacks_is_named(cli, own, raw_acdc):
    paint(own, raw_acdc, without=[3])
    done = prepare(cli, own)
    assert done.code == 0, done.err
    assert "The fullest, p1 slice 1, lacks LV: paint it there" in done.out
    assert not Path("DATA/config.py").exists()
    shutil.rmtree(own / "labels")
    assert "no training case is labelled: paint one slice" in prepare(cli, own, "--overwrite").out


def test_a_split_that_leaves_nothing_to_train_on_is_told(cli, own):
    done = prepare(cli, own, "--val", "p1,p2,p3,p4")
    assert done.code == 0, done.err
    assert "no case is left to train on: --val, --test or --splits name them all" in done.out
    assert "paint one slice" not in done.out


def test_the_anatomy_is_a_flag_each(cli, own):
    assert prepare(cli, own, "--upright", "--radial", "Myo,LV", "--one-piece").code == 0
    config = load_config("DATA")
    for part in (config.train_dataloader.exemplar.copies, config.train_dataloader.synthetic.synthesizer):
        affine, radial = part.geometric
        assert "PaintClasses" not in [look.type for look in part.organs]
        assert (affine.degrees, affine.flip) == (20, 0)
        assert radial.classes == (2, 3)
    around = config.train_dataloader.synthetic.synthesizer.background_geometric
    assert (around.degrees, around.flip) == (20, 0)
    assert (config.model.weak.quarter_turns, config.model.weak.flip, config.model.prediction.views) == (False, 0, 1)
    assert (config.train_dataloader.orientation.type, config.model.weak.degrees) == ("StackOrientation", 20)
    assert [step.type for step in config.model.prediction.clean] == ["KeepLargest"]
    assert prepare(cli, own, "--upright", "--turn", "60", "--overwrite").code == 0
    assert load_config("DATA").model.weak.degrees == 45  # W turns less than Ω


def test_a_wall_is_of_every_thickness_and_painted(cli, own):
    assert prepare(cli, own, "--wall", "LV:Myo", "--radial", "RV", "--sizes", "0.3:1.1").code == 0
    config = load_config("DATA")
    for part in (config.train_dataloader.exemplar.copies, config.train_dataloader.synthetic.synthesizer):
        affine, wall, radial = part.geometric
        assert affine.scale == (0.3, 1.1)
        assert (wall.type, wall.cavity, wall.wall, radial.classes) == ("WallShape", 3, 2, (1,))
        assert [look.type for look in part.organs] == ["PaintClasses", "ClassGain"]
        assert (part.organs[0].classes, part.outlines) == ((2,), (1, 2, 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--radial", "Aorta"), "--radial: expected classes of RV, Myo, LV; got Aorta"),
        (("--wall", "LV"), "--wall LV: expected CAVITY:WALL, two classes"),
        (("--wall", "LV:Aorta"), "--wall: expected classes of RV, Myo, LV; got Aorta"),
        (("--turn", "270"), "--turn: expected 0 to 180 degrees, got 270"),
        (("--sizes", "large"), "--sizes large: expected SMALLEST:LARGEST, e.g. 0.5:1.25"),
        (("--sizes", "1.2:0.5"), "--sizes 1.2:0.5: expected SMALLEST:LARGEST between 0.1 and 10"),
        (("--exemplar", "p1"), "--exemplar p1: expected CASE:SLICE"),
        (("--val", ","), "argument --val: expected names, comma-separated, got ','"),
        (("--radial", ","), "argument --radial: expected names, comma-separated, got ','"),
    ],
)
def test_a_wrong_choice_is_told_before_anything_is_prepared(words, message, cli, own):
    done = prepare(cli, own, *words)
    assert done.code == 2
    assert message in done.err
    assert not Path("DATA").exists()


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (["p1:0"], "--exemplar p1:0: expected a labelled slice, but of this case only 1 is painted"),
        (["p2:1"], "--exemplar p2:1: expected a labelled slice, but this case has no label"),
        (["p1:1", "p1:1"], "--exemplar p1:1: named twice"),
        (["p1:99"], "--exemplar p1:99: expected a slice of 0 to 2"),
        (["zz:0"], "; there are p1, p2, p3, …"),
        (["p4:1"], "--exemplar p4:1: p4 is in split 'val'; expected a training case"),
    ],
)
def test_a_slice_that_training_would_refuse_is_refused_before_anything_is_converted(slices, message, cli, own):
    assert prepare(cli, own).code == 0
    manifest = Path("DATA/manifest.json").read_bytes()
    done = prepare(cli, own, "--exemplar", *slices, "--val", "p4", "--overwrite")
    assert done.code == 2
    assert message in done.err
    assert Path("DATA/manifest.json").read_bytes() == manifest
    assert not Path("DATA/.partial").exists()


def test_an_exemplar_that_lacks_a_class_is_refused_before_anything_is_converted(cli, own, raw_acdc):
    paint(own, raw_acdc, without=[3])
    done = prepare(cli, own, "--exemplar", "p1:1")
    assert done.err == "error: --exemplar p1:1: expected every class, got none of LV\n"
    assert not Path("DATA/.partial").exists()


@pytest.mark.parametrize(("spacing", "pixels"), [("1e-9", "60000000000"), ("0.001", "60000"), ("1e9", "1")])
def test_an_absurd_pixel_is_refused_in_one_line(spacing, pixels, cli, own):
    done = cli("prepare", "nifti", own, "DATA", "--classes", "RV,Myo,LV", "--spacing", spacing, "--crop", "16")
    assert done.code == 2
    assert f"of 1.5 x 1.5 mm become {pixels} x {pixels} pixels of {float(spacing):g} mm; expected 8 to" in done.err
    assert done.err.count("\n") == 1


def test_slices_of_one_value_are_told_and_cannot_be_the_exemplar(cli, own):
    path = own / "images/p1.nii.gz"
    scan = nib.load(path)
    voxels = np.asarray(scan.dataobj)
    nib.save(nib.Nifti1Image(voxels * np.int16([0, 1, 0]), scan.affine), path)
    line = "warning: slices of one value, in which there is nothing to see: p1 (2 of 3, the first 0)"
    assert line in prepare(cli, own).out
    assert line in cli("check", "DATA").out
    assert [f"warning: {found}" for found in _flat(PreparedDataset("DATA"))] == [line]
    nib.save(nib.Nifti1Image(voxels * np.int16([1, 0, 1]), scan.affine), path)
    done = prepare(cli, own, "--overwrite")
    assert done.code == 2
    assert "exemplar case=p1 slice=1 of DATA: expected an image, but all its pixels are 0" in done.err


@pytest.mark.parametrize(
    "words", [("pick", "SCANS", ""), ("prepare", "nifti", "", "DATA"), ("check", ""), ("rounds", "DATA", "")]
)
def test_an_empty_word_does_not_mean_the_current_folder(words, cli):
    done = cli(*words)
    assert done.code == 2
    assert done.err.endswith("expected a word, got an empty one; is a variable not set?\n")


def test_an_option_of_the_config_has_a_value(cli):
    done = cli("train", "DATA", "--cfg-options", "work_dir=")
    assert done.code == 2
    assert done.err.endswith("--cfg-options work_dir=: expected a value, got none; is a variable not set?\n")


def test_check_reads_the_configs_and_names_foreign_files(cli, own):
    assert prepare(cli, own, "--val", "p2").code == 0
    Path("DATA/volumes/note.txt").write_text("mine")
    done = cli("check", "DATA")
    assert (done.code, done.err) == (0, "")
    assert "  warning: volumes holds what the manifest does not list: note.txt\n" in done.out
    config = Path("DATA/config.py")
    text = config.read_text()
    for other, message in [
        (text.replace("num_classes=4", "num_classes=3"), "num_classes=3, but the data has 4: background, RV, Myo, LV"),
        ("model = {'num_classes': 3}\nopen('ran', 'w')", "num_classes=3, but the data has 4: background, RV, Myo, LV"),
        ("model = dict(", "not Python ("),
        ("\0", "not Python ("),
    ]:
        config.write_text(other)
        done = cli("check", "DATA")
        assert done.code == 2
        assert done.err.startswith(f"error: DATA/config.py: {message}")
        assert done.err.count("\n") == 1
    assert not Path("ran").exists()


def test_an_edited_config_is_kept(cli, own):
    prepare(cli, own)
    config = Path("DATA/config.py")
    config.write_text(config.read_text() + "# mine\n")
    assert "kept" in prepare(cli, own).out
    assert config.read_text().endswith("# mine\n")
    Path("DATA/round2.py").write_text("# mine too\n")
    done = prepare(cli, own, "--overwrite", "--exemplar", "p1:1")
    assert Path("DATA/config.py.before").read_text().endswith("# mine\n")
    assert "what was config.py is kept as config.py.before\n" in done.out
    assert "what was round2.py is kept as round2.py.before\n" in done.out
    assert not config.read_text().endswith("# mine\n")
    assert "is kept as" not in prepare(cli, own, "--overwrite", "--exemplar", "p1:1").out
    config.write_text(config.read_text() + "# mine again\n")
    assert "config.py is kept as config.py.before2\n" in prepare(cli, own, "--overwrite", "--turn", "90").out
    assert Path("DATA/config.py.before").read_text().endswith("# mine\n")
    assert Path("DATA/config.py.before2").read_text().endswith("# mine again\n")
    assert Path("DATA/round2.py.before").read_text() == "# mine too\n"
    assert not Path("DATA/round2.py.before2").exists()


def test_a_report_of_no_run_is_refused_in_a_line(cli, tmp_path):
    (tmp_path / "mine.py").write_text('rows = [dict(label="one", config="cmems::unet/unet_phantom_cardiac")]\n')
    done = cli("report", "mine.py", "--datasets", "phantom_cardiac")
    assert done.code == 2
    assert "no run of suite mine is done" in done.err
    assert len(done.err.splitlines()) == 1


def test_the_wheel_brings_command_and_configs(tmp_path):
    """Built from a copy, installed beside nothing, tried from an empty folder."""
    source, target, empty = tmp_path / "source", tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    for name in ("cmems", "configs"):
        shutil.copytree(REPO / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-index"]
    done = subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", tmp_path, source], capture_output=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("cmems-*-py3-none-any.whl")
    held = zipfile.ZipFile(wheel)
    names = set(held.namelist())
    for path in (REPO / "configs").rglob("*.py"):
        assert f"cmems/configs/.mim/configs/{path.relative_to(REPO / 'configs').as_posix()}" in names
    assert {"cmems/py.typed", "cmems/configs/.mim/model-index.yml", "cmems/visualization/page/page.html"} <= names
    (metadata,) = (name for name in names if name.endswith("METADATA"))
    needs = held.read(metadata).decode()
    assert "Requires-Dist: mmcv-lite" in needs  # whatever is installed where it is built
    assert "License: Apache-2.0" in needs
    subprocess.run([*pip, "install", *alone, "--no-compile", "--target", target, wheel], check=True)
    env = {**os.environ, "PYTHONPATH": str(target)}

    def installed(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=empty, env=env, capture_output=True, text=True, check=True
        )

    assert "prepare" in installed(target / "bin" / "cmems", "--help").stdout
    Path(empty, "mine.py").write_text('_base_ = "cmems::cmems_plus/unet_acdc_cpu.py"\n')
    code = (
        "from cmems.apis import load_config\n"
        "for name in ('cmems::cmems_plus/unet_acdc_cpu', 'mine.py'):\n"
        "    print(load_config(name).train_cfg.max_iters)\n"
        "import cmems; print(cmems.__file__)"
    )
    done = installed("-c", code)
    assert done.stdout.split() == ["2400", "2400", str(target / "cmems" / "__init__.py")]
    assert not done.stderr or "zero_optimizer.py" in done.stderr.splitlines()[0]  # MMEngine's, with older torch
