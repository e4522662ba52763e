"""Masks of training cases that lie in a folder, as an earlier round writes them."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from cmems.datasets.names import composed
from cmems.datasets.prepared import MANIFEST, file_sha256
from cmems.datasets.readers.base import stored_as, whole_labels
from cmems.datasets.readers.files import MAPS, nifti_files
from cmems.datasets.readers.geometry import axes, known_axes, lay_on, turned
from cmems.datasets.readers.nifti import Volume, read_nifti
from cmems.errors import InputError, said, warn_once
from cmems.labels import UNKNOWN


def read_static_labels(prepared, folder):
    """Read the masks of training cases.

    Args:
        prepared (PreparedDataset): Whose cases.
        folder (str): Of :class:`~cmems.datasets.sources.StaticLabels`.

    Returns:
        tuple[Tensor, Tensor]: Rows of the training slices, ``(n,)`` int64, and their labels ``(n, S, S)`` uint8.

    Raises:
        InputError: Every problem, at once.
    """
    (masks, problems), rows, labels, notes = _masks_of(prepared, folder), [], [], {}
    for case in masks:
        entry = prepared.case(case)
        try:
            label = _on_grid(masks[case], case, entry)
        except InputError as error:
            problems += error.problems
            continue
        notes[case] = label.notes
        odd = [f"{v:g}" for v in np.unique(label.voxels) if v not in (*range(prepared.num_classes), UNKNOWN)]
        if odd:
            problems.append(f"{masks[case]}: expected labels 0 to {prepared.num_classes - 1}, got {', '.join(odd[:5])}")
        else:
            mask = torch.from_numpy(np.ascontiguousarray(label.voxels, dtype=np.uint8))
            labels.append(prepared.frame.labels(mask, entry["spacing"][1:]))
            rows.append(torch.arange(prepared.rows(case).start, prepared.rows(case).stop))
    if problems:
        raise InputError(problems)
    _tell_unusual(prepared, folder, masks, labels)
    for line in said(notes):
        warn_once(f"{folder}: {line}")
    return torch.cat(rows), torch.cat(labels)


def _tell_unusual(prepared, folder, masks, labels):
    """Warn of masks that teach little, or that there is nothing: what would else be seen after the training."""
    held = {case: set(mask.unique().tolist()) for case, mask in zip(masks, labels, strict=True)}
    for what, cases in (
        ("hold no organ: all of them is learned as background", [case for case, found in held.items() if found == {0}]),
        ("are 255, unknown, throughout: they teach nothing", [case for case, found in held.items() if found == {255}]),
    ):
        if cases:
            more = f" and {len(cases) - 3} more" * (len(cases) > 3)
            warn_once(f"{folder}: the masks of {', '.join(cases[:3])}{more} {what}")
    lacking = [name for k, name in enumerate(prepared.classes, 1) if not any(k in found for found in held.values())]
    if lacking:
        warn_once(f"{folder}: no mask holds {', '.join(lacking)}")
    cases = prepared.cases("train")
    if len(masks) < len(cases):
        warn_once(f"{folder}: masks of {len(masks)} of {len(cases)} training cases; the others' slices are left out")


def _masks_of(prepared, folder):
    """Return the masks of training cases that lie in a folder, by case, and what is wrong with it; raises InputError
    where there are none.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise InputError(f"train_dataloader: StaticLabels: folder: expected a folder of masks, got {folder!r:.60}")
    cases = prepared.cases("train")
    found, problems = nifti_files(folder) if Path(folder).is_dir() else ({}, [])
    masks = {case: found[composed(case)] for case in cases if composed(case) in found}
    strange = sorted(set(found) - {composed(case) for case in prepared.manifest["cases"]})
    if strange:
        more = f" and {len(strange) - 3} more" * (len(strange) > 3)
        warn_once(f"{folder}: no case of {prepared.root} is called {', '.join(strange[:3])}{more}: passed over")
    if not masks:
        seen = "none" if Path(folder).is_dir() else "no such folder"
        raise InputError(
            [f"{folder}: expected masks named after training cases, as {', '.join(cases[:3])}; found {seen}", *problems]
        )
    return masks, problems


def masks_content(prepared, sources):
    """Return what the masks of ``StaticLabels`` are known by: equal for equal files, wherever they lie.

    Args:
        prepared (PreparedDataset): Whose training cases.
        sources (dict): A ``train_dataloader``.

    Returns:
        dict[str, str]: By name of the source.

    Raises:
        InputError: A folder is not there, or holds none.
    """
    found = {}
    for name, source in sources.items():
        if isinstance(source, dict) and source.get("type") == "StaticLabels":
            masks, _ = _masks_of(prepared, source.get("folder"))
            known = {case: file_sha256(path) for case, path in masks.items()}
            found[name] = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return found


def _on_grid(path, case, entry):
    """Read labels onto the grid of a case of a prepared data set, as if they had been prepared with it."""
    (grid, codes), label = _stored_grid(entry), read_nifti(path, several=MAPS)
    if not label.frames and "notes" not in entry:  # where a scan that was turned would say so
        raise InputError(
            f"{path}: its header does not say where it lies, and {MANIFEST} does not say how the scan of {case} is "
            "stored; prepare the data again"
        )
    told = tuple(note for note in label.notes if list(note) not in entry.get("notes", []))  # else preparing said so
    label = whole_labels(path, lay_on(label._replace(notes=told), grid, path, Path(case)))
    return turned(label._replace(frames=grid.frames), codes) if codes else label


def _stored_grid(entry):
    """Return the grid of a case's scan as its files have it, and the axes to which it was turned, or None."""
    affine = np.asarray(entry["affine"], dtype=float)
    grid = Volume(np.broadcast_to(np.uint8(0), entry["shape"]), tuple(entry["spacing"]), affine, (affine,))
    if not entry.get("axes_known", True) and known_axes(grid):  # else an affine of 1 mm, which is the header's
        return grid._replace(frames=()), None
    stored = stored_as(entry.get("notes", []))
    return (turned(grid, stored), axes(affine)) if stored else (grid, None)
