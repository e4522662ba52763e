"""A prepared data set on disk, as ``cmems prepare`` writes it."""

import hashlib
import json
import re
import zlib
from pathlib import Path

import numpy as np

from cmems.datasets.names import composed, name_problem, near
from cmems.errors import InputError, warn_once
from cmems.files import need_file
from cmems.labels import UNKNOWN
from cmems.resize import Frame

FORMAT, VERSION = "cmems-prepared", 1
MANIFEST = "manifest.json"
FLAT = "slices of one value, in which there is nothing to see"  # a note of a case


class PreparedDataset:
    """Read access to a prepared data set.

    Nothing is read or written by a name from the manifest that could lead out of the folder.

    Args:
        root (str): Its folder.
        arrays (bool): Whether its arrays are needed, and so checked: that each is there, whole, and of the shape and
            type that the manifest says. Their content is compared with the manifest's checksums as they are read.

    Attributes:
        name (str): Data set.
        size (int): Side S of the training slices, pixels.
        frame (Frame): How slices of the scans become such squares.
        classes (tuple[str]): Foreground classes; label k is the k-th.
        num_classes (int): K, background included.
        manifest (dict): All that is known of the data; docs/data.md describes it.

    Raises:
        InputError: There is no complete prepared data set; every problem of its manifest, or of its arrays, at once.
    """

    def __init__(self, root, arrays=True):
        self.root = Path(root)
        path = self.root / MANIFEST
        if not path.is_file():
            raise InputError(f"{self.root}: {_why_not(self.root)}; make one with `cmems prepare`")
        try:
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
        except PermissionError as error:
            raise InputError(f"{path}: no permission to read it") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not JSON ({str(error)[:100]})") from error
        if not isinstance(self.manifest, dict):
            raise InputError(f"{path}: expected an object, got {type(self.manifest).__name__}")
        found = (self.manifest.get("format"), self.manifest.get("version"))
        if found != (FORMAT, VERSION):
            raise InputError(f"{path}: expected format {FORMAT} version {VERSION}, got {found[0]} version {found[1]}")
        if problems := manifest_problems(self.manifest):
            raise InputError([f"{path}: {problem}" for problem in problems])
        if self.changed:
            warn_once(self.changed)
        self.name = self.manifest["dataset"]
        self.size = self.manifest["size"]
        self.frame = Frame(self.size, self.manifest.get("pixel"))
        self.classes = tuple(self.manifest["classes"])
        self.num_classes = len(self.classes) + 1
        self._verified = set()
        if arrays and (problems := self.file_problems()):
            raise InputError(problems)

    @property
    def changed(self):
        """A line where the manifest is not as it was written: by hand, or by damage to the disk; None where it is."""
        if self.manifest.get("sha256") in (None, manifest_sha256(self.manifest)):
            return None
        return f"{self.root / MANIFEST}: changed since it was written, by hand or by damage; its checksum is another"

    def file_problems(self):
        """Return the arrays that are missing, cut, or of another shape or type than the manifest says, a line each."""
        problems = []
        for name, (dtype, shape) in _expected(self.manifest).items():
            path, said = self.root / name, self.manifest["files"].get(name)
            if said is None:
                problems.append(f"{self.root / MANIFEST}: files: {name} is not listed")
                continue
            try:
                need_file(path)
                array = np.lib.format.open_memmap(path, mode="r")
                size = path.stat().st_size
            except InputError as error:
                problems += error.problems
                continue
            except FileNotFoundError:
                problems.append(f"{path}: no such file")
                continue
            except PermissionError:
                problems.append(f"{path}: no permission to read it")
                continue
            except Exception as error:  # a header of any text
                problems.append(f"{path}: damaged ({' '.join(str(error).split())[:100]})")
                continue
            seen = (str(array.dtype), tuple(array.shape))
            listed = (said.get("dtype"), tuple(said["shape"]))
            if seen != listed or seen != (dtype, shape) or np.isfortran(array):
                wanted = listed if listed != seen else (dtype, shape)
                problems.append(f"{path}: expected {wanted[0]} of shape {wanted[1]}, got {seen[0]} of {seen[1]}")
            elif size != array.offset + array.nbytes:
                problems.append(f"{path}: expected {array.offset + array.nbytes} bytes, got {size}")
        return problems

    def cases(self, split):
        """List the cases of ``train``, ``val`` or ``test``; ``valtest`` is the last two, on which UniMatch reports."""
        if split == "valtest":
            return self.cases("val") + self.cases("test")
        if not isinstance(split, str) or split not in self.manifest["splits"]:
            raise InputError(f"{self.root}: split: expected one of {', '.join(self.manifest['splits'])}, got {split!r}")
        return list(self.manifest["splits"][split])

    def case(self, name):
        """Return a case's entry of the manifest; raises InputError naming the cases near it.

        A command line turns 001 into 1: an integer means the one case of that number.
        """
        if isinstance(name, int):
            same = [case for case in self.manifest["cases"] if case.isdecimal() and int(case) == name]
            name = same[0] if len(same) == 1 else str(name)
        if not isinstance(name, str):
            raise InputError(f"{self.root}: case: expected a name, got {name!r}")
        name = name if name in self.manifest["cases"] else composed(name)
        if name not in self.manifest["cases"]:
            raise InputError(f"{self.root}: no case {name!r}; {near(name, self.manifest['cases'])}")
        return self.manifest["cases"][name]

    def train_images(self):
        """Map ``(N, S, S)`` float16 in [0, 1]: the slices of every training case."""
        return self._map("train_images.npy")

    def train_labels(self):
        """Map ``(N, S, S)`` uint8, 255 where a case, or a part of it, has no label."""
        self._need_labels()
        return self._map("train_labels.npy")

    def train_label(self, row):
        """Read the labels ``(S, S)`` uint8 of one training slice, and no other's."""
        self._need_labels()
        label = np.array(np.load(self.root / "train_labels.npy", mmap_mode="r")[row])
        sums = self.manifest["files"]["train_labels.npy"].get("rows")
        if sums is not None and zlib.crc32(label) != sums[row]:
            raise InputError(f"{self.root / 'train_labels.npy'}: row {row} is damaged: its checksum is another")
        return label

    def _need_labels(self):
        if not (self.root / "train_labels.npy").is_file():
            raise InputError(f"{self.root}: no training case is labelled")

    def rows(self, case):
        """Return the range of a training case's rows in the training arrays."""
        entry = self.case(case)
        if entry["split"] != "train":
            raise InputError(f"{self.root}: case {case} is in split '{entry['split']}'; expected a training case")
        return range(*entry["slices"])

    def row(self, case, slice):
        """Return the row of a slice in the training arrays; the index counts from 0 along the source's last axis."""
        rows = self.rows(case)
        if type(slice) is not int or not 0 <= slice < len(rows):
            raise InputError(f"{self.root}: case {case} slice {slice!r}: expected an integer from 0 to {len(rows) - 1}")
        return rows[slice]

    def volume(self, case):
        """Read a validation or test volume.

        Returns:
            dict: ``case``; ``image`` ``(D, H, W)`` float16 in [0, 1] on the source's grid; ``label`` ``(D, H, W)``
            uint8 or None; ``spacing`` (slice, row, column) in mm; ``affine`` of :func:`true_affine`.
        """
        entry = self.case(case)
        return dict(
            case=case,
            image=np.array(self._map(f"volumes/{case}_image.npy")),
            label=np.array(self._map(f"volumes/{case}_label.npy")) if entry["labelled"] else None,
            spacing=tuple(entry["spacing"]),
            affine=true_affine(entry),
        )

    def eligible_exemplars(self, limit=None):
        """List training slices that hold every class as (case, slice), those with most foreground first."""
        labels, found = self.train_labels(), []
        for case in self.cases("train"):
            start, stop = self.case(case)["slices"]
            for index, label in enumerate(labels[start:stop]):
                counts = np.bincount(label.ravel(), minlength=self.num_classes)[1 : self.num_classes]
                if (counts > 0).all() and not (label == UNKNOWN).any():
                    found.append((int(counts.min()), case, index))
        ordered = [(case, index) for _, case, index in sorted(found, key=lambda f: -f[0])]
        return ordered[:limit]

    def verify(self, cases):
        """Compare the volumes of validation or test cases with their checksums; what is read later is not again.

        Raises:
            InputError: Naming each that is damaged.
        """
        problems = []
        for case in cases:
            for kind in ("image", "label") if self.case(case)["labelled"] else ("image",):
                try:
                    self._verify(f"volumes/{case}_{kind}.npy")
                except InputError as error:
                    problems += error.problems
        if problems:
            raise InputError(problems)

    def _verify(self, name):
        path, said = self.root / name, self.manifest["files"].get(name, {})
        if name not in self._verified and "sha256" in said:
            if file_sha256(path) != said["sha256"]:
                raise InputError(
                    f"{path}: damaged or replaced: its content is not what {MANIFEST} says; prepare it again"
                )
            self._verified.add(name)

    def _map(self, name):
        self._verify(name)
        path = self.root / name
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: missing or damaged ({error})") from error


