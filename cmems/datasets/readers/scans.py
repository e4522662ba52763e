"""Scans and masks of every format: which files of a folder are some, their voxels, masks in the scan's own format."""

import gzip
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from cmems.datasets.names import composed
from cmems.datasets.readers import dicom, segmentations
from cmems.datasets.readers.files import MAPS, PICTURE, SCAN, files_below, listed, misplaced, reading
from cmems.datasets.readers.nifti import nifti_description, nifti_grid, nifti_like, nifti_of, read_nifti
from cmems.datasets.readers.nrrd import nrrd_grid, read_nrrd
from cmems.datasets.readers.pictures import picture_grid, read_picture
from cmems.errors import InputError, warn_once

KINDS = "NIfTI, NRRD, PNG or DICOM"
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_LONE = "it has one channel, which is read"
_TIFF_DESCRIPTION = 270
_ENDINGS = (".nii.gz", ".png", ".tif", ".dcm")


def scan_files(folder, masks=False, aside=()):
    """Find the scans of a folder: NIfTI, NRRD, images, and series of DICOM slices, in folders below too.

    Args:
        folder (str | Path): Where.
        masks (bool): Find masks instead: ``.seg.nrrd``, which is no scan, and DICOM files that are each a segmentation.
        aside (sequence[str | Path]): Folders below that hold neither, as ``labels`` holds no scans.

    Returns:
        tuple[dict[str, Path], list[str]]: Files by name, of a series any; and problems: two files of one name, files
        of no format that is read but may be scans, damaged DICOM, images beside volumes, as screenshots are, and files
        in folders below, of any format but DICOM.
    """
    folder, plain = Path(folder), []
    aside = aside if masks else (folder / "labels", *aside)
    below = list(files_below(folder, [Path(each).resolve() for each in aside]))
    slices = [] if masks else [path for path in below if path.is_file() and dicom.is_dicom(path)]
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and dicom.is_dicom(path):
            slices.append(path)
        elif path.name != "DICOMDIR" and (masks or not path.name.lower().endswith(".seg.nrrd")):
            plain.append(path)
    found, problems = listed(plain, SCAN, KINDS)
    series, odd = (
        ({path.stem: path for path in slices}, []) if masks or not slices else dicom.dicom_series(folder, slices)
    )
    for name, path in series.items():
        if found.setdefault(name, path) is not path:
            odd.append(f"{path}: the same name as {found[name].name}; keep one of them")
    images = {name: path for name, path in found.items() if _is_picture(path)}
    if not masks and 0 < len(images) < len(found):
        odd += [f"{path}: an image beside volumes; move it elsewhere" for path in images.values()]
        found = {name: path for name, path in found.items() if name not in images}
    if found or masks:  # else there may be folders of scans, of which callers tell
        volumes = found and not images
        odd += misplaced(folder, [p for p in below if _strange(p, masks) and not (volumes and _is_picture(p))])
    return found, problems + odd


def _strange(path, masks):
    """Tell whether a file of a folder below would be a scan, or a mask, if it lay above."""
    if dicom.is_dicom(path):
        return masks
    return SCAN.search(path.name) and (masks or not path.name.lower().endswith(".seg.nrrd"))


def scan_stem(path):
    """Return a file's name without the ending of its format, however it is capitalised."""
    path = Path(path)
    return composed(path.stem if path.suffix.lower() in (".dcm", ".ima") else SCAN.sub("", path.name))


def scan_parts(path):
    """Return the files that the scan at ``path`` consists of: itself, or the slices of its series.

    Raises:
        InputError: They are no series.
    """
    return dicom.series_files(path) if dicom.is_dicom(path) else (Path(path),)


