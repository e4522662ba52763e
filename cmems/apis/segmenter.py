"""A trained model as a function: scan in, labels out."""

import hashlib
import json
import os
import threading
import warnings

import numpy as np
import torch

from cmems.apis.model_file import model_of_config, read_model
from cmems.datasets.preparation import ODD_AXES, UNTOLD
from cmems.datasets.prepared import AXES
from cmems.datasets.readers.nifti import Volume
from cmems.engine.runner import set_up_cpu
from cmems.engine.settings import alike
from cmems.errors import InputError, said
from cmems.models.prediction import Prediction
from cmems.visualization.colors import class_colors

_FAR = 1e4  # mm: no scanner's spacing


class Segmenter:
    """Labels scans with a trained model.

    ::

        segmenter = cmems.Segmenter("heart.pth")  # a file of `cmems publish`
        labels = segmenter("scan.nii.gz")  # (D, H, W) uint8
        labels = segmenter(array, spacing=(8.0, 1.5, 1.5))

    Both give what ``cmems predict`` writes, bit for bit on one machine, and warn of what it says of a scan.

    Args:
        model (str): A file of ``cmems publish``; or, with ``checkpoint``, a config.
        checkpoint (str | None): The weights of a config.
        cfg_options (dict | None): Dotted keys of the config to set.
        network (int | str | None): ``"ensemble"``, the mean of the networks, or 1, 2 …, one alone. Default: the
            ensemble, or the only one.
        views (int | None): 1, 4 or 8 mirrored and turned views to average. Default: the model's.
        clean (bool): Clean labels up as the model says.
        keep_largest (bool): At last keep the largest part of each class, connected by faces in 3-D.
        device (str | torch.device | None): ``"cuda"``, ``"mps"`` or ``"cpu"``. Default: the first that is there.

    Attributes:
        classes (tuple[str]): Foreground classes; label k is the k-th.
        colors (list[tuple[int, int, int]]): Of the classes, RGB of 0 to 255.
        preparation (Preparation): How scans are prepared.
        whose (str): Who labels, in words.
        alone (int | None): The number of the network that labels by itself; None where several do together.
        together (int): Scans that ``cmems predict`` has in hand at a time.
        key (str): 16 hexadecimal digits that are others for other weights, settings or preparation.

    Raises:
        InputError: The model is unusable, or has no such network; there is no such device; or a choice is none.
    """

    def __init__(
        self,
        model,
        checkpoint=None,
        cfg_options=None,
        network=None,
        views=None,
        clean=True,
        keep_largest=False,
        device=None,
    ):
        if not isinstance(model, (str, os.PathLike)):
            raise InputError(f"the model: expected the path of a file, got {type(model).__name__}")
        if checkpoint is None and cfg_options:
            raise InputError("--cfg-options: a model file has no config; --views, --network and others change it")
        network, views = (int(n) if isinstance(n, np.integer) else n for n in (network, views))
        if views is not None and (type(views) is not int or views not in (1, 4, 8)):
            raise InputError(f"--views {views!r:.60}: expected 1, 4 or 8")
        for name, value in (("clean", clean), ("keep_largest", keep_largest)):
            if not isinstance(value, (bool, np.bool_)):
                raise InputError(f"{name}: expected True or False, got {value!r:.60}")
        self.device = _device(device)
        found = read_model(model) if checkpoint is None else model_of_config(model, checkpoint, cfg_options)
        set_up_cpu(found.env)
        count = len(found.networks)
        choices = [None, *range(1, count + 1), *["ensemble"] * (count > 1)]
        if not (network is None or type(network) in (str, int)) or network not in choices:
            known = ", ".join(map(str, range(1, count + 1))) + (" or ensemble" if count > 1 else "")
            raise InputError(f"--network {network!s:.60}: {found.name} has {known}")
        settings = dict(found.prediction, views=views or found.prediction.get("views", 1))
        settings["clean"] = list(settings.get("clean") or ()) if clean else []
        if keep_largest:
            settings["clean"].append(dict(type="KeepLargest", of="class"))
        chosen = list(found.networks) if network in (None, "ensemble") else [found.networks[network - 1]]
        self.prediction, self.preparation = Prediction(**settings), found.preparation
        self.classes, self.colors = found.preparation.classes, class_colors(len(found.preparation.classes))
        self.key = segmenter_key(chosen, settings, found.preparation)
        self.networks = [net.to(self.device).eval() for net in chosen]
        self.alone = None if len(chosen) > 1 else network if isinstance(network, int) else 1  # its number
        whose = f"network {self.alone}" if self.alone else "the ensemble"
        self.whose = f"{whose}, cleaned up" if settings["clean"] else whose
        self.name, self.together = found.name, found.together
        self._turn = threading.Lock()  # layers of mmcv change themselves while they predict

    def __call__(self, scan, spacing=None, axes=None):
        """Label a scan.

        Args:
            scan (str | Path | np.ndarray): A NIfTI file, or ``(D, H, W)`` real numbers, as the scanner has them: slices
                first, rows and columns as the networks know them.
            spacing (sequence[float] | None): (slice, row, column) in mm, of an array.
            axes (str | None): Where an array's (column, row, slice) indices grow to, as ``"LPS"``: where the prepared
                scans' axes are known, it is turned to theirs for the networks, and the labels back, as files are.

        Returns:
            np.ndarray: ``(D, H, W)`` uint8 on the scan's own grid; label k is the k-th class.

        Raises:
            InputError: The scan is unusable.
        """
        name, there = ("the array", axes) if isinstance(scan, np.ndarray) else (scan, True)
        ready = self.preparation.ready(self.volume(scan, spacing, axes), name)
        notes = [note for note in ready.notes if there or not note[0].startswith(UNTOLD)]  # an array has no header
        for line in said({str(name): notes + ([(ODD_AXES, ready.odd)] if ready.odd else [])}):
            warnings.warn(line, stacklevel=2)
        return ready.back(self.segment([ready])[0])

    def volume(self, scan, spacing=None, axes=None):
        """Return a scan as a :class:`Volume`; see :meth:`__call__`."""
        if not isinstance(scan, (str, os.PathLike, np.ndarray)):
            raise InputError(f"the scan: expected a path, or a NumPy array and its spacing, got {type(scan).__name__}")
        if not isinstance(scan, np.ndarray):
            if spacing is not None or axes is not None:
                raise InputError(f"{scan}: its header tells spacing and axes; expected None")
            return self.preparation.read_scan(scan)
        if np.ma.is_masked(scan):
            raise InputError("the array: expected all its voxels, got some that are masked; fill them: array.filled(…)")
        if scan.ndim != 3 or scan.dtype.kind not in "iufb" or not scan.size:
            raise InputError(f"the array: expected (D, H, W) real numbers, got {scan.shape} of {scan.dtype}")
        try:
            given = np.array(spacing if spacing is not None else [], float)
        except (TypeError, ValueError):
            given = np.empty(0)
        if given.shape != (3,) or not ((given > 0) & (given < _FAR)).all():
            raise InputError(f"spacing: expected (slice, row, column) in mm, each more than 0, got {spacing!r:.60}")
        if axes is not None and not (isinstance(axes, str) and AXES.fullmatch(axes)):
            raise InputError(f"axes: expected three letters, as LPS, got {axes!r:.60}")
        affine = _affine(axes or "RAS", given[::-1])
        return Volume(scan, tuple(given.tolist()), affine, (affine,) if axes else ())

    def segment(self, scans):
        """Label the :class:`Ready` scans of :meth:`Preparation.ready`: ``(D, H, W)`` uint8 each, in their axes."""
        with self._turn:
            found = self.prediction.segment(self.networks, [ready.content for ready in scans])
        return [self.labels(models) for models in found]

    def segment_with_doubt(self, scans, maps=False, probabilities=False):
        """Label scans as :meth:`segment` does; see :meth:`Prediction.segment_with_doubt`."""
        with self._turn:
            return self.prediction.segment_with_doubt(self.networks, [s.content for s in scans], maps, probabilities)

    def __getstate__(self):
        """Return what a copy for another process takes: all but the lock."""
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state):
        """Take it, with a lock of its own."""
        vars(self).update(state, _turn=threading.Lock())

    def labels(self, models):
        """Return the labels that count of :meth:`Prediction.segment`'s, by name."""
        return models[self.prediction.names(len(self.networks))[-1]]