def true_affine(entry):
    """Return the ``(4, 4)`` affine of a manifest's case; None where its header told no axes, and it only stands in."""
    return np.asarray(entry["affine"]) if entry.get("axes_known", True) else None


def manifest_sha256(manifest):
    """Return the SHA-256 of a manifest's content, however it is laid out, less the place for this sum itself."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path):
    """Return the SHA-256 of a file's content, hexadecimal."""
    need_file(path)
    try:
        with open(path, "rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error


def _expected(manifest):
    """Return what arrays the cases of a manifest make, as ``{name: (dtype, shape)}``."""
    cases, side = manifest["cases"], manifest["size"]
    total = sum(cases[c]["shape"][0] for c in manifest["splits"].get("train", []))
    arrays = {}
    if total:
        arrays["train_images.npy"] = ("float16", (total, side, side))
        if any(cases[c]["labelled"] for c in manifest["splits"]["train"]):
            arrays["train_labels.npy"] = ("uint8", (total, side, side))
    for split, names in manifest["splits"].items():
        for name in names if split != "train" else ():
            arrays[f"volumes/{name}_image.npy"] = ("float16", tuple(cases[name]["shape"]))
            if cases[name]["labelled"]:
                arrays[f"volumes/{name}_label.npy"] = ("uint8", tuple(cases[name]["shape"]))
    return arrays


def _whole(value, low=1):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 1 << 40


def _numbers(value, count):
    return isinstance(value, list) and len(value) == count and all(
        isinstance(v, int | float) and not isinstance(v, bool) and -1e300 < v < 1e300 for v in value
    )  # fmt: skip


def is_text(value):
    """Tell whether a value is text that can be written; JSON may hold half a character, an escaped surrogate."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _pair(value):
    return isinstance(value, list) and len(value) == 2 and all(map(is_text, value))


def _texts(value):
    return isinstance(value, list) and all(map(is_text, value)) and len(set(value)) == len(value)


_ENTRY = {  # what each case needs: a test and what it expects
    "split": (is_text, "a split"),
    "shape": (lambda v: isinstance(v, list) and len(v) == 3 and all(map(_whole, v)), "three positive integers"),
    "spacing": (lambda v: _numbers(v, 3) and min(v) > 0, "three positive numbers"),
    "affine": (lambda v: isinstance(v, list) and len(v) == 4 and all(_numbers(r, 4) for r in v), "a 4 x 4 matrix"),
    "orientation": (is_text, "text"),
    "labelled": (lambda v: isinstance(v, bool), "true or false"),
}
_TOP = {
    "dataset": (is_text, "text"),
    "size": (_whole, "a positive integer"),
    "classes": (lambda v: _texts(v) and v, "a list of different names"),
    "intensity": (is_text, "text"),
    "splits": (lambda v: isinstance(v, dict) and all(map(_texts, v.values())), "lists of different cases"),
    "cases": (lambda v: isinstance(v, dict) and all(isinstance(e, dict) for e in v.values()), "an object of objects"),
    "files": (lambda v: isinstance(v, dict) and all(map(_file, v.values())), "objects with shape, dtype and sha256"),
}
AXES = re.compile("(?=.*[LR])(?=.*[PA])(?=.*[SI])[LRPASI]{3}")
_OPTIONAL = {  # of a manifest, and of a case
    "pixel": (lambda v: v is None or _numbers([v], 1) and v > 0, "a positive number of mm"),
    "axes": (lambda v: v is None or isinstance(v, str) and AXES.fullmatch(v), "axes as LPS"),
    "pixels": (lambda v: v is None or _numbers(v, 2) and 0 < v[0] <= v[1], "two positive numbers of mm"),
    "reading": (
        lambda v: isinstance(v, dict) and (v.get("channel") is None or _whole(v["channel"], 0)),
        "an object with channel and fill_nan",
    ),
}
_OPTIONAL_ENTRY = {
    "axes_known": (lambda v: v is None or isinstance(v, bool), "true or false"),
    "notes": (lambda v: isinstance(v, list) and all(map(_pair, v)), "pairs of texts"),
    "label_counts": (
        lambda v: isinstance(v, dict) and all(k.isdecimal() and _whole(n, 0) for k, n in v.items()),
        "numbers by label",
    ),
}


def _file(value):
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    rows = value.get("rows", [])
    shape = value.get("shape")
    if not isinstance(shape, list) or not shape or not all(map(_whole, shape)):
        return False
    return isinstance(rows, list) and len(rows) in (0, shape[0])


def manifest_problems(manifest):
    """Return what is wrong with a manifest's content, one line per problem; its format and version are known."""
    problems = _odd(manifest, _TOP, "") + _odd(manifest, _OPTIONAL, "", manifest)
    if problems:
        return problems
    cases, splits = manifest["cases"], manifest["splits"]
    problems += [problem for problem in map(name_problem, cases) if problem]
    if problems:
        return problems
    for name, entry in cases.items():
        problems += _odd(entry, _ENTRY, f"cases: {name}: ") + _odd(entry, _OPTIONAL_ENTRY, f"cases: {name}: ", entry)
    for split, names in splits.items():
        for name in names:
            if name not in cases or cases[name].get("split") != split:
                problems.append(f"splits: {split!r}: {name!r} is no case of that split")
    if problems:
        return problems
    start = 0
    for name in splits.get("train", []):
        stop = start + cases[name]["shape"][0]
        if cases[name].get("slices") != [start, stop]:
            problems.append(f"cases: {name}: slices: expected {[start, stop]}, got {cases[name].get('slices')!r:.60}")
        start = stop
    stray = set(manifest["files"]) - set(_expected(manifest))
    return problems + [f"files: {name!r} belongs to no case" for name in sorted(stray)]


def preparation_problems(content, largest):
    """Return what is wrong with a manifest's entries that say how scans are prepared, one line per problem.

    Args:
        content (dict): The entries, and ``orientations``, those of the cases.
        largest (int): The largest side of the squares.
    """
    keys = ("dataset", "size", "classes", "intensity")
    wanted = {**{k: _TOP[k] for k in keys}, "orientations": (_texts, "a list of different axes")}
    problems = _odd(content, wanted, "") + _odd(content, _OPTIONAL, "", content)
    if not problems and content["size"] > largest:
        problems.append(f"size: expected {largest} or less, got {content['size']}")
    return problems


def _odd(values, wanted, where, among=None):
    """Return what is not as wanted; ``among`` limits what must be there."""
    found = []
    for key, (right, expected) in wanted.items():
        if among is not None and key not in among:
            continue
        if key not in values or not right(values[key]):
            seen = repr(values[key])[:60] if key in values else "nothing"
            found.append(f"{where}{key}: expected {expected}, got {seen}")
    return found


def _why_not(root):
    if not root.is_dir():
        return "no such folder; expected a prepared data set"
    if (root / ".partial").is_dir():
        return "its preparation was interrupted; run the same command again to go on"
    return f"not a prepared data set: it has no {MANIFEST}"