def read_scan(path, channel=None):
    """Read a scan as a :class:`Volume`.

    Args:
        path (str | Path): A file that :func:`scan_files` found.
        channel (int | None): Which to read of a volume of four axes.

    Raises:
        InputError: It cannot be read as one volume of real numbers.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        volume = dicom.read_dicom(path)
    elif _is_picture(path):
        volume = read_picture(path)
    elif path.is_dir():
        raise InputError(f"{path}: expected a scan, {KINDS} (of a series any of its files), got a folder")
    elif path.is_file() and not SCAN.search(path.name):
        raise InputError(f"{path}: not {KINDS} by its name; convert it to .nii.gz")
    else:
        volume = (read_nrrd if _is_nrrd(path) else read_nifti)(path, channel)
    named = _CHANNEL.fullmatch(scan_stem(path))
    if channel is None or volume.channels > 1 or (named and int(named[2]) == channel):
        return volume
    return volume._replace(notes=(*volume.notes, (_LONE, f"channel {channel} was asked for")))


def scan_modality(path):
    """Return what the header says that a scan is of, ``CT``, ``MR`` …; None where none does, as in any but DICOM."""
    return dicom.dicom_modality(path) if dicom.is_dicom(path) else None


def read_mask(path):
    """Read labels as a :class:`Volume`; of a segmentation its ``names`` tell what its numbers mean.

    Raises:
        InputError: It cannot be read as one map of numbers.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        return segmentations.read_segmentation(path)
    if _is_picture(path):
        return read_picture(path, labels=True)
    return (read_nrrd if _is_nrrd(path) else read_nifti)(path, several=MAPS)


def is_segmentation(path):
    """Tell whether a file is a DICOM segmentation; a damaged one is none."""
    try:
        return dicom.is_dicom(path) and segmentations.is_segmentation(path)
    except InputError:
        return False


