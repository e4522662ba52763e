"""The files of a prediction: which scans it takes, what it writes of each, and what of that is there and stays."""

import hashlib
import os
from pathlib import Path

from cmems.apis.places import spare_data_set
from cmems.apis.trust import BY_HAND, is_by_hand, known_rows, maker, part_name, rows_by_hand
from cmems.datasets.prepared import is_text
from cmems.datasets.readers.files import SCAN, file_parts, folders_in
from cmems.datasets.readers.label_names import plain_name, read_label_names
from cmems.datasets.readers.scans import (
    KINDS,
    choose_channel,
    description_of,
    mask_ending,
    mask_file,
    scan_files,
    scan_parts,
    scan_stem,
)
from cmems.errors import InputError
from cmems.files import NAME_BYTES
from cmems.visualization.colors import label_tables

PICTURES = "pictures"
_CHANNELS = (
    "the model was prepared without --channel: keep one channel of each scan, or train on what "
    "cmems prepare --channel N makes"
)


def find_scans(scans, out, channel=None):
    """Return the scans' paths by name, and what lies in their folder and is none."""
    found, problems = scan_files(scans, aside=(out,)) if scans.is_dir() else ({scan_stem(scans): scans}, [])
    if not scans.exists() or not (found or problems):
        hint = folders_in(scans) if scans.is_dir() else ""
        raise InputError(f"{scans}: expected a scan or a folder of scans, {KINDS}{hint}")
    if not out.is_dir() and (SCAN.search(out.name) or out.suffix == ".dcm"):
        raise InputError(f"{out}: expected a folder, where masks are called as their scans, got the name of a file")
    if out.resolve() in (scans.resolve(), scans.resolve().parent if scans.is_file() else None):
        raise InputError(f"{out}: the masks would take the names of the scans; name another folder")
    spare_data_set(out, of="the masks")
    found, more = choose_channel(found, channel, advice=_CHANNELS)
    if more and channel is None:
        raise InputError(more)
    return found, problems + more


def files_of(paths, out, networks, doubt_maps, probabilities, pictures):
    """Return a function that lists the files of a scan, the mask last."""

    def wanted(name):
        doubt = [Path(out, "doubt", f"{name}_{kind}.nii.gz") for kind in ("entropy", "disagreement")]
        found = doubt[: 1 + (networks > 1)] if doubt_maps else []
        shares = [Path(out, "probabilities", f"{name}.nii.gz")] * probabilities
        drawn = [Path(out, PICTURES, f"{name}.png")] * pictures
        return [*found, *shares, *drawn, Path(out, name + mask_ending(paths[name]))]

    return wanted


def odd_name(name, path, files):
    """Return why a scan's files cannot be called after it, or None."""
    if not is_text(name):
        return f"{path}: its name is not in Unicode (UTF-8), in which trust.csv is written; rename the scan"
    names = [f"{name}.nii.gz", *(file.name for file in files)]  # the first is what masks are looked for by
    longest = max(len(os.fsencode(each)) for each in names)
    if longest <= NAME_BYTES:
        return None
    return f"{path}: its files' names would take {longest} bytes, of {NAME_BYTES} that a name may have; rename the scan"


def check_targets(files):
    """Find what files cannot be written over or into, before the work that fills them."""
    folders = [f"{path}: expected a folder, got a file" for path in dict.fromkeys(file.parent for file in files)
               if path.exists() and not path.is_dir()]  # fmt: skip
    problems = folders + [f"{file}: expected a file, got a folder" for file in dict.fromkeys(files) if file.is_dir()]
    if problems:
        raise InputError(problems)


def what_stays(out, segmenter, marks, wanted):
    """Return the rows of trust of what is left as it is; the scans whose files this very model wrote already; and those
    whose masks somebody changed or painted since.
    """
    known = {}
    for row in known_rows(out):
        known.setdefault((row["scan"], row["made_by"]), {})[row["class"]] = row
    rows, kept, mended = [], [], []
    for name, mark in marks.items():
        *maps, mask = wanted(name)
        if is_by_hand(mask):
            mended.append(name)
            rows += rows_by_hand(name, segmenter.classes, mask)
            continue
        there = {cls: row for cls, row in known.get((name, mark), {}).items() if row["note"] != BY_HAND}
        whole = maker(mask) == mark and all(description_of(path) == mark for path in maps)
        if whole and there.keys() == set(segmenter.classes):
            kept.append(name)
            rows += there.values()
    return rows, kept, mended


def spare_others(out, masks, classes):
    """Refuse to replace masks that nothing here wrote, as those painted by hand are not to be had again; or to write
    among masks of other classes, some of which may stay, whose names the tables of labels would no longer tell.
    """
    tables = list(label_tables(classes))
    ours = ("trust.csv", *tables, *(path.name for path in out.glob(part_name("*", "*"))))
    there = [path for path in masks if path.is_file()]
    if not any((out / name).is_file() for name in ours):
        others = [path for path in there if not (description_of(path) or "").startswith("cmems ")]
        if others:
            more = f", as {len(others) - 1} more," * (len(others) > 1)
            raise InputError(
                f"{others[0]}: is there{more} and not by cmems predict, which would replace it; name another folder"
            )
    there = sorted({mask_file(out, row["scan"]) for row in known_rows(out)} - {None} | set(there))
    if there and (out / tables[0]).is_file():
        known = list(read_label_names(out / tables[0]).values())
        if [plain_name(name) for name in known] != [plain_name(name.replace('"', "'")) for name in classes]:
            raise InputError(
                f"{out}: holds masks of {', '.join(known)}, as {there[0].name}, and would get some of "
                f"{', '.join(classes)}; name another folder"
            )


def stamp(path):
    """Return 16 hexadecimal digits that are others once a file of a scan was replaced; no voxel is read."""
    try:
        files = scan_parts(path)
    except InputError:  # which whoever reads the scan will say
        files = (path,)
    found = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for each in files for file in file_parts(each)]
    return hashlib.sha256(repr((path.name, found)).encode()).hexdigest()[:16]


def remove_old(files, mark):
    """Remove files that say that they are ours, and of another model or scan than ``mark`` says."""
    for file in filter(os.path.isfile, files):  # which says no of a name too long to be there
        said = description_of(file) or ""
        if said.startswith("cmems ") and said != mark:
            file.unlink()
