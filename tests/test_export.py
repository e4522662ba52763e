"""Models as programs that run without CMEMS label as they do themselves."""

import json
import runpy
import sys
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

import cmems
from cmems.apis import export, publish
from cmems.apis.export import _SCRIPT, VolumeGraph, _Axis, _trace, _write_script
from cmems.datasets.intensity import INTENSITY
from cmems.datasets.preparation import Preparation
from cmems.errors import InputError
from cmems.models.prediction import Prediction
from cmems.registry import BACKBONES
from cmems.resize import Frame

SMALL = dict(type="UNet", num_classes=3, channels=[4, 4], dropout=[0, 0])


@pytest.fixture
def model(tmp_path):
    """A model of two small networks, whose squares are cut from pixels of 2 mm."""
    torch.manual_seed(0)
    networks = [BACKBONES.build(dict(SMALL)) for _ in range(2)]
    for net in networks:
        torch.nn.init.normal_(net.head.weight, 0, 2)
    weights = {f"networks.{m}.{k}": v for m, net in enumerate(networks) for k, v in net.state_dict().items()}
    settings = dict(
        model=dict(backbone=SMALL, prediction=dict(views=4, scales=[1, 1.25], clean=[dict(type="FillHoles")]))
    )
    preparation = dict(dataset="x", classes=["a", "b"], intensity=INTENSITY["mr"], size=16, pixel=2.0, axes="LPS",
                       orientations=["LPS"])  # fmt: skip
    meta = dict(settings=json.dumps(settings), preparation=json.dumps(preparation))
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / "last.pth")
    publish(tmp_path / "last.pth", tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


@pytest.mark.parametrize("pixel", [None, 0.7, 1.5, 4.0])
def test_matrices_resize_as_torch_does(pixel):
    random = np.random.default_rng(0)
    for _ in range(15):
        frame = Frame(int(random.integers(8, 70)), pixel)
        shape, spacing = [int(n) for n in random.integers(20, 120, 2)], random.choice([0.78125, 1.0, 1.37, 3.3], 2)
        rows, columns = (_Axis(frame, n, torch.tensor(mm)) for n, mm in zip(shape, spacing, strict=True))
        images, labels = torch.rand(2, *shape), torch.randint(0, 5, (2, frame.size, frame.size), dtype=torch.uint8)
        torch.testing.assert_close(rows.into() @ images @ columns.into().T, frame.images(images, spacing))
        (r, here), (c, there) = rows.nearest(), columns.nearest()
        back = torch.where(here[:, None] & there, labels[:, r][:, :, c], 0)
        assert torch.equal(back.to(torch.uint8), frame.labels_back(labels, shape, spacing))


@pytest.mark.parametrize("resize", ["labels", "probabilities"])
@pytest.mark.parametrize(
    ("views", "scales", "pixel"),
    [(1, [1], None), (4, [1], 2.0), (8, [0.8, 1, 1.5], 1.0), (1, [1, 1.25], 4.0), (1, [0.8], None)],
)
def test_the_graph_labels_as_prediction_does(views, scales, pixel, resize):
    torch.manual_seed(1)
    networks = [BACKBONES.build(dict(SMALL)).eval() for _ in range(2)]
    for net in networks:
        torch.nn.init.normal_(net.head.weight, 0, 2)
    frame, prediction = Frame(16, pixel), Prediction(views=views, scales=scales, resize=resize, bfloat16=False)
    volume = dict(image=np.random.default_rng(0).random((3, 30, 21), np.float32), spacing=(5, 1.4, 1.7), frame=frame)
    (own,) = prediction.segment(networks, [volume])
    with torch.no_grad():
        found = VolumeGraph(networks, prediction, frame)(torch.from_numpy(volume["image"]), torch.tensor([1.4, 1.7]))
    assert len(own["ensemble"][own["ensemble"] > 0]) > 100
    assert (found.numpy() != own["ensemble"]).mean() < 1e-3  # ties


def test_onnx_runs_without_torch_and_labels_as_the_model(model, tmp_path, monkeypatch, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra onnx is not installed")
    found = export(model, tmp_path / "x.onnx", network=1, views=1)
    assert found["differing"] <= 3
    assert found["left_out"] == ["FillHoles"]
    affine = np.array([[0, -1.7, 0, 5], [1.4, 0, 0, 3], [0, 0, 6, 1], [0, 0, 0, 1]])  # columns lie along y, mirrored
    voxels = np.random.default_rng(0).integers(0, 900, (30, 26, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii")
    paths = [str(tmp_path / name) for name in ("x.onnx", "scan.nii", "mask.nii.gz")]
    monkeypatch.setattr("sys.argv", ["run_onnx.py", *paths])
    runpy.run_path(str(tmp_path / "run_onnx.py"))
    assert capsys.readouterr().out.endswith("mask.nii.gz: 1 a, 2 b\n")
    mask = nib.load(paths[2])
    own = cmems.Segmenter(model, network=1, views=1, clean=False)(paths[1])
    assert len(np.unique(own)) == 3
    assert (own != np.asarray(mask.dataobj).T).mean() < 1e-3
    assert np.allclose(mask.affine, affine)


STORED = np.random.default_rng(0).integers(0, 900, (14, 12, 4)).astype(np.float32)
LPS = np.diag([-1500.0, -1500.0, 5000.0, 1.0])  # microns
LIA = LPS[[0, 2, 1, 3]]  # coronal: turned, its slices would run across its thick axis


def run_script(known, path, out, monkeypatch):
    """Run the script on a scan with a program that stands in for one; return what that was fed."""
    fed = []

    class Session:
        def __init__(self, model, providers):
            assert model == "x.onnx"

        def get_modelmeta(self):
            said = dict(known.plain(), modality=known.modality)
            return SimpleNamespace(custom_metadata_map=dict(cmems=json.dumps(said)))

        def run(self, names, feed):
            fed.append(feed)
            return [np.rint(feed["image"] * 200).astype(np.uint8)]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr("sys.argv", ["run_onnx.py", "x.onnx", path, out])
    runpy.run_path(str(_SCRIPT))
    return fed


def check_script(known, path, out, monkeypatch):
    """Compare what the script feeds and writes with what the model is fed and labels; return the mask."""
    ready = known.ready(known.read_scan(path), path)
    fed = run_script(known, path, out, monkeypatch)
    assert np.array_equal(np.concatenate([feed["image"] for feed in fed]), ready.content["image"].astype(np.float32))
    np.testing.assert_allclose(fed[0]["spacing"], ready.content["spacing"][1:], rtol=1e-6)
    mask = nib.load(out)
    expected = ready.back(np.rint(ready.content["image"].astype(np.float32) * 200).astype(np.uint8))
    assert np.array_equal(np.asarray(mask.dataobj).T, expected)
    assert mask.get_data_dtype() == np.uint8
    return mask


KNOWN = dict(dataset="x", classes=["a"], intensity=INTENSITY["mr"], size=16, pixel=2.0, axes="RAS",
             orientations=["RAS"], reading=dict(channel=1, fill_nan=True))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sform"),
    [
        (lambda voxels: voxels, 1),
        (lambda voxels: voxels, LIA),
        (lambda voxels: voxels[..., ::-1], 0),  # which tells no axes
        (lambda voxels: voxels[..., 1], 1),
        (lambda voxels: voxels * 1e-32, 1),
        (lambda voxels: voxels + 1e7, 1),
        (lambda voxels: np.where(voxels > 890, voxels, 0), 1),  # whose 99.5th percentile is its minimum
        (lambda voxels: np.where(voxels == voxels.max(), np.nan, voxels), 1),
        (lambda voxels: np.stack([voxels, voxels[::-1]], -1), 1),
        (lambda voxels: np.where(voxels < 2, -32767, voxels), 1),
        (lambda voxels: np.where(voxels > 5, np.inf, voxels), 1),
        (lambda voxels: 0 * voxels, 1),
        (lambda voxels: 2**62 + voxels.astype(np.int64), 1),
    ],
)
def test_the_script_beside_a_program_prepares_a_scan_as_the_model_does(change, sform, tmp_path, monkeypatch):
    known, (path, out) = Preparation.read(KNOWN, "x"), (str(tmp_path / name) for name in ("s.nii", "m.nii"))
    affine, sform = (LPS, sform) if isinstance(sform, int) else (sform, 1)
    voxels = change(STORED.astype(np.float64))
    scan = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    scan.header.set_xyzt_units("micron")
    scan.set_qform(None, 0)
    scan.set_sform(affine, sform)
    nib.save(scan, path)
    try:
        known.ready(known.read_scan(path), path)
    except InputError:
        with pytest.raises(SystemExit, match=r"s\.nii: expected finite voxels of more than one value"):
            run_script(known, path, out, monkeypatch)
        return
    mask = check_script(known, path, out, monkeypatch)
    assert mask.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(mask.affine, scan.affine)


NO_ROWS, NO_CODES = {f"srow_{axis}": [0] * 4 for axis in "xyz"}, dict(sform_code=0, qform_code=0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize(
    "fields",
    [
        dict(pixdim=[1] * 8),
        dict(pixdim=[1, 0, 0, 0, 1, 1, 1, 1]),
        dict(pixdim=[1, 0, 2, 8, 1, 1, 1, 1]),
        dict(pixdim=[1, -3, 3, 8, 1, 1, 1, 1]),
        dict(pixdim=[1, 1.2, 1.2, 8, 1, 1, 1, 1]),
        dict(pixdim=[1, np.nan, 2, 8, 1, 1, 1, 1], **NO_CODES),
        dict(quatern_b=5),
        dict(sform_code=0),
        NO_CODES,
        NO_ROWS,
    ],
)
def test_the_script_settles_a_header_as_the_model_does(fields, codes, tmp_path, monkeypatch):
    known, (path, out) = Preparation.read(KNOWN, "x"), (str(tmp_path / name) for name in ("s.nii", "m.nii"))
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), STORED.shape) * 2.5
    affine[3, 3] = 1
    scan = nib.Nifti1Image(STORED, affine)
    for place in (scan.set_qform, scan.set_sform):
        place(affine, 1)
    nib.save(scan, path)
    content = bytearray((tmp_path / "s.nii").read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    content[:348] = header.binaryblock
    (tmp_path / "s.nii").write_bytes(content)
    check_script(known, path, out, monkeypatch)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"^expected: python run_onnx\.py PROGRAM\.onnx SCAN\.nii\.gz MASK\.nii\.gz, the mask's name ending "),
        (["x.onnx", "s.nii", "m.nii", "more"], "^expected: python run_onnx"),
        (["x.onnx", "s.nii", "m.nrrd"], "^expected: python run_onnx"),
        (["x.onnx", "s.nii", "./s.nii"], r"^\./s\.nii: the scan itself; name another file$"),
        (["other.onnx", "s.nii", "m.nii"], r"^other\.onnx: expected a program of cmems export \("),
        (["x.onnx", "none.nii", "m.nii"], r"^none\.nii: "),
        (["x.onnx", "text.nii", "m.nii"], r"^text\.nii: "),
        (["x.onnx", "s.mgz", "m.nii"], r"^s\.mgz: expected NIfTI of one real number per voxel$"),
        (["x.onnx", "noplace.nii", "m.nii"], r"^noplace\.nii: expected an affine of three independent directions$"),
        (["x.onnx", "s.nii", "none/m.nii"], r"^none/m\.nii: "),
    ],
)
def test_a_mistake_with_the_script_ends_in_one_line(words, message, tmp_path, monkeypatch):
    said = dict(Preparation.read(KNOWN, "x").plain(), modality="mr")

    def session(model, providers):
        known = dict(cmems=json.dumps(said)) if model == "x.onnx" else {}
        meta = SimpleNamespace(custom_metadata_map=known)
        return SimpleNamespace(get_modelmeta=lambda: meta, run=lambda names, feed: [feed["image"].astype(np.uint8)])

    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(STORED, np.eye(4)), "s.nii")
    nib.save(nib.MGHImage(STORED, np.eye(4)), "s.mgz")
    (tmp_path / "text.nii").write_text("text")
    lost = nib.Nifti1Image(STORED, np.eye(4))
    lost.set_sform(np.diag([0, 0, 0, 1.0]), 1)
    lost.set_qform(None, 0)
    nib.save(lost, "noplace.nii")
    before = (tmp_path / "s.nii").read_bytes()
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=session))
    monkeypatch.setattr("sys.argv", ["run_onnx.py", *words])
    with pytest.raises(SystemExit, match=message) as ended:
        runpy.run_path(str(_SCRIPT))
    assert len(str(ended.value).splitlines()) == 1
    assert (tmp_path / "s.nii").read_bytes() == before
    assert not list(tmp_path.glob("m.*"))


