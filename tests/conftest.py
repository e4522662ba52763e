import contextlib
import io
import json
import os
import runpy
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = "1"  # for this process and those that tests start: sums depend on the thread count
if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 4 << 30:
    # Checkpoints are flushed to what holds them, a tenth of the suite's time on a disk.
    os.environ.setdefault("TMPDIR", "/dev/shm")

import nibabel as nib
import numpy as np
import pytest

from cmems.cli import main
from cmems.datasets.prepare import prepare
from cmems.registry import READERS

REPO = Path(__file__).parents[1]
REAL = REPO.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
    if not REAL.is_dir():
        pytest.skip("real scans are not here (../shared/data is absent)")
    return REAL


def write_acdc(root, patients=4, side=40, depth=3, seed=0):
    """A tiny data set in ACDC's raw layout: a disc (LV) in a ring (Myo) beside a block (RV), at random places."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    for p in range(1, patients + 1):
        folder = root / "training" / f"patient{p:03d}"
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 2\nGroup: NOR\nHeight: 170.0\nNbFrame: 2\nWeight: 70.0\n")
        for frame in (1, 2):
            label = np.zeros((side, side, depth), dtype=np.uint8)
            for z in range(depth):
                cx, cy = random.integers(16, 24, 2)
                r = np.hypot(x - cx, y - cy)
                label[..., z][(abs(x - cx) < 12) & (abs(y - cy) < 4)] = 1
                label[..., z][r < 7] = 2
                label[..., z][r < 4] = 3
            image = 100 + 60 * label + random.normal(0, 15, label.shape)
            affine = np.diag([1.5, 1.5, 8.0, 1.0])
            for name, array in ((f"frame{frame:02d}", image.astype(np.int16)), (f"frame{frame:02d}_gt", label)):
                nib.save(nib.Nifti1Image(array, affine), folder / f"{folder.name}_{name}.nii.gz")
    (root / "splits").mkdir()
    names = [f"patient{p:03d}" for p in range(1, patients + 1)]
    (root / "splits" / "train.txt").write_text("\n".join(names[:-2]))
    (root / "splits" / "val.txt").write_text(names[-2])
    (root / "splits" / "test.txt").write_text(names[-1])
    return root


@pytest.fixture(scope="session")
def raw_acdc(tmp_path_factory):
    return write_acdc(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def prepared_acdc(raw_acdc, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "acdc"
    prepare(READERS.get("acdc")(raw_acdc), out, size=32, workers=1)
    return out


TINY = """
_base_ = "{repo}/configs/{base}"
data_root = "{data}"
train_dataloader = dict(
    data_root=data_root,
    exemplar_slice=dict(case="patient001_frame01", slice=1),
    exemplar=dict(batch_size=2),
    synthetic=dict(batch_size=2),
    unlabeled=dict(batch_size=2),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
model = dict(backbone=dict(channels=(16, 16, 16, 16, 16)))
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(curves=None)
param_scheduler = dict(end=100)
"""


@pytest.fixture
def tiny_config(tmp_path, prepared_acdc):
    """Write a config that trains in a second: ``tiny_config(base, data, extra lines)``."""

    def write(base="cmems/unet_acdc.py", data=prepared_acdc, extra="", name="tiny.py"):
        path = tmp_path / name
        path.write_text(TINY.format(repo=REPO, base=base, data=data) + extra)
        return str(path)

    return write


def tool(name, *arguments):
    """Run ``tools/<name>.py`` in this process, which has torch loaded; return its exit code, output and errors."""
    before, argv, code = signal.getsignal(signal.SIGTERM), sys.argv, 0
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [f"{name}.py", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(REPO / "tools" / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, before)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def unlabel(root, cases):
    """Make volumes of a prepared data set unlabelled."""
    manifest = json.loads((root / "manifest.json").read_text())
    for case in cases:
        manifest["cases"][case]["labelled"] = False
        manifest["files"].pop(f"volumes/{case}_label.npy", None)
    (root / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def in_this_process(monkeypatch):
    """Have what starts commands run them in this process, one at a time; returns the function that does."""
    alone = threading.Lock()
    monkeypatch.setattr("signal.signal", lambda *args: None)  # which only a main thread may set

    def run(words, log, threads=None, lock=None, stop=None):
        with alone, open(log, "w+") as out, monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["cmems", *map(str, words)])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                try:
                    main()
                    return None
                except SystemExit as ended:
                    code = ended.code
            out.seek(0)
            return f"{out.read().strip().splitlines()[-1]}; see {log}" if code else None

    for place in ("cmems.comparison.compare", "cmems.apis.predict_parts"):
        monkeypatch.setattr(f"{place}.run_command", run)
    return run