def _affine(axes, spacing):
    """Return the ``(4, 4)`` affine of axes that grow as ``axes``, (x, y, z), with ``spacing`` (x, y, z) mm."""
    affine = np.eye(4)
    for k, letter in enumerate(axes):
        row = next(r for r, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[:3, k] = 0
        affine[row, k] = spacing[k] * (1 if letter in "RAS" else -1)
    return affine


def segmenter_key(networks, settings, preparation):
    """Return 16 hexadecimal digits that are others for other weights, settings or preparation."""
    known = preparation._replace(pixels=None).plain()  # they make no mask another
    digest = hashlib.sha256(json.dumps([alike(settings), known], sort_keys=True, default=str).encode())
    for net in networks:
        for name, values in sorted(net.state_dict().items()):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _device(name):
    """Return the device of a name, the best for None."""
    kinds = dict(cuda=torch.cuda.device_count(), mps=int(torch.backends.mps.is_available()), cpu=1)
    try:
        device = torch.device(best_device() if name is None else name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (device.index or 0) >= kinds.get(device.type, 0):
        there = " or ".join(kind for kind, count in kinds.items() if count)
        raise InputError(f"--device {name!s:.60}: there is none here; expected {there}")
    return device


def best_device():
    """Return the device that predicts: a GPU of NVIDIA's or Apple's, where there is one, or the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
