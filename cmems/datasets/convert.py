"""Turning one raw case into what a prepared data set holds of it, in files that an interrupted run goes on from."""

import hashlib
import json

import nibabel as nib
import numpy as np
import torch

from cmems.datasets.intensity import image_problems, scale_intensity, scaling_notes
from cmems.datasets.readers.geometry import known_axes, spacing_notes
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.labels import UNKNOWN


def convert(reader, case, parts, frame):
    """Convert one case into ``parts``; return its entry and its problems."""
    try:
        image, label = reader.read(case)
    except InputError as error:
        return None, error.problems
    problems = image_problems(case.images[0], image, reader.modality)
    problems += [] if label is None else _label_problems(case, label, image, len(reader.classes))
    if problem := frame.problem(image.voxels.shape[1:], image.spacing[1:]):
        problems.append(f"{case.images[0]}: {problem}")
    if problems:
        return None, problems
    scaled, bounds = scale_intensity(image.voxels, reader.modality)
    notes = [*image.notes, *spacing_notes(image.spacing), *scaling_notes(image.voxels, scaled, reader.modality)]
    labels = None if label is None else np.ascontiguousarray(label.voxels.astype(np.uint8))
    counts = (
        {}
        if labels is None
        else {str(k): int(n) for k, n in enumerate(np.bincount(labels.ravel())) if n or k < UNKNOWN}
    )
    notes += [] if label is None else [*label.notes, *_label_notes(case, labels)]
    entry = dict(
        split=case.split,
        shape=list(scaled.shape),
        spacing=list(image.spacing),
        affine=image.affine.tolist(),
        orientation="".join(nib.aff2axcodes(image.affine)),
        axes_known=known_axes(image) is not None,
        intensity_range=list(bounds),
        scaled_mean=round(float(scaled.mean(dtype=np.float64)), 4),
        voxels=hashlib.sha256(np.ascontiguousarray(image.voxels)).hexdigest()[:16],
        labelled=labels is not None,
        label_counts=counts,
        sources={
            kind: None if files is None else reader.sources(files)
            for kind, files in (("image", case.images), ("label", case.labels))
        },
        notes=[list(note) for note in dict.fromkeys(notes)],
    )
    if case.split == "train":
        scaled = frame.images(torch.from_numpy(scaled), image.spacing[1:]).clamp_(0, 1).numpy()
        if labels is not None:
            whole = torch.from_numpy(labels)
            labels = frame.labels(whole, image.spacing[1:]).numpy()
            back = frame.labels_back(torch.ones_like(torch.from_numpy(labels)), whole.shape[1:], image.spacing[1:])
            entry["label_cut"] = int(((whole > 0) & (whole < UNKNOWN) & (back == 0)).sum())
    save(parts / f"{case.name}_image.npy", scaled.astype(np.float16))
    if labels is not None:
        save(parts / f"{case.name}_label.npy", labels)
    write_text(parts / f"{case.name}.json", json.dumps(dict(frame=list(frame), stamps=stamps(case), entry=entry)))
    return entry, []


def _label_problems(case, label, image, classes):
    where, voxels = case.labels[0], label.voxels
    if voxels.shape != image.voxels.shape:
        return [f"{where}: expected shape {image.voxels.shape} of {case.images[0].name}, got {voxels.shape}"]
    values = np.unique(voxels)
    painted = np.unique(voxels[(voxels != UNKNOWN).any(axis=(1, 2))])
    if (painted > 0).any():  # of slices that nobody painted 255 is the reader's
        values = painted
    odd = values[(values < 0) | (values > classes)]
    # 255 beside other labels marks voxels that nobody annotated; alone it is a mask of 0 and 255.
    if len(odd) and not (odd.tolist() == [UNKNOWN] and (values > 0).sum() > 1):
        some = ", ".join(f"{v:g}" for v in odd[:5])
        found = values[values > 0]
        perhaps = f", here perhaps {','.join(f'{v:g}' for v in found)}" if len(found) == classes else ""
        return [f"{where}: expected labels 0 to {classes}, got {some}; --labels gives classes other numbers{perhaps}"]
    return []


def _label_notes(case, labels):
    """Note labels that were painted on few slices, which validation would score the others by."""
    found = (labels > 0).any(axis=(1, 2)).sum()
    if case.split == "train" or not 0 < found <= max(1, len(labels) // 10) or len(labels) < 3:
        return []
    return [("labels on few slices; the others count as background unless marked 255", f"{found} of {len(labels)}")]


def finished(parts, case, frame):
    """Return the entry of a case that an earlier run converted from the same files with the same settings."""
    try:
        done = json.loads((parts / f"{case.name}.json").read_text(encoding="utf-8"))
        same = done["frame"] == list(frame) and done["stamps"] == stamps(case) and done["entry"]["split"] == case.split
        for kind in ("image", "label") if done["entry"]["labelled"] else ("image",):
            part_of(parts, case, kind)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, InputError):
        return None
    return done["entry"] if same else None


def part_of(parts, case, kind):
    """Map what was converted of a case."""
    path = parts / f"{case.name}_{kind}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {parts} and run the same command again") from error


def stamps(case):
    """Return path, bytes and time of a case's files; enough to notice that one was replaced."""
    files = dict.fromkeys((*case.images, *(case.labels or ())))
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def save(path, array):
    """Write an array, whole or not at all."""
    stream(path, array.dtype, array.shape, [array])


def stream(path, dtype, shape, arrays):
    """Write arrays one after the other as a single one, through the file: a map on a full disk ends the process, and
    ``np.save`` hands the array to C's buffered files, whose last bytes it may lose without a word.
    """
    header = dict(descr=np.lib.format.dtype_to_descr(np.dtype(dtype)), fortran_order=False, shape=shape)
    with whole_file(path) as part, open(part, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for array in arrays:
            if array.dtype != dtype or array.shape[1:] != shape[1:]:
                raise InputError(f"{path}: what was converted is damaged; remove {path.parents[1]} and run it again")
            handle.write(np.ascontiguousarray(array).data)


def write_text(path, text):
    """Write a text, whole or not at all."""
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as handle:
        handle.write(text)