def read_grid(path):
    """Return a scan's or a mask's :class:`Volume` without its voxels: zeros that take no memory.

    Raises:
        InputError: Its header cannot be read.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        return read_mask(path) if segmentations.is_segmentation(path) else dicom.dicom_grid(path)
    if _is_picture(path):
        return picture_grid(path)
    return (nrrd_grid if _is_nrrd(path) else nifti_grid)(path)


def mask_ending(path):
    """Return how the name of the mask of a scan ends: NIfTI, of an image PNG or TIFF, of a series DICOM."""
    if dicom.is_dicom(path):
        return ".dcm"
    if _is_picture(path):
        return ".tif" if path.suffix.lower().startswith(".tif") else ".png"
    return ".nii.gz"


def mask_file(folder, name):
    """Return the mask of a scan in a folder of masks that were predicted, or None."""
    return next((path for path in (Path(folder, name + ending) for ending in _ENDINGS) if path.is_file()), None)


def encoded(path, name, voxels, classes, mark=None, colors=()):
    """Return the bytes of a file of labels, or of other maps, on a scan's grid.

    Args:
        path (Path): The scan.
        name (str): Of the file; its ending, one of :func:`mask_ending` or ``.nii.gz``, chooses the format.
        voxels (np.ndarray): ``(D, H, W)`` uint8, on the scan's grid; of NIfTI what :func:`nifti_like` takes.
        classes (sequence[str]): Label k is the k-th; DICOM repeats them.
        mark (str | None): What the file's header says of it, see :func:`description_of`. Default: of NIfTI what the
            scan's does, of others nothing.
        colors (sequence[tuple[int]]): Of the classes, RGB of 0 to 255, for DICOM.

    Raises:
        InputError: The scan's header does not serve.
    """
    if name.endswith(".dcm"):
        return segmentations.segmentation_like(path, voxels, classes, colors, mark)
    if not name.endswith(".nii.gz"):
        content, pages = io.BytesIO(), [Image.fromarray(page) for page in np.ascontiguousarray(voxels)]
        if name.endswith(".png"):
            pages[0].save(content, format="PNG", pnginfo=described(mark))
        else:
            more = dict(save_all=True, append_images=pages[1:], compression="tiff_deflate")
            pages[0].save(content, format="TIFF", description=mark or "", **more)
        return content.getvalue()
    with reading(path, "a readable scan"):
        plain = not (dicom.is_dicom(path) or _is_nrrd(path) or _is_picture(path))
        content = nifti_like(path, voxels, mark) if plain else nifti_of(read_grid(path), voxels, mark)
    return gzip.compress(content, compresslevel=3, mtime=0)


def check_mask(path, classes):
    """Find, before a scan is segmented, why its mask could not be written in its format.

    Args:
        path (Path): The scan.
        classes (sequence[str]): Of the mask.

    Raises:
        InputError: As :func:`encoded`, of what is known without voxels.
    """
    if dicom.is_dicom(path):
        segmentations.check_segments(path, classes)


def described(text):
    """Return what Pillow writes into a PNG so that :func:`description_of` finds it."""
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text("Description", text)
    return info


def description_of(path):
    """Return what a file's header says of it, whatever its format; None where there is no such file or text."""
    path = Path(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return nifti_description(path)
    try:
        with reading(path, "a mask"):
            if not _is_picture(path):
                return segmentations.description_of(path) if dicom.is_dicom(path) else None
            with Image.open(path) as image:
                return image.info.get("Description") or getattr(image, "tag_v2", {}).get(_TIFF_DESCRIPTION)
    except InputError:
        return None


def choose_channel(scans, channel, known=(), always=False, advice="--channel picks one"):
    """Tell several channels of a scan, nnU-Net's ``NAME_0000``, ``NAME_0001``, from several scans.

    They are channels where a label is called NAME, or where several scans, and all that there are, have the same, from
    0 on, or, where one is asked for, some has up to four; but for those of whose very name a label is, which is warned
    of.

    Args:
        scans (dict[str, Path]): By name.
        channel (int | None): Which to take.
        known (collection[str]): Names of labels.
        always (bool): Every such name means a channel.
        advice (str): What to do of several where ``channel`` is None.

    Returns:
        tuple[dict[str, Path], list[str]]: Scans by case, and problems.
    """
    named = {stem: _CHANNEL.fullmatch(stem) for stem in scans}
    matched = {stem: match for stem, match in named.items() if stem not in known}
    bases = {match[1] for match in matched.values() if match}
    always = always or not bases.isdisjoint(known) or _alike(matched.values())
    always = always or channel is not None and _few(matched.values())
    if not always and len(matched) < len(named) and _alike(named.values()):
        stem, path = next((stem, path) for stem, path in scans.items() if stem in known)
        warn_once(
            f"{path}: taken for a scan of its own, as all that are called so, since a label is called {stem}; if they "
            f"are channels, call the label {named[stem][1]}"
        )
    cases, several, found, problems = {}, {}, {}, []
    for stem, path in scans.items():
        if always and matched.get(stem):
            cases.setdefault(matched[stem][1], {})[int(matched[stem][2])] = path
        else:
            found[stem] = path
    for case, paths in cases.items():
        if case in found:
            problems.append(f"{found[case]}: the same case as {next(iter(paths.values())).name}; keep one of them")
        elif channel is None and len(paths) == 1:
            found[case] = next(iter(paths.values()))
        elif channel is None:
            several[case] = list(paths.values())
        elif channel in paths:
            found[case] = paths[channel]
        else:
            folder = next(iter(paths.values())).parent
            problems.append(f"{folder}: channel {channel} of {case}: there are {', '.join(map(str, paths))}")
    for case, paths in list(several.items())[:1]:  # the others are alike
        names, more = ", ".join(p.name for p in paths), f", and of {len(several) - 1} more" * (len(several) > 1)
        problems.append(f"{paths[0].parent}: {len(paths)} channels of {case}: {names}{more}; {advice}")
    return found, problems


def _alike(matches):
    """Tell whether names, by their matches of :data:`_CHANNEL`, are the same channels, from 0 on, of several scans."""
    numbers = _numbers(matches)
    first = next(iter(numbers), set())
    return len(numbers) > 1 and len(first) > 1 and all(each == set(range(len(first))) for each in numbers)


def _few(matches):
    """Tell whether names, by their matches of :data:`_CHANNEL`, are channels of up to four, some scan's of several."""
    numbers = _numbers(matches)
    return all(0 in each and max(each) < 4 for each in numbers) and any(len(each) > 1 for each in numbers)


def _numbers(matches):
    """Return the numbers of each scan's channels, none where some name has no number."""
    matches, numbers = list(matches), {}
    for match in matches if all(matches) else ():
        numbers.setdefault(match[1], set()).add(int(match[2]))
    return list(numbers.values())


def _is_picture(path):
    return PICTURE.search(path.name) is not None


def _is_nrrd(path):
    return path.suffix.lower() == ".nrrd"
