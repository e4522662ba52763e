"""A model for programs without CMEMS: slices in, labels out, as ONNX or a program of ``torch.export``."""

import importlib.util
import io
import json
import logging
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import nn

from cmems.apis.segmenter import Segmenter
from cmems.errors import InputError, warn_once
from cmems.files import whole_file
from cmems.models.prediction import Prediction
from cmems.precision import computes_bfloat16

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
_NEEDED = dict(onnx=("onnx", "onnxscript", "onnxruntime"))
_SCRIPT = Path(__file__).parents[1] / "examples" / "run_onnx.py"
_DIFFERING = 1e-3  # share of voxels, all of them ties but for the rounding of another library


def export(model, out, form="onnx", network=None, views=None, begin=None):
    """Write a model as one program, and compare its labels with the model's own.

    Its inputs are ``image``, ``(D, H, W)`` float32 slices of any number and size, scaled to [0, 1] as the model's were;
    and, where the model's squares are of a fixed pixel size, ``spacing``, ``(2,)`` float64, (row, column) in mm. Its
    output is ``labels``, ``(D, H, W)`` uint8 on the slices' own grid. Resizing, views, the mean of the networks and the
    arg max are inside; the clean-up in 3-D is not. What is needed besides is kept as JSON under ``cmems``, in ONNX's
    metadata or as an extra file of ``torch.export``.

    Args:
        model (str): A file of :func:`cmems.apis.publish`.
        out (str): The file, ``.onnx`` or ``.pt2``; a program of CMEMS that is there is replaced, any other file is not.
            Beside ONNX comes ``run_onnx.py``, which labels a scan by it without torch; one that is there is left alone,
            and told of where it is another.
        form (str): ``onnx``, by torch's dynamo exporter, or ``torch-export``.
        network, views: As of :class:`cmems.apis.Segmenter`.
        begin (callable | None): Called once everything was checked, before what takes long.

    Returns:
        dict: ``voxels`` compared and ``differing``, both in float32; ``rounded``, whether the model itself predicts in
        bfloat16 on this CPU; ``left_out``, the types of the clean-up's steps.

    Raises:
        InputError: The model is unusable; a library is not installed; torch cannot export its networks; or the labels
            differ, in more than one voxel of a thousand. Nothing is written then.
    """
    out = Path(out)
    if form not in list(FORMATS):
        raise InputError(f"--format {form!s:.60}: expected {' or '.join(FORMATS)}")
    if out.suffix != FORMATS[form]:
        raise InputError(f"{out}: expected the name of a file that ends with {FORMATS[form]} (--format {form})")
    if out.is_dir():
        raise InputError(f"{out}: expected the name of a file, got a folder")
    if missing := [name for name in _NEEDED.get(form, ()) if importlib.util.find_spec(name) is None]:
        raise InputError(f"--format {form}: needs {', '.join(missing)}: pip install 'cmems[onnx]'")
    if out.exists() and not _KNOWS[form](out):
        raise InputError(f"{out}: is there, and is no file of `cmems export` to replace; name another")
    segmenter = Segmenter(model, network=network, views=views, device="cpu")
    left_out = [type(step).__name__ for step in segmenter.prediction.clean]
    graph = VolumeGraph(segmenter.networks, segmenter.prediction, segmenter.preparation.frame).eval()
    said = dict(segmenter.preparation.plain(), modality=segmenter.preparation.modality, key=segmenter.key)
    if begin:
        begin()
    program = _trace(graph)
    with whole_file(out) as part:
        run = _WRITERS[form](program, graph, part, json.dumps(said))
        voxels, differing = _compare(run, segmenter)
    if form == "onnx":
        _write_script(out.with_name(_SCRIPT.name), _SCRIPT.read_bytes())
    rounded = segmenter.prediction.bfloat16 and computes_bfloat16("cpu")
    return dict(voxels=voxels, differing=differing, left_out=left_out, rounded=rounded)


def _write_script(path, content):
    if not path.exists():
        with whole_file(path) as part:
            part.write_bytes(content)
    elif not path.is_file() or path.read_bytes() != content:
        warn_once(f"{path}: left as it is, though this version of cmems would write another")


