"""What a reader takes for a scan, and how any damage in one ends: in a line that names the file."""

import importlib
import os
import re
from contextlib import contextmanager
from pathlib import Path

from cmems.datasets.names import composed
from cmems.errors import InputError, warn_once
from cmems.files import need_file
from cmems.memory import free_bytes

# gzip and zlib shrink at most about 1,030 to 1: a file that claims more cannot hold it.
_RATIO = 1100
_NIFTI = re.compile(r"\.(nii(\.gz)?|hdr|img)$", re.IGNORECASE)
PICTURE = re.compile(r"\.(png|tiff?|bmp|jpe?g)$", re.IGNORECASE)
# Endings that name a format; DICOM needs none.
SCAN = re.compile(rf"{_NIFTI.pattern}|\.(seg\.)?nrrd$|{PICTURE.pattern}", re.IGNORECASE)
# What lies beside scans and is none; any other file is named rather than passed over.
ASIDE = {".json", ".txt", ".csv", ".tsv", ".md", ".rst", ".pdf", ".yaml", ".yml", ".xml", ".log", ".html", ".bval"}
ASIDE |= {".bvec", ".xlsx", ".cfg", ".ini", ".py", ".sh", ".sha256", ".md5", ".ctbl", ".label", ".mrml"}
# What to do about a scan, or a mask, of several channels.
CHANNEL = "--channel N of cmems prepare and pick reads one of several, and so does a model of data prepared so"
MAPS = "a mask has one label per voxel: save its maps as one"
# What lies in the folders that prediction, picking and training write, and the folders that the first makes beside it.
_OURS, _PARTS = ("slices.png", "run.json"), ("doubt", "probabilities")


@contextmanager
def reading(path, kind):
    """Turn whatever goes wrong inside the block into an :class:`InputError` that names ``path``.

    Libraries that decode foreign bytes raise nearly any exception on damaged ones, so that all are caught here, and
    nowhere else.

    Args:
        path (Path): The file that is read.
        kind (str): What it should be, as in "not <kind>".
    """
    try:
        need_file(path)
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        missing = path if error.filename is None or Path(error.filename) == path else error.filename
        of = "" if missing == path else f", which {path.name} needs"
        raise InputError(f"{missing}: no such file{of}") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into memory") from error
    except Exception as error:
        if path.exists() and not os.access(path, os.R_OK):  # libraries may hide that behind an error of their own
            raise InputError(f"{path}: no permission to read it") from error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: truncated or not {kind} ({reason})") from error


def check_size(path, shape, itemsize, held, packed):
    """Refuse an array that its file cannot hold, or this machine's memory cannot, before memory is asked for.

    Args:
        path (Path): The file.
        shape (tuple[int]): What its header claims.
        itemsize (int): Bytes of a number.
        held (int): Bytes of the file that hold the array.
        packed (bool): Whether they are compressed.

    Raises:
        InputError: An axis is not positive, or the array is too large.
    """
    claimed = itemsize
    for side in shape:
        if side < 1:
            raise InputError(f"{path}: expected axes of one voxel or more, got shape {tuple(shape)}")
        claimed *= int(side)
    if claimed > held * (_RATIO if packed else 1):
        raise InputError(f"{path}: truncated: shape {tuple(shape)} is {claimed:,} bytes, of which it holds {held:,}")
    # Scaling holds the voxels twice over, in four bytes each.
    need = claimed + 8 * claimed // itemsize
    if need > (free := free_bytes()):
        raise InputError(f"{path}: shape {tuple(shape)} needs {need >> 20:,} MiB of memory, {free >> 20:,} are free")


def read_out(handle, path, size):
    """Read a compressed file on to its end, where its checksum stands: without that, damage passes for other voxels.

    Args:
        handle (file): What decompresses; it stands behind the voxels.
        path (Path): The file.
        size (int): Bytes of the voxels; of what follows them, more than that and a MiB is no scan.

    Raises:
        InputError: It does not end.
    """
    left = size + (1 << 20)
    while left >= 0 and (block := handle.read(1 << 20)):
        left -= len(block)
    if left < 0:
        raise InputError(f"{path}: damaged: expected {size:,} bytes of voxels, got more than twice as many")


def need(module, path, extra):
    """Import a module that an extra of the package brings.

    Raises:
        InputError: It is not installed; ``path`` is what it was needed for.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {module}: pip install 'cmems[{extra}]'") from error


def nifti_stem(path):
    """Return a file's name without ``.nii``, ``.nii.gz``, ``.hdr`` or ``.img``, however they are capitalised."""
    return composed(_NIFTI.sub("", Path(path).name))


