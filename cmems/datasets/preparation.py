"""What scans went through before networks saw them: all that a new scan needs of a prepared data set."""

import json
from typing import NamedTuple

import numpy as np

from cmems.datasets.intensity import image_problems, modality_of, scale_intensity, scaling_notes
from cmems.datasets.prepare import MAX_SIZE
from cmems.datasets.prepared import preparation_problems
from cmems.datasets.readers.folder import filled
from cmems.datasets.readers.geometry import LEFT, axes, is_to_turn, known_axes, spacing_notes, turned, turned_array
from cmems.datasets.readers.scans import read_scan, scan_stem
from cmems.errors import InputError
from cmems.resize import Frame

_DECIDING = ("classes", "intensity", "size", "pixel")  # what networks do not know otherwise
ODD_AXES = "its axes lie as those of no prepared case"
UNTOLD = "its header tells no axes"
_UNLIKE = "pixels of quite another size than the prepared cases'; the header's unit may be wrong"


class Preparation(NamedTuple):
    """How a data set was prepared.

    Attributes:
        name: Data set.
        classes: Foreground classes; label k is the k-th.
        intensity: How voxels were scaled, as a manifest says it.
        frame: How slices become the squares that networks take.
        axes: The axes that scans are turned to, as ``LPS``, but for those whose slices would then run across their
            thick axis; None: left as they lie.
        orientations: Those that the scans' files had.
        channel: Which channel of volumes of four axes is read; None: they have three.
        fill_nan: Whether NaN is read as the volume's smallest value.
        pixels: The smallest and the largest side of a pixel of the scans, mm; None: not known.
    """

    name: str
    classes: tuple[str, ...]
    intensity: str
    frame: Frame
    axes: str | None = None
    orientations: tuple[str, ...] = ()
    channel: int | None = None
    fill_nan: bool = False
    pixels: tuple[float, float] | None = None

    @classmethod
    def of(cls, data):
        """Return that of a :class:`PreparedDataset`, of which the manifest is enough."""
        cases = data.manifest["cases"].values()
        known = sorted({case["orientation"] for case in cases})
        sides = [side for case in cases for side in case["spacing"][1:]]
        pixels = [min(sides), max(sides)] if sides else None
        return cls.read(dict(data.manifest, orientations=known, pixels=pixels), data.root)

    @classmethod
    def read(cls, content, where):
        """Return that of a manifest's entries, or of :meth:`plain`.

        Args:
            content (dict): Plain values.
            where (str | Path): What they are of; for messages.

        Raises:
            InputError: Naming what is missing or of another kind.
        """
        if problems := preparation_problems(content, MAX_SIZE):
            raise InputError([f"{where}: {problem}" for problem in problems])
        how = content.get("reading") or {}
        return cls(
            name=content["dataset"],
            classes=tuple(content["classes"]),
            intensity=content["intensity"],
            frame=Frame(content["size"], content.get("pixel")),
            axes=content.get("axes"),
            orientations=tuple(content["orientations"]),
            channel=how.get("channel"),
            fill_nan=bool(how.get("fill_nan")),
            pixels=tuple(content["pixels"]) if content.get("pixels") else None,
        )

    def plain(self):
        """Return it as plain values, named as in a manifest."""
        return dict(
            dataset=self.name,
            classes=list(self.classes),
            intensity=self.intensity,
            size=self.frame.size,
            pixel=self.frame.pixel,
            axes=self.axes,
            orientations=list(self.orientations),
            reading=dict(channel=self.channel, fill_nan=self.fill_nan),
            **({} if self.pixels is None else dict(pixels=list(self.pixels))),
        )

    def text(self):
        """Return :meth:`plain` as JSON."""
        return json.dumps(self.plain())

    def check(self, saved, path):
        """Refuse a checkpoint whose training saw data that were prepared otherwise.

        Args:
            saved (dict): As read; one that does not tell is taken.
            path (str | Path): Its file.

        Raises:
            InputError: Classes, scaling, pixels, axes or channel are not these.
        """
        try:
            there = json.loads(saved["meta"].get("preparation") or "null")
        except (TypeError, ValueError, RecursionError):
            there = None
        if isinstance(there, dict) and (found := self.unlike(there)):
            raise InputError(
                f"checkpoint {path}: it was trained on data that were prepared otherwise than {self.name}: "
                f"{'; '.join(found)}. Name the data set that it was trained on; a file of `cmems publish` predicts "
                "without one"
            )

    def unlike(self, there):
        """List in what another preparation, of :meth:`plain`, is not this one: ``key: value there, value here``."""
        here = self.plain()
        pairs = {key: (there[key], here[key]) for key in _DECIDING if key in there}
        if None not in (there.get("axes"), self.axes):  # of files that tell them
            pairs["axes"] = there["axes"], self.axes
        if isinstance(there.get("reading"), dict):
            pairs["channel"] = there["reading"].get("channel"), self.channel
        return [f"{key}: {json.dumps(a)} there, {json.dumps(b)} here" for key, (a, b) in pairs.items() if a != b]

    @property
    def modality(self):
        """The modality by which voxels were scaled; raises InputError where the scaling is not known."""
        return modality_of(self.intensity, self.name)

    def read_scan(self, path):
        """Read a scan as the scans of the data set were; see :func:`cmems.datasets.readers.scans.read_scan`."""
        return read_scan(path, self.channel)

    def ready(self, volume, path):
        """Bring a scan to what networks know.

        Args:
            volume (Volume): As read.
            path (str | Path): For messages.

        Returns:
            Ready: What :meth:`Prediction.segment` takes, and the way back.

        Raises:
            InputError: The volume cannot be scaled.
        """
        volume = filled(volume) if self.fill_nan else volume
        if problems := image_problems(path, volume, self.modality):
            raise InputError(problems)
        stored, orientation, turn, notes = known_axes(volume), axes(volume.affine), None, list(volume.notes)
        if is_to_turn(volume, self.axes):
            volume, turn = turned(volume, self.axes), (self.axes, stored)
        elif self.axes and stored and self.axes != stored:
            notes.append((LEFT.format(self.axes), f"stored as {stored}"))
        if problem := self.frame.problem(volume.voxels.shape[1:], volume.spacing[1:]):
            raise InputError(f"{path}: {problem}")
        notes += spacing_notes(volume.spacing)
        sides = volume.spacing[1:]
        if self.pixels and (min(sides) < self.pixels[0] / 4 or max(sides) > 4 * self.pixels[1]):
            here, there = (" to ".join(dict.fromkeys(f"{v:.3g}" for v in each)) for each in (sides, self.pixels))
            notes.append((_UNLIKE, f"{here} mm, theirs {there} mm"))
        voxels, _ = scale_intensity(volume.voxels, self.modality)
        notes += scaling_notes(volume.voxels, voxels, self.modality)
        if turn:
            notes.append((f"turned to {self.axes} as the prepared cases, and the mask back", f"stored as {stored}"))
        affine = volume.affine if stored else None  # one that only stands in tells nobody's right from left
        content = dict(image=voxels.astype(np.float16), spacing=volume.spacing, affine=affine, frame=self.frame)
        if self.axes and not stored:
            notes.append((f"{UNTOLD}; taken as {self.axes}, as the prepared cases lie", None))
        odd = orientation if stored and not turn and orientation not in self.orientations else None
        return Ready(scan_stem(path), content, turn, odd, notes)


class Ready(NamedTuple):
    """A scan that networks can label.

    Attributes:
        name: Of the scan.
        content: What :meth:`Prediction.segment` takes.
        turn: The axes that it was turned to and those of the file; None where they are the same.
        odd: The file's axes, where it tells them, was not turned, and no scan of the data set lay so.
        notes: What a user should know of it, as pairs of a sentence and its details.
    """

    name: str
    content: dict
    turn: tuple[str, str] | None
    odd: str | None
    notes: list

    def back(self, voxels):
        """Turn ``(D, H, W)`` voxels of ``content``'s grid, or more axes before these, to the file's axes."""
        if self.turn is None:
            return voxels
        if voxels.ndim > 3:
            return np.stack([self.back(part) for part in voxels])
        return turned_array(voxels, *self.turn)