def _trace(graph):
    dims = dict(enumerate(torch.export.Dim(name, min=1, max=1 << 15) for name in ("slices", "rows", "columns")))
    inputs = _inputs(graph, np.zeros((2, graph.frame.size + 8, graph.frame.size + 12), np.float32))
    networks = ", ".join(dict.fromkeys(type(net).__name__ for net in graph.networks))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(graph, inputs, dynamic_shapes=(dims, *[None] * (len(inputs) - 1)))
    except Exception as error:  # whatever a network does that a graph cannot
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"torch.export takes no {networks}: {reason}") from error


def _inputs(graph, image, spacing=(1.5, 1.5)):
    spacing = [] if graph.frame.pixel is None else [torch.tensor(spacing, dtype=torch.float64)]
    return torch.from_numpy(image), *spacing


def _to_onnx(program, graph, path, text):
    """Write ONNX; return what runs it."""
    import onnxruntime

    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision's absence
    names = ["image", "spacing"][: 1 if graph.frame.pixel is None else 2]
    options = dict(input_names=names, output_names=["labels"], opset_version=18, dynamo=True, verbose=False)
    options["optimize"] = len(program.graph.nodes) <= _OPTIMIZED
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(program, **options)
        found.model.metadata_props["cmems"] = text
        found.save(str(path))
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # of the exporter or of the runtime, over operators that they lack
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"ONNX does not hold this model: {reason}") from error
    return lambda inputs: session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0]


def _to_torch(program, graph, path, text):
    """Write a program of ``torch.export``; return what runs it."""
    buffer = io.BytesIO()  # a file's name must end with .pt2, which this one's does once it is whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={"cmems.json": text})
        path.write_bytes(buffer.getvalue())
        buffer.seek(0)
        module = torch.export.load(buffer).module()
    return lambda inputs: module(*inputs).numpy()


def _is_onnx(path):
    """Tell whether a file says that :func:`export` wrote it, as ONNX."""
    import onnx

    try:
        return any(entry.key == "cmems" for entry in onnx.load(path, load_external_data=False).metadata_props)
    except Exception:  # of protobuf, over what is no ONNX
        return False


