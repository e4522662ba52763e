"""Segmenting scans from outside the prepared data set."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import tool
from PIL import Image
from scipy import ndimage

from cmems.apis import load_config, pick, predict, train
from cmems.apis import test as run_test
from cmems.apis.segmenter import Segmenter
from cmems.apis.trust import by_doubt, read_trust, trust_file, trust_rows, trust_table
from cmems.comparison.compare import compare
from cmems.datasets.prepared import MANIFEST, PreparedDataset
from cmems.datasets.volumes import VolumeDataset
from cmems.engine.checkpoint import read_checkpoint
from cmems.engine.restore import load_weights
from cmems.errors import InputError
from cmems.models.doubt import Doubt
from cmems.registry import MODELS

REPO = Path(__file__).parents[1]


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A config and its checkpoint."""
    config = tiny_config()
    train(config, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
    return config, str(tmp_path / "w" / "last.pth")


@pytest.fixture
def scans(raw_acdc, tmp_path):
    """The images of the validation patient, and the folder that holds them."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for path in sorted((raw_acdc / "training" / "patient003").glob("*.nii.gz")):
        if not path.name.endswith("_gt.nii.gz"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_config_that_a_training_keeps_predicts_and_says_what_it_lacks(trained, scans, tmp_path):
    _, checkpoint = trained
    kept = tmp_path / "w" / "tiny.py"
    assert len(predict(str(kept), checkpoint, str(scans), str(tmp_path / "masks")).paths) == 2
    assert run_test(str(kept), checkpoint)
    with pytest.raises(
        InputError,
        match=r"test_test/tiny\.py: train_dataloader\.data_root is not set; the config that.*--cfg-options data_root=",
    ):
        train(str(tmp_path / "w" / "test_test" / "tiny.py"))
    bare = tmp_path / "bare.py"
    bare.write_text("model = None\n")
    for act in (train, lambda path: predict(path, checkpoint, str(scans), str(tmp_path / "masks"))):
        with pytest.raises(InputError, match=r"bare\.py: model is not set"):
            act(str(bare))


@pytest.mark.parametrize(("networks", "model"), [(2, "ensemble"), (1, "network_1")])
def test_masks_are_those_of_a_validation_on_the_scans_own_grid(
    networks, model, tiny_config, prepared_acdc, scans, tmp_path
):
    config = tiny_config("cmems/unet_acdc.py" if networks == 2 else "unet/unet_acdc.py")
    train(config, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
    checkpoint = str(tmp_path / "w" / "last.pth")
    torch.manual_seed(0)  # weights of one step give one class: draw others, so that there is something to compare
    saved = torch.load(checkpoint, weights_only=True)
    for name, values in saved["state_dict"].items():
        if name.endswith("head.weight"):
            values.normal_(0, 3)
    torch.save(saved, checkpoint)
    seen = []
    written = predict(config, checkpoint, str(scans), str(tmp_path / "masks"), progress=lambda *a: seen.append(a)).paths
    assert seen == [(1, 2, "patient003_frame01"), (2, 2, "patient003_frame02")]
    net = MODELS.build(load_config(config).model)
    load_weights(net, read_checkpoint(checkpoint), checkpoint)
    volumes = VolumeDataset(str(prepared_acdc), "val")
    for k, case in enumerate(volumes.cases):
        (found,) = net.eval()(volumes=[volumes[k]], mode="predict")
        mask, scan = nib.load(written[case]), nib.load(scans / f"{case}.nii.gz")
        voxels = np.asarray(mask.dataobj)
        assert len(np.unique(voxels)) > 1
        assert np.array_equal(voxels.transpose(2, 1, 0), found["predictions"][model])
        assert mask.get_data_dtype() == np.uint8
        assert np.array_equal(mask.affine, scan.affine)
        assert mask.header.get_zooms() == scan.header.get_zooms()
        assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(scan.affine)


def test_masks_are_not_written_into_a_data_set(trained, scans, prepared_acdc):
    with pytest.raises(InputError, match="holds a prepared data set; name a folder of its own for the masks"):
        predict(*trained, str(scans), str(prepared_acdc))
    with pytest.raises(InputError, match="holds a prepared data set; name a folder of its own for the masks"):
        pick(str(scans), str(prepared_acdc))
    with pytest.raises(InputError, match="--work-dir .*: holds a prepared data set; name a folder of its own for the"):
        compare("paper_table2", work_dir=str(prepared_acdc))
    assert not list(prepared_acdc.glob("*.nii.gz"))


def test_a_single_scan_of_four_axes_and_scaled_integers(trained, scans, tmp_path):
    path = scans / "patient003_frame01.nii.gz"
    image = nib.load(path)
    scaled = nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    scaled.header.set_slope_inter(0.5, 7)  # as scanners store them; the mask's labels are not scaled
    nib.save(scaled, tmp_path / "four.nii")
    plain = predict(*trained, str(path), str(tmp_path / "masks")).paths["patient003_frame01"]
    other = predict(*trained, str(tmp_path / "four.nii"), str(tmp_path / "masks")).paths["four"]
    assert other.name == "four.nii.gz"
    assert nib.load(other).shape == image.shape
    assert np.array_equal(nib.load(plain).get_fdata(), nib.load(other).get_fdata())


def test_scans_that_cannot_be_read_are_named_after_the_others_are_written(trained, scans, tmp_path):
    whole = (scans / "patient003_frame01.nii.gz").read_bytes()
    (scans / "a_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    nib.save(nib.Nifti1Image(np.ones((8, 8, 2), np.float32), np.eye(4)), scans / "b_constant.nii.gz")
    rgb = np.zeros((8, 8, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), scans / "c_colour.nii.gz")
    no_affine = bytearray(nib.Nifti1Image(np.zeros((8, 8, 2), np.int16), np.eye(4)).to_bytes())
    no_affine[280:328] = bytes(48)
    (scans / "d_affine.nii").write_bytes(no_affine)
    (scans / "e.mha").write_bytes(b"ObjectType = Image")
    (scans / "._f.nii.gz").write_bytes(b"left by macOS")
    (scans / "f_link.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (scans / "more").mkdir()
    (scans / "more/g.nii.gz").write_bytes(whole)
    done = tool("predict", *trained, scans, tmp_path / "masks", "--pictures")
    assert done.returncode == 2
    assert f"{tmp_path / 'masks'}: 2 masks by the ensemble" in done.stdout
    assert "a_cut.nii.gz: truncated or not a NIfTI file" in done.stderr
    assert "b_constant.nii.gz: expected an image, got the constant 1" in done.stderr
    assert "c_colour.nii.gz: expected one real number per voxel, got colour voxels" in done.stderr
    assert "d_affine.nii: expected an affine of three independent directions" in done.stderr
    assert "e.mha: not NIfTI, NRRD, PNG or DICOM by its name" in done.stderr
    assert "f_link.nii.gz: expected a file, got a link that leads to none" in done.stderr
    assert "more/g.nii.gz: in a folder below" in done.stderr
    assert "\nerror: 7 problems" in f"\n{done.stderr}"
    assert "Traceback" not in done.stderr
    drawn = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "masks" / "pictures").iterdir()}
    assert sorted(drawn) == ["patient003_frame01.png", "patient003_frame02.png"]
    assert all(picture.std() > 10 for picture in drawn.values())
    assert sorted(p.name for p in (tmp_path / "masks").iterdir() if p.is_file()) == [
        ".lock",
        "labels_itksnap.txt",
        "labels_slicer.ctbl",
        "patient003_frame01.nii.gz",
        "patient003_frame02.nii.gz",
        "trust.csv",
    ]


def test_a_scan_that_memory_is_too_little_for_is_named_and_the_others_are_written(
    trained, scans, tmp_path, monkeypatch
):
    (scans / "large.nii.gz").write_bytes((scans / "patient003_frame01.nii.gz").read_bytes())
    whole, asked = Segmenter.segment_with_doubt, []

    def short(self, ready, *more):
        asked.append([scan.name for scan in ready])
        if "large" in asked[-1]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(self, ready, *more)

    monkeypatch.setattr(Segmenter, "segment_with_doubt", short)
    segmenter = Segmenter(*trained)
    segmenter.together = 3
    with pytest.raises(InputError, match=r"^\S*large\.nii\.gz: too little memory to segment it \(Def.*memory\)$"):
        predict(segmenter, None, scans, tmp_path / "masks")
    assert asked == [(together := ["large", *sorted(p.name[:-7] for p in scans.glob("p*"))]), *([n] for n in together)]
    there = {p.name for p in (tmp_path / "masks").glob("*.nii.gz")}
    assert there == {p.name for p in scans.glob("*.nii.gz")} - {"large.nii.gz"}


def test_the_command_says_what_it_wrote_and_whose_axes_lie_otherwise(trained, scans, tmp_path):
    done = tool("predict", *trained, scans, tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    said = "by the ensemble; 1 RV, 2 Myo, 3 LV; which to look at first: trust.csv\n"
    assert done.stdout.endswith(f"\n{tmp_path / 'masks'}: 2 masks {said}")
    assert "networks agree" in done.stdout
    assert "warning" not in done.stderr
    path = scans / "patient003_frame01.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([-1, 1, 1, 1])), path)
    done = tool("predict", *trained, path, tmp_path / "masks")
    assert done.stdout.endswith(f"\n{tmp_path / 'masks'}: 1 mask {said}")
    assert "its axes lie" not in done.stderr
    assert "turned to RAS as the prepared cases, and the mask back: patient003_frame01 (stored as LAS)" in done.stderr
    bare = nib.Nifti1Image(np.asarray(image.dataobj), None)
    bare.header.set_zooms(image.header.get_zooms())
    nib.save(bare, path)
    done = tool("predict", *trained, path, tmp_path / "masks")
    said = "warning: its header tells no axes; taken as RAS, as the prepared cases lie: patient003_frame01"
    assert said in done.stderr


def test_mistakes_end_in_one_message_before_anything_is_written(trained, scans, prepared_acdc, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, out, message in [
        (tmp_path / "empty", "masks", "empty: expected a scan or a folder of scans"),
        (tmp_path / "none.nii.gz", "masks", r"none\.nii\.gz: expected a scan or a folder of scans"),
        (scans, "scans", "scans: the masks would take the names of the scans"),
        (scans / "patient003_frame01.nii.gz", "scans", "scans: the masks would take the names of the scans"),
    ]:
        with pytest.raises(InputError, match=message):
            predict(*trained, str(given), str(tmp_path / out))
    (tmp_path / "other").mkdir()
    text = (prepared_acdc / MANIFEST).read_text().replace('"RV",', "")
    (tmp_path / "other" / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r'classes: \["RV", "Myo", "LV"\] there, \["Myo", "LV"\] here'):
        predict(
            *trained,
            str(scans),
            str(tmp_path / "masks"),
            {"test_dataloader.dataset.data_root": str(tmp_path / "other")},
        )
    assert not (tmp_path / "masks").exists()
    assert len(list(scans.iterdir())) == 2
    for name in ("q_0000", "q_0001", "r_0000", "r_0001"):
        (tmp_path / "channels" / f"{name}.nii.gz").parent.mkdir(exist_ok=True)
        (tmp_path / "channels" / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"channels: 2 channels of q: .*, and of 1 more; the model was prepared without"
    ):
        predict(*trained, str(tmp_path / "channels"), str(tmp_path / "masks"))


def test_masks_painted_by_hand_are_not_replaced(trained, scans, tmp_path):
    (found,) = pick(scans, tmp_path / "picked", 1)
    painted = found.mask.read_bytes()
    with pytest.raises(InputError, match=r"picked/.*: is there and not by cmems predict.* name another folder"):
        predict(*trained, scans, tmp_path / "picked")
    assert found.mask.read_bytes() == painted
    masks = predict(*trained, scans, tmp_path / "masks")
    (other,) = set(masks.paths) - {found.scan}
    changed = bytearray(gzip.decompress(masks.paths[other].read_bytes()))
    changed[-1] ^= 1  # a voxel; the header stays
    masks.paths[other].write_bytes(gzip.compress(changed))
    for choice in (dict(), dict(network=1)):
        again = predict(*trained, scans, tmp_path / "masks", **choice)
        assert (again.kept, again.mended) == ([] if choice else [found.scan], [other])
        assert gzip.decompress(masks.paths[other].read_bytes()) == changed
    shutil.copy(found.mask, masks.paths[found.scan])  # another's file
    again = predict(*trained, scans, tmp_path / "masks")
    assert (again.paths, sorted(again.mended)) == (masks.paths, sorted(masks.paths))
    assert masks.paths[found.scan].read_bytes() == painted
    for path in masks.paths.values():
        path.unlink()
    assert not predict(*trained, scans, tmp_path / "masks").mended
    for name in ("trust.csv", "labels_itksnap.txt", "labels_slicer.ctbl"):
        (tmp_path / "masks" / name).unlink()
    assert predict(*trained, scans, tmp_path / "masks").paths == masks.paths  # masks say themselves who made them


def test_a_mask_that_was_edited_stays_whatever_became_of_the_table(trained, scans, tmp_path):
    """A spreadsheet's beginning, a table that is gone, and one of other scans: the mask's header tells."""
    masks = predict(*trained, scans, tmp_path / "m")
    edited, other = sorted(masks.paths)
    image = nib.load(masks.paths[edited])
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, :2] = 1
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), masks.paths[edited])  # the header stays
    image = nib.load(masks.paths[other])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine, image.header), masks.paths[other])
    table = tmp_path / "m" / "trust.csv"
    written = table.read_bytes()
    for change in (lambda: table.write_bytes(b"\xef\xbb\xbf" + written), table.unlink):
        change()
        again = predict(*trained, scans, tmp_path / "m", network=1)
        assert again.mended == [edited]  # the other was stored anew, with the labels that it had
        assert np.array_equal(np.asarray(nib.load(masks.paths[edited]).dataobj), voxels)
    for text in (
        written.replace(b",", b";"),
        written.replace(b"\n", b",remark\n"),
        written.replace(b"frame01,RV,0.", b"frame01,RV,x"),
    ):
        table.write_bytes(text)
        with pytest.raises(InputError, match=r"trust\.csv: not as cmems predict wrote it \(.*\); rename it to keep it"):
            predict(*trained, scans, tmp_path / "m")
        assert table.read_bytes() == text


def test_what_parts_said_of_masks_stays_when_other_scans_are_segmented(trained, scans, tmp_path):
    first, second = sorted(scans.iterdir())
    for k in (1, 2):
        predict(*trained, scans, tmp_path / "m", part=(k, 2))
    (tmp_path / "new").mkdir()
    shutil.copy(first, tmp_path / "new" / "z.nii.gz")
    predict(*trained, tmp_path / "new", tmp_path / "m")
    rows = read_trust(tmp_path / "m" / "trust.csv")
    assert sorted({row["scan"] for row in rows}) == ["patient003_frame01", "patient003_frame02", "z"]
    assert len(rows) == 9
    assert not list((tmp_path / "m").glob("trust_*"))
    assert sorted(predict(*trained, scans, tmp_path / "m").kept) == ["patient003_frame01", "patient003_frame02"]


def test_two_runs_do_not_mix_in_one_folder_but_parts_of_a_job_share_it(trained, scans, tmp_path):
    first, second = sorted(scans.iterdir())
    segmenter, seen = Segmenter(*trained), []

    def also(*args, **choices):
        def progress(*_):
            try:
                seen.append(predict(segmenter, None, scans, tmp_path / "m", **choices).paths)
            except InputError as error:
                seen.append(str(error))

        predict(segmenter, None, first, tmp_path / "m", progress=progress, **dict(*args))
        return seen.pop()

    assert "m: another process is labelling scans in this folder (process " in also()
    assert "m: another process is labelling scans in this folder" in also(part=(1, 2))
    assert "m: another process is labelling scans in this folder" in also(dict(part=(1, 2)))
    assert "m: another process is labelling scans in this folder" in also(dict(part=(1, 2)), part=(1, 2))
    assert "m: another process is labelling scans in this folder" in also(dict(part=(1, 2)), part=(3, 3))
    assert list(also(dict(part=(1, 2)), part=(2, 2))) == [second.name.removesuffix(".nii.gz")]


def test_the_manifest_of_the_prepared_data_is_enough(trained, scans, prepared_acdc, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / MANIFEST).write_text((prepared_acdc / MANIFEST).read_text())
    options = {"test_dataloader.dataset.data_root": str(tmp_path / "alone")}
    assert len(predict(*trained, str(scans), str(tmp_path / "masks"), options).paths) == 2


def test_scans_are_scaled_as_the_training_slices_were(trained, scans, prepared_acdc, tmp_path):
    shutil.copytree(prepared_acdc, tmp_path / "unit")
    text = (prepared_acdc / MANIFEST).read_text()
    seen = PreparedDataset(prepared_acdc).manifest["intensity"]
    options = {"test_dataloader.dataset.data_root": str(tmp_path / "unit")}
    (tmp_path / "unit" / MANIFEST).write_text(text.replace(seen, "as stored, clipped to [0, 1]"))
    for act in (lambda: predict(*trained, str(scans), str(tmp_path / "masks"), options),
                lambda: run_test(*trained, cfg_options=options)):  # fmt: skip
        with pytest.raises(InputError, match='prepared otherwise than acdc: intensity: "per volume.*"as stored'):
            act()
    saved = read_checkpoint(trained[1])
    torch.save(dict(state_dict=saved["state_dict"], meta={}), tmp_path / "bare.pth")  # which does not tell
    trained = trained[0], str(tmp_path / "bare.pth")
    with pytest.raises(InputError, match=r"frame01\.nii\.gz: expected voxels in \[0, 1\].*got -?\d+ to \d+"):
        predict(*trained, str(scans), str(tmp_path / "masks"), options)
    (tmp_path / "unit" / MANIFEST).write_text(text.replace(seen, "by hand"))
    with pytest.raises(InputError, match="intensity: expected one of .*, got 'by hand'"):
        predict(*trained, str(scans), str(tmp_path / "masks"), options)


def test_trust_is_kept_beside_the_masks_and_doubt_shown_on_the_scans_grid(tiny_config, scans, prepared_acdc, tmp_path):
    config, checkpoint = tiny_config(extra='model["prediction"] = dict(views=4)\n'), str(tmp_path / "last.pth")
    torch.manual_seed(0)
    model = MODELS.build(load_config(config).model)
    torch.nn.init.normal_(model.networks[0].head.weight, 0, 3)
    model.networks[1].load_state_dict(model.networks[0].state_dict())  # its twin
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    first, second = sorted(scans.iterdir())
    masks = predict(config, checkpoint, str(first), str(tmp_path / "m"), doubt_maps=True)
    found = [row for row in masks.trust if not row["note"]]
    assert found
    for row in found:
        voxels = np.asarray(nib.load(masks.paths[row["scan"]]).dataobj) == 1 + masks.classes.index(row["class"])
        assert row["agreement"] == 1
        assert row["views_agreement"] < 1
        assert row["ml"] == pytest.approx(voxels.sum() * 1.5 * 1.5 * 8 / 1000)
        assert row["components"] == ndimage.label(voxels)[1]
    doubt = {path.name: nib.load(path) for path in (tmp_path / "m" / "doubt").iterdir()}
    entropy, differ = (doubt[f"patient003_frame01_{kind}.nii.gz"] for kind in ("entropy", "disagreement"))
    assert np.array_equal(entropy.affine, nib.load(first).affine)
    assert 0 < np.asarray(entropy.dataobj).max() <= 100
    assert np.asarray(differ.dataobj).max() == 0
    predict(config, checkpoint, str(second), str(tmp_path / "m"))
    held = (tmp_path / "m" / "trust.csv").read_text()
    assert held.count("patient003_frame01,") == held.count("patient003_frame02,") == 3
    other = shutil.copytree(prepared_acdc, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(dict(manifest, classes=manifest["classes"][::-1])))
    options = {"data_root": str(other)}
    with pytest.raises(InputError, match="m: holds masks of RV, Myo, LV, as patient003_frame01.nii.gz, and would get"):
        predict(config, checkpoint, str(second), str(tmp_path / "m"), options)
    predict(config, checkpoint, str(second), str(tmp_path / "reversed"), options)
    with pytest.raises(
        InputError, match="reversed: holds masks of LV, Myo, RV, as patient003_frame02.nii.gz, and would"
    ):
        predict(config, checkpoint, str(second), str(tmp_path / "reversed"))
    (tmp_path / "reversed" / "patient003_frame02.nii.gz").unlink()
    predict(config, checkpoint, str(second), str(tmp_path / "reversed"))
    (tmp_path / "m" / "patient003_frame01.nii.gz").unlink()  # of masks that are gone nothing is said
    predict(config, checkpoint, str(second), str(tmp_path / "m"))
    assert "frame01" not in (tmp_path / "m" / "trust.csv").read_text()


def test_trust_of_masks_that_another_process_writes_meanwhile_stays(trained, scans, tmp_path):
    first, second = sorted(scans.iterdir())
    rows = []
    with trust_file(tmp_path / "m", rows):
        predict(*trained, str(second), str(tmp_path / "m"))
        rows += predict(*trained, str(first), str(tmp_path / "n")).trust
    assert {row["scan"] for row in read_trust(tmp_path / "m" / "trust.csv")} == {
        "patient003_frame01",
        "patient003_frame02",
    }


def test_the_most_doubtful_masks_come_first_and_what_nobody_found_gets_a_dash():
    one = np.zeros((2, 8, 8), np.uint8)
    one[:, 1:3, 1:3], one[:, 5:7, 1:3], one[0, 0, 7] = 1, 2, 1
    two = np.where(one == 2, 0, one)
    two[0, 0, 7] = 0
    doubt = Doubt(np.ones((3, 2, 2), np.int64), 2, np.full(3, np.nan), None)
    labels = dict(network_1=one, network_2=two, ensemble=one, cleaned=two)
    rows = by_doubt(trust_rows("scan", ("a", "b", "c"), labels, doubt, (10.0, 5.0, 2.0)))
    assert [row["class"] for row in rows] == ["b", "c", "a"]
    assert [row["note"] for row in rows] == ["network 2 finds none", "not found", ""]
    assert rows[2]["agreement"] == pytest.approx(16 / 17)
    assert (rows[2]["ml"], rows[2]["components"]) == (0.8, 2)  # of the mask; before the clean-up
    assert rows[0]["agreement"] == 0
    assert np.isnan(rows[1]["agreement"])
    lines = trust_table(rows).splitlines()
    assert lines[3].count("–") == lines[4].count("–") == 2
    assert "0.94" in lines[5]
    apart = np.zeros_like(one)
    apart[1, 7, 7] = 1
    (row,) = trust_rows("scan", ("a",), dict(network_1=one, network_2=apart, ensemble=0 * one), doubt, (1.0, 1.0, 1.0))
    assert (row["agreement"], row["ml"], row["note"]) == (0, 0, "not found")  # both find it, their mean does not
