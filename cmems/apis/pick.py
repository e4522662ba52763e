"""Which slice to paint: before there is any label, and after a training."""

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmems.apis.places import spare_data_set
from cmems.apis.trust import BY_HAND, by_doubt, read_trust
from cmems.datasets.descriptions import by_distance_to_middle
from cmems.datasets.intensity import image_problems, scale_intensity, scaling_notes
from cmems.datasets.names import SHEET, composed
from cmems.datasets.readers.files import folders_in
from cmems.datasets.readers.folder import owner_of
from cmems.datasets.readers.geometry import is_to_turn, known_axes, lay_on
from cmems.datasets.readers.nifti import nifti_description, read_nifti
from cmems.datasets.readers.scans import (
    KINDS,
    choose_channel,
    encoded,
    mask_ending,
    mask_file,
    read_grid,
    read_mask,
    read_scan,
    scan_files,
)
from cmems.errors import InputError, SomeUnusable, warn_once
from cmems.files import whole_file
from cmems.registry import DESCRIPTIONS
from cmems.visualization.panels import check_pictures, contact_sheet, write_png


class Pick(NamedTuple):
    """A slice that is worth painting.

    Attributes:
        scan: Its scan's name.
        slice: Its number along the scan's last axis, from 0, as configs count.
        depth: Slices of the scan.
        why: In words.
        mask: The file to paint in, empty, on the scan's grid.
        notes: What a user should know of the scan, as pairs of a sentence and its details.
    """

    scan: str
    slice: int
    depth: int
    why: str
    mask: Path
    notes: list = []


def pick(
    scans,
    out,
    number=5,
    modality="mr",
    patient=None,
    skip=(),
    after=None,
    description=None,
    progress=None,
    channel=None,
):
    """Choose slices, at most one a patient, and write ``slices.png``, which shows them, and an empty mask for each.

    Without ``after`` they are those nearest to the middle of all slices, so far as ``description`` tells; scans that
    preparing turns, since their axes lie otherwise than most scans', are left out, which is said. With it, the scans
    come by doubt, the most doubtful first, and of each the slice on which the networks differ most, of those that show
    the most classes; where that tells no slice from another, as in an empty mask, the one nearest to the middle.

    Args:
        scans (str): A folder of scans.
        out (str): Folder of ``slices.png`` and ``<scan>.nii.gz``, of images ``.png``; a mask that is there already is
            left as it is, but for an empty one on another grid than the scan's, which is replaced.
        number (int): How many.
        modality (str): ``mr`` or ``ct``: how intensities are scaled.
        patient (str | None): A regular expression; scans whose names begin with the same match, of a character or
            more, are of one patient. Default: each scan is.
        skip (sequence[str]): Scans whose patients are passed over, or these patients.
        after (str | None): The folder of masks that :func:`cmems.apis.predict` wrote of the scans, with ``trust.csv``,
            and ``doubt`` where maps were asked for. Patients of whom a slice is painted, in a mask in ``out`` or in
            the scans' ``labels``, are passed over.
        description (dict | None): Of ``DESCRIPTIONS``. Default: ``SmallSlice``.
        progress (callable | None): Called with (scans done, scans, name) after each scan.
        channel (int | None): Which channel to read, of files ``NAME_0000``, ``NAME_0001`` … or of volumes of four axes.

    Returns:
        list[Pick]: The best first.

    Raises:
        InputError: Something asked for is wrong or there is no scan to pick from.
        SomeUnusable: Some scans are unusable, or painted masks are not on their scans' grids; the picks from the others
            were written.
    """
    if not isinstance(number, int) or number < 1:
        raise InputError(f"--number: expected an integer of 1 or more, got {number!r}")
    if channel is not None and channel < 0:
        raise InputError(f"--channel: expected 0 or more, got {channel}")
    if modality not in ("mr", "ct"):
        raise InputError(f"--modality: expected mr or ct, got {modality!r}")
    if not Path(scans).is_dir():
        raise InputError(f"{scans}: expected a folder of scans, {KINDS}")
    if Path(out).resolve() == Path(scans).resolve():
        raise InputError(f"{out}: the masks would take the names of the scans; name another folder")
    spare_data_set(out, of="the masks")
    check_pictures(str(out), [Path(out, SHEET)])
    paths, problems = scan_files(scans, aside=(out, after or out))
    if not paths:
        raise InputError([f"{scans}: expected scans, {KINDS}{folders_in(scans)}", *problems])
    paths, more = choose_channel(paths, channel)
    if more and channel is None:
        raise InputError(more)
    problems, how = problems + more, (modality, channel)
    for name, path in paths.items():
        if f"{name}{mask_ending(path)}".casefold() == SHEET:
            raise InputError(f"{path}: its mask would be called as the sheet of slices, {SHEET}; rename the scan")
    person, skip = _patients(paths, patient), [composed(name) for name in skip]
    unknown = [name for name in skip if name not in person and name not in person.values()]
    if unknown:
        raise InputError(f"--skip {unknown[0]}: no such scan in {scans}")
    if after is not None:
        skip += painted_scans(paths, scans, out)
    if after is None:
        found = _middle(paths, how, DESCRIPTIONS.optional(description, dict(type="SmallSlice")), problems, progress)
    else:
        found = _doubtful(paths, Path(after), progress)
    chosen, seen = [], {person.get(name, name) for name in skip}
    if skip and seen >= set(person.values()):
        reason = "--skip names it, or a slice of its patient is painted" if after is not None else "--skip names it"
        raise InputError(f"{scans}: every scan is passed over, as {reason}; nothing is left to pick from")
    for name, z, why in found:
        if len(chosen) < number and person[name] not in seen:
            seen.add(person[name])
            chosen.append((name, z, why))
    if not chosen:
        raise InputError(problems or [f"{after}: no scan that it tells of is left to pick from"])
    Path(out).mkdir(parents=True, exist_ok=True)
    picks = _write(chosen, paths, how, Path(out), problems)
    if problems:
        raise SomeUnusable(problems, picks)
    return picks