def _is_torch(path):
    """Tell whether a file says that :func:`export` wrote it, as a program of ``torch.export``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name == "cmems.json" for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


# Nodes of a program that the exporter optimises, which takes it the square of their number: a minute for these. The
# runtime optimises by itself as it loads one.
_OPTIMIZED = 5000
_WRITERS = {"onnx": _to_onnx, "torch-export": _to_torch}
_KNOWS = {"onnx": _is_onnx, "torch-export": _is_torch}


def _compare(run, segmenter):
    """Return how many voxels were compared and differ, on blurred noise of sizes other than the traced one."""
    frame, settings = segmenter.preparation.frame, vars(segmenter.prediction)
    kept = {name: settings[name] for name in ("batch", "views", "scales", "resize")}
    plain, stream = Prediction(**kept, bfloat16=False), torch.Generator().manual_seed(0)
    voxels = differing = 0
    for shape in ((3, frame.size + 5, 2 * frame.size - 3), (1, frame.size, frame.size // 2 + 1)):
        noise = torch.rand(1, shape[0], 9, 9, generator=stream)
        image = nn.functional.interpolate(noise, shape[1:], mode="bicubic").clamp(0, 1)[0].numpy()
        volume = dict(image=image, spacing=(5.0, 1.4, 1.7), frame=frame)
        own = list(plain.segment(segmenter.networks, [volume])[0].values())[-1]
        with torch.no_grad():
            found = run(_inputs(segmenter.preparation, image, volume["spacing"][1:]))
        voxels, differing = voxels + own.size, differing + int((found != own).sum())
    if differing > _DIFFERING * voxels:
        raise InputError(f"what was exported labels {differing} of {voxels} voxels otherwise than the model itself")
    return voxels, differing


class VolumeGraph(nn.Module):
    """What a volume goes through, in operations that graphs of any height and width have.

    Args:
        networks (sequence[nn.Module]): In evaluation mode.
        prediction (Prediction): Of it ``views``, ``scales`` and ``resize``.
        frame (Frame): How slices become squares.
    """

    def __init__(self, networks, prediction, frame):
        super().__init__()
        self.networks, self.prediction, self.frame = nn.ModuleList(networks), prediction, frame

    def forward(self, image, spacing=None):
        """Label ``(D, H, W)`` float32 slices in [0, 1]: ``(D, H, W)`` uint8; ``spacing`` (row, column) mm."""
        rows, columns = (
            _Axis(self.frame, image.shape[k], spacing if spacing is None else spacing[k - 1]) for k in (1, 2)
        )
        squares = (rows.into() @ image @ columns.into().T).clamp(0, 1).unsqueeze(1)
        answers = [self.prediction.mean_of_views(net, squares) for net in self.networks]
        p = sum(answers) / len(answers)
        if self.prediction.resize == "labels":
            labels, (r, here), (c, there) = p.argmax(1).int(), rows.nearest(), columns.nearest()
            return torch.where(here[:, None] & there, labels[:, r][:, :, c], 0).to(torch.uint8)
        r, c = rows.back(), columns.back()
        whole, beyond = r @ p @ c.T, 1 - r.sum(1)[:, None] * c.sum(1)
        return torch.cat([whole[:, :1] + beyond, whole[:, 1:]], 1).argmax(1).to(torch.uint8)


class _Axis:
    """One axis of a slice and of its square: :class:`Frame`'s resizing as matrices and indices.

    The grid's pixels that the square does not hold lie before or behind it, and have numbers all the same.

    Args:
        frame (Frame): How slices become squares.
        length (int): Pixels of the slice, a number or a symbol.
        mm (Tensor | None): Their size, 0-d float64.
    """

    def __init__(self, frame, length, mm):
        self.pixels = torch.arange(length, dtype=torch.float64)
        self.length = self.pixels[-1] + 1
        self.grid = torch.tensor(frame.size, dtype=torch.float64)
        if frame.pixel is not None:
            self.grid = (mm * self.length / frame.pixel).round().clamp(min=1)
        first = ((self.grid - frame.size) / 2).abs().floor() * (self.grid - frame.size).sign()
        self.own = torch.arange(frame.size, dtype=torch.float64) + first  # the square's pixels, as the grid counts
        self.held = (self.own >= 0) & (self.own < self.grid)

    def into(self):
        """Return the ``(S, length)`` float32 matrix that brings a slice into the square."""
        return (_triangles(self.own, self.pixels, self.length, self.grid) * self.held[:, None]).float()

    def back(self):
        """Return the ``(length, S)`` float32 matrix back; of each row, what lacks to 1 is of pixels not held."""
        return (_triangles(self.pixels, self.own, self.grid, self.length) * self.held).float()

    def nearest(self):
        """Return ``(length,)`` indices of the nearest pixel of the square, and where it is one that it holds."""
        scale = self.grid.float() / self.length.float()  # as torch rounds it
        at = torch.minimum(((self.pixels.float() + 0.5) * scale).floor().double(), self.grid - 1) - self.own[0]
        return at.clamp(0, len(self.own) - 1).long(), (at >= 0) & (at < len(self.own))


def _triangles(outputs, inputs, have, want):
    """Return the weights ``(N, M)`` of M input pixels for N output pixels, as torch's antialiased bilinear resizing.

    Args:
        outputs, inputs (Tensor): Their numbers, ``(N,)`` and ``(M,)`` float64; not all of the axis need be asked for.
        have, want (Tensor): Pixels of the whole axis before and after, 0-d float64.
    """
    centre, reach = (outputs + 0.5) * (have / want), (have / want).clamp(min=1)

    def weigh(pixels, centre):
        return (1 - (pixels + 0.5 - centre).abs() / reach).clamp(min=0)

    # The sum over the whole axis is that of two arithmetic series, left and right of the centre.
    low = (centre - reach - 0.5).ceil().clamp(min=0)
    high = torch.minimum((centre + reach - 0.5).floor(), have - 1)
    middle = torch.maximum(torch.minimum((centre - 0.5).floor(), high), low - 1)
    left = (middle - low + 1) * (weigh(low, centre) + weigh(middle, centre)) / 2
    right = (high - middle) * (weigh(middle + 1, centre) + weigh(high, centre)) / 2
    total = (left + right).clamp(min=1e-9)  # an output beyond the axis has none
    return weigh(inputs, centre[:, None]) / total[:, None]