def test_another_script_beside_a_program_is_left_alone_and_told_of(tmp_path, capsys):
    script = tmp_path / "run_onnx.py"
    for content in (b"ours", b"ours"):
        _write_script(script, content)
    assert not capsys.readouterr().err
    _write_script(script, b"of another version")
    assert script.read_bytes() == b"ours"
    assert "run_onnx.py: left as it is, though this version of cmems would write another" in capsys.readouterr().err


def test_a_program_of_torch_export_takes_slices_of_any_number_and_size(model, tmp_path):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):  # whose export takes no layer of mmcv
        with pytest.raises(InputError, match=r"^torch\.export takes no \w+: [^\n]+$"):
            export(model, tmp_path / "x.pt2", "torch-export", network=2, views=1)
        return
    found = export(model, tmp_path / "x.pt2", "torch-export", network=2, views=1)
    assert found["differing"] <= 3
    files = {"cmems.json": ""}
    program = torch.export.load(tmp_path / "x.pt2", extra_files=files).module()
    assert program(torch.rand(1, 19, 50), torch.tensor([1.0, 2.0], dtype=torch.float64)).shape == (1, 19, 50)
    assert json.loads(files["cmems.json"])["classes"] == ["a", "b"]


@pytest.mark.parametrize(
    "backbone",
    [
        dict(type="SwinUNet", num_classes=3, embed_dim=8, depths=(2, 2), heads=(1, 2), window=4, patch=2),
        dict(type="MTUNet", num_classes=3, width=0.125, depth=1, positions=7),
    ],
    ids=lambda backbone: backbone["type"],
)
def test_networks_of_windows_are_traced_and_label_as_before_and_after(backbone):
    torch.manual_seed(0)
    net = BACKBONES.build(dict(backbone)).eval()
    images, spacing = torch.rand(3, 45, 37), torch.tensor([1.0, 2.0], dtype=torch.float64)
    graph = VolumeGraph([net], Prediction(bfloat16=False), Frame(32, 1.5)).eval()
    with torch.no_grad():
        before = graph(images, spacing)
    program = _trace(graph)
    assert (program.module()(images, spacing) != before).float().mean() < 1e-3
    with torch.no_grad():
        assert torch.equal(graph(images, spacing), before)  # which no tensor of the trace is left in