def painted_scans(paths, scans, out):
    """List scans of which a slice is painted, in ``out`` or in a folder of masks in that of the scans or beside it."""
    scans, found = Path(scans).resolve(), []
    for folder in {Path(out).resolve(), scans / "labels", *(scans.parent / name for name in ("labels", "labelsTr"))}:
        masks = scan_files(folder, masks=True)[0] if folder.is_dir() else {}
        for name, path in masks.items():
            with suppress(InputError):  # whoever prepares the masks will hear of it
                if (owner := name if name in paths else owner_of(name, paths)) and read_mask(path).voxels.any():
                    found.append(owner)
    return sorted(set(found))


def same_beginning(names, scans):
    """Return two of the names that are alike up to the first ``_`` where not all scans are; else none."""
    groups, beginnings = {}, {name.partition("_")[0] for name in scans}
    for name in names:
        groups.setdefault(name.partition("_")[0], []).append(name)
    return next((group[:2] for group in groups.values() if len(group) > 1 and len(beginnings) > 1), [])


def _patients(names, pattern):
    """Return the patient of each scan."""
    if pattern is None:
        return {name: name for name in names}
    try:
        found = {name: re.match(pattern, name) for name in names}
    except re.error as error:
        raise InputError(f"--patient {pattern}: expected a regular expression ({error})") from error
    missed = [name for name, match in found.items() if not (match and match[0])]  # of no text, all would be of one
    if missed:
        raise InputError(f"--patient {pattern}: does not match the beginning of {missed[0]}")
    return {name: match[0] for name, match in found.items()}


def _middle(paths, how, describe, problems, progress):
    """Yield scan, slice and why, the nearest to the middle first."""
    described, grids = {}, {}
    for done, (name, path) in enumerate(paths.items(), 1):
        try:
            volume, image, _ = _read(path, *how)
        except InputError as error:
            problems += error.problems
        else:
            described[name], grids[name] = describe(image, volume.spacing), volume._replace(voxels=None)
        if progress:
            progress(done, len(paths), name)
    (usual, _), *_ = Counter(filter(None, map(known_axes, grids.values()))).most_common() or [(None, 0)]
    if others := [name for name, grid in grids.items() if is_to_turn(grid, usual)]:
        more = f" and {len(others) - 3} more" * (len(others) > 3)
        some = f"{', '.join(others[:3])}{more}"
        warn_once(f"the axes lie otherwise than most scans', {usual}; no slice is picked of these: {some}")
    alike = {name: each for name, each in described.items() if name not in others}
    for name, z, distance in by_distance_to_middle(alike) if alike else ():
        yield name, z, f"{distance:.2f} from the middle"