def nifti_files(folder):
    """Find the NIfTI files of a folder; hidden files, as macOS leaves them beside others, are none.

    Returns:
        tuple[dict[str, Path], list[str]]: Files by stem, and the problems: two files of one stem, and files that are
        no NIfTI but may be scans.
    """
    found, problems = listed(sorted(Path(folder).iterdir()), _NIFTI, "a NIfTI file")
    return found, problems + misplaced(folder, [p for p in files_below(folder) if _NIFTI.search(p.name)])


def files_below(folder, aside=(), above=()):
    """Yield the files in the folders below one, links followed, but not round and round; warn of those not to be read.

    Args:
        folder (str | Path): Where.
        aside (collection[Path]): Folders, resolved, that are passed over, as hidden ones and masks of CMEMS's are.
        above (tuple[Path]): Those that led here, resolved.
    """
    folder = Path(folder)
    above = (*above, folder.resolve())
    if not os.access(folder, os.R_OK | os.X_OK):
        warn_once(f"{folder}: passed over; this user may not read it")
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            if len(above) > 1:
                yield path
        elif path.resolve() not in (*above, *aside) and not (os.access(path, os.R_OK | os.X_OK) and _ours(path)):
            yield from files_below(path, aside, above)


def _ours(folder):
    """Tell whether CMEMS wrote what is in a folder."""
    beside = folder.name in _PARTS and folder.parent / "trust.csv"
    if folder.name.startswith("labels_"):  # of a round of training
        beside = folder.parent / folder.name.replace("labels_", "round_") / "run.json"
    if any(path and path.is_file() for path in (beside, folder / "trust.csv")):
        return True
    # Other programs call files so too, and neither a run nor masks to paint are DICOM.
    called = any((folder / name).is_file() for name in _OURS)
    return called and not any(path.suffix.lower() in (".dcm", ".ima") for path in folder.iterdir())


def misplaced(folder, paths):
    """Return a problem for each folder below ``folder`` that holds some of ``paths``, which are looked for in it."""
    homes = {}
    for path in paths:
        homes.setdefault(path.parent, []).append(path)
    return [
        f"{first}: in a folder below {folder}, where it is not looked for{more}; move it up, or elsewhere"
        for first, more in ((p[0], f", as {len(p) - 1} more there" * (len(p) > 1)) for p in homes.values())
    ]


def listed(paths, pattern, kind):
    """Return the files whose names end in ``pattern`` by what is before it, and problems; see :func:`nifti_files`."""
    found, problems = {}, []
    for path in paths:
        name = path.name
        if name.startswith(".") or name == "Thumbs.db":
            continue
        if path.suffix.lower() in ASIDE:
            if pattern.search(path.stem) and not path.with_suffix("").exists():  # else it tells of that one
                problems.append(f"{path}: called as {kind}, but for its ending; rename it, or move it elsewhere")
            continue
        if not path.exists():
            problems.append(f"{path}: expected a file, got a link that leads to none")
            continue
        if not pattern.search(name):
            if not path.is_dir():
                problems.append(f"{path}: not {kind} by its name; convert it to .nii.gz, or move it elsewhere")
            continue
        if path.is_dir():
            problems.append(f"{path}: expected a file, got a folder")
            continue
        if path.suffix.lower() == ".hdr" and file_parts(path)[0] != path:
            continue  # the .img stands for both
        stem = composed(pattern.sub("", name))
        if other := found.get(stem):
            problems.append(f"{path}: the same name as {other.name}; keep one of them")
            continue
        found[stem] = path
    return found, problems


def folders_in(folder):
    """Return a hint, for where no NIfTI file was found in a folder, at the folders that lie in it; "" without any."""
    found = [p.name for p in sorted(Path(folder).iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return f"; it holds {'a folder' if len(found) == 1 else 'folders'}: {', '.join(found[:3])}" if found else ""


def file_parts(path):
    """Return the files that hold what is at ``path``: of a pair of ``.img`` and ``.hdr`` both, in this order."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return (path,)
    halves = ((path.with_suffix(f".{s}") for s in (half, half.upper(), half.title())) for half in ("img", "hdr"))
    return tuple(filter(None, (next(filter(Path.is_file, half), None) for half in halves)))