@pytest.mark.parametrize(("form", "name"), [("onnx", "x.onnx"), ("torch-export", "x.pt2")])
def test_a_program_replaces_a_program_and_no_other_file(form, name, model, tmp_path):
    if form == "onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library, reason="the extra onnx is not installed")
    elif tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        pytest.skip("this torch exports no layer of mmcv")
    path, begun = tmp_path / name, []
    for content in (b"precious", (tmp_path / "model.pth").read_bytes(), b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: is there, and is no file of `cmems export` to replace; name"):
            export(model, path, form, network=1, views=1, begin=lambda: begun.append(1))
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"{name}: expected the name of a file, got a folder"):
        export(model, path, form)
    path.rmdir()
    assert not begun
    for network in (1, 2):
        before = path.read_bytes() if path.exists() else b""
        export(model, path, form, network=network, views=1)
        assert path.read_bytes() != before


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"x\.pt2: expected the name of a file that ends with \.onnx"):
        export(model, tmp_path / "x.pt2")
    with pytest.raises(InputError, match="--format ONNX: expected onnx or torch-export"):
        export(model, tmp_path / "x.onnx", form="ONNX")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'cmems\[onnx\]'"):
        export(model, tmp_path / "x.onnx")
    module = sys.modules["cmems.apis.export"]  # the package's attribute is the function
    monkeypatch.setattr(module, "_trace", lambda graph: None)
    monkeypatch.setitem(module._WRITERS, "torch-export", lambda program, graph, path, text: lambda inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(model, tmp_path / "x.pt2", "torch-export")
    monkeypatch.setitem(module._WRITERS, "torch-export", lambda *given: lambda inputs: np.full(1, 9))
    with pytest.raises(InputError, match=r"labels \d+ of \d+ voxels otherwise than the model itself"):
        export(model, tmp_path / "x.pt2", "torch-export")
    assert not list(tmp_path.glob("*x.*"))