def _doubtful(paths, masks, progress):
    """Yield scan, slice and why, the most doubtful scan first."""
    rows = by_doubt(read_trust(masks / "trust.csv"))  # a spreadsheet may have sorted them otherwise
    if not rows:
        raise InputError(f"{masks / 'trust.csv'}: expected the table that cmems predict writes beside its masks")
    names = list(dict.fromkeys(row["scan"] for row in rows if row["note"] != BY_HAND))
    strange = [name for name in names if name not in paths]
    if names and len(strange) == len(names):
        raise InputError(f"{masks / 'trust.csv'}: is of other scans, as {strange[0]}")
    names = [name for name in names if name in paths]
    for done, name in enumerate(names, 1):
        worst = next(row for row in rows if row["scan"] == name)
        file = mask_file(masks, name)
        if file is None:
            warn_once(f"{masks / name}.nii.gz: no such file, which {masks / 'trust.csv'} names; {name} is left out")
            continue
        mask = lay_on(read_mask(file), read_grid(paths[name]), file, paths[name]).voxels
        classes = np.array([len(np.unique(plane[plane > 0])) for plane in mask])
        differ = _differing(masks / "doubt" / f"{name}_disagreement.nii.gz", worst["made_by"], mask)
        doubt = np.count_nonzero(differ, axis=(1, 2))
        central = -np.abs(np.arange(len(mask)) - (len(mask) - 1) / 2)  # decides where nothing else does
        z = int(np.lexsort((central, doubt, classes))[-1])
        if progress:
            progress(done, len(names), name)
        yield name, z, worst["note"] and f"{worst['class']}: {worst['note']}" or f"{worst['class']} in doubt"


def _differing(path, made_by, mask):
    """Return a map of where networks differ, if the model that made the mask made it, of this scan; else the mask."""
    if nifti_description(path) != made_by:
        return mask
    found = read_nifti(path).voxels
    return found if found.shape == mask.shape else mask


def _read(path, modality, channel):
    volume = read_scan(path, channel)
    if problems := image_problems(path, volume, modality):
        raise InputError(problems)
    image, _ = scale_intensity(volume.voxels, modality)
    return volume, image, [*volume.notes, *scaling_notes(volume.voxels, image, modality)]


def _write(chosen, paths, how, out, problems):
    picks, tiles = [], []
    for name, z, why in chosen:
        volume, image, notes = _read(paths[name], *how)
        ending = mask_ending(paths[name]).replace(".dcm", ".nii.gz")  # no viewer paints in DICOM
        picks.append(Pick(name, z, len(image), why, out / f"{name}{ending}", notes))
        captions = [f"{len(picks)}  {name}", f"slice {z} of 0 to {len(image) - 1}; {why}"]
        affine = volume.affine if known_axes(volume) else None
        tiles.append(dict(image=image[z], spacing=volume.spacing, affine=affine, captions=captions))
        try:
            fits = picks[-1].mask.exists() and _fits(picks[-1].mask, paths[name])
        except InputError as error:
            problems += error.problems
            continue
        if not fits:
            content = encoded(paths[name], picks[-1].mask.name, np.zeros(image.shape, np.uint8), ())
            with whole_file(picks[-1].mask) as part:
                part.write_bytes(content)
    if tiles:
        write_png(out / SHEET, contact_sheet(tiles))
    return picks


def _fits(mask, scan):
    """Tell whether a mask that is there lies on its scan's grid; raise InputError where it does not and is painted."""
    there, grid = read_mask(mask), read_grid(scan)
    try:
        same = lay_on(there, grid, mask, scan).voxels.shape == there.voxels.shape
    except InputError:
        if there.voxels.any():
            raise
        return False
    return same or bool(there.voxels.any())
