"""Turning a raw folder into a prepared data set; interrupted, it goes on where it was."""

import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from cmems.datasets.prepared import FORMAT, MANIFEST, UNLABELED, VERSION, PreparedDataset
from cmems.errors import InputError
from cmems.resize import Frame

CT_WINDOW = (-125.0, 275.0)
MR_PERCENTILE = 99.5
_INTENSITY = {
    "mr": f"per volume: clipped to [minimum, {MR_PERCENTILE}th percentile], scaled to [0, 1]",
    "ct": "clipped to [-125, 275] HU, scaled to [0, 1]",
    "unit": "as stored, clipped to [0, 1]",
}


def prepare(reader, out, size=224, workers=None, progress=None, overwrite=False, pixel=None):
    """Write a prepared data set.

    Args:
        reader (Reader): The raw folder.
        out (str): Folder to write. While it is incomplete it has no manifest and nothing loads it.
        size (int): Side of the training slices, pixels.
        workers (int | None): Processes. Default: one per core.
        progress (callable | None): Called with (cases done, cases, name) after each case.
        overwrite (bool): Replace a data set that was prepared otherwise.
        pixel (float | None): Resample training slices to pixels of this side, mm, and cut out their middle, ``size``
            pixels square. Default: squeeze whole slices to the square.

    Returns:
        PreparedDataset: What was written, or was there already from the same files and settings.

    Raises:
        InputError: Every problem of the raw folder, at once; what was converted so far is kept for the next run.
    """
    out, cases = Path(out), reader.cases()
    if not isinstance(size, int) or size < 16:
        raise InputError(f"--size: expected an integer of 16 or more pixels, got {size!r}")
    if pixel is not None and not 0 < pixel < math.inf:
        raise InputError(f"--spacing: expected the side of a pixel in mm, more than 0, got {pixel!r}")
    frame = Frame(size, pixel)
    settings = dict(dataset=reader.name, size=size, classes=list(reader.classes), modality=reader.modality)
    if pixel is not None:
        settings["pixel"] = pixel
    fingerprint = dict(settings, cases=[[c.name, c.split, _stamps(c)] for c in cases])
    fingerprint = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    if (out / MANIFEST).is_file():
        if PreparedDataset(out).manifest["fingerprint"] == fingerprint:
            return PreparedDataset(out)
        if not overwrite:
            raise InputError(f"{out}: already holds another prepared data set; --overwrite replaces it")
        (out / MANIFEST).unlink()
    elif out.exists() and any(p.name != ".partial" for p in out.iterdir()) and not (out / ".partial").is_dir():
        raise InputError(f"{out}: expected an empty or a new folder, but it holds other files")
    parts = out / ".partial"
    parts.mkdir(parents=True, exist_ok=True)
    entries = _convert_all(reader, cases, parts, frame, workers, progress)
    _assemble(out, parts, cases, entries, size)
    manifest = dict(
        format=FORMAT,
        version=VERSION,
        dataset=reader.name,
        size=size,
        pixel=pixel,
        classes=list(reader.classes),
        intensity=_INTENSITY[reader.modality],
        resize=dict(images="bilinear, antialiased", labels="nearest"),
        splits={s: [c.name for c in cases if c.split == s] for s in ("train", "val", "test")},
        cases={c.name: entries[c.name] for c in cases},
        files={str(p.relative_to(out)): _describe(p) for p in sorted(out.rglob("*.npy")) if parts not in p.parents},
        fingerprint=fingerprint,
    )
    _write_text(out / MANIFEST, json.dumps(manifest, indent=1))
    shutil.rmtree(parts)
    return PreparedDataset(out)


def check(out):
    """Compare a prepared data set with its manifest; return its problems, one line each."""
    data, problems = PreparedDataset(out), []
    for name, expected in data.manifest["files"].items():
        path = data.root / name
        if not path.is_file():
            problems.append(f"{path}: no such file")
            continue
        try:
            seen = _describe(path)
        except ValueError as error:
            problems.append(f"{path}: damaged ({error})")
            continue
        for key, value in expected.items():
            if seen[key] != value:
                problems.append(f"{path}: {key}: expected {value}, got {seen[key]}")
    return problems


def _convert_all(reader, cases, parts, frame, workers, progress):
    entries, problems, pending = {}, [], []
    for case in cases:
        entry = _finished(parts, case, frame)
        if entry is None:
            pending.append(case)
        else:
            entries[case.name] = entry
    workers = min(workers or os.cpu_count() or 1, max(1, len(pending)))
    with closing(_converted(reader, pending, parts, frame, workers)) as results:
        for case, (entry, found) in results:
            entries[case.name] = entry
            problems += found
            if progress:
                progress(len(entries), len(cases), case.name)
    if problems:
        raise InputError(sorted(problems))
    return entries


def _converted(reader, cases, parts, frame, workers):
    """Yield ``(case, (entry, problems))`` as cases are done; one worker is this process."""
    if workers == 1:
        yield from ((case, _convert(reader, case, parts, frame)) for case in cases)
        return
    # "spawn": a forked child inherits torch's thread pool in an unusable state.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        running = {pool.submit(_convert, reader, case, parts, frame): case for case in cases}
        try:
            yield from ((running[done], done.result()) for done in as_completed(running))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread():
    torch.set_num_threads(1)


def _convert(reader, case, parts, frame):
    """Convert one case into ``parts``; return its entry and its problems."""
    try:
        image = reader.read_image(case)
    except InputError as error:
        return None, error.problems
    problems = image_problems(case.images[0], image)
    label = None
    try:
        label = reader.read_label(case)
        problems += [] if label is None else _label_problems(case, label, image, len(reader.classes))
    except InputError as error:
        problems += error.problems
    if problems:
        return None, problems
    scaled, bounds = scale_intensity(image.voxels, reader.modality)
    labels = None if label is None else np.ascontiguousarray(label.voxels.astype(np.uint8))
    counts = {} if labels is None else {str(k): int(n) for k, n in enumerate(np.bincount(labels.ravel()))}
    entry = dict(
        split=case.split,
        shape=list(scaled.shape),
        spacing=list(image.spacing),
        affine=image.affine.tolist(),
        orientation="".join(nib.aff2axcodes(image.affine)),
        intensity_range=list(bounds),
        labelled=labels is not None,
        label_counts=counts,
        sources=dict(image=_sources(reader, case.images), label=_sources(reader, case.labels)),
    )
    if case.split == "train":
        scaled = frame.images(torch.from_numpy(scaled), image.spacing[1:]).clamp_(0, 1).numpy()
        if labels is not None:
            whole = torch.from_numpy(labels)
            labels = frame.labels(whole, image.spacing[1:]).numpy()
            back = frame.labels_back(torch.ones_like(torch.from_numpy(labels)), whole.shape[1:], image.spacing[1:])
            entry["label_cut"] = int(((whole > 0) & (back == 0)).sum())
    _save(parts / f"{case.name}_image.npy", scaled.astype(np.float16))
    if labels is not None:
        _save(parts / f"{case.name}_label.npy", labels)
    _write_text(parts / f"{case.name}.json", json.dumps(dict(frame=list(frame), stamps=_stamps(case), entry=entry)))
    return entry, []


def scale_intensity(voxels, modality):
    """Scale a volume to [0, 1].

    Args:
        voxels (np.ndarray): ``(D, H, W)``; HU for CT.
        modality (str): ``mr``, ``ct``, or ``unit`` for voxels that are in [0, 1] already.

    Returns:
        tuple[np.ndarray, tuple[float, float]]: ``(D, H, W)`` float32 and the raw values' range.
    """
    voxels = np.ascontiguousarray(voxels, dtype=np.float32)
    bounds = (float(voxels.min()), float(voxels.max()))
    low, high = {"ct": CT_WINDOW, "unit": (0.0, 1.0)}.get(modality, bounds)
    if modality == "mr":
        # A volume almost all of one value has its percentile there; its true maximum then sets the scale.
        percentile = float(np.percentile(voxels, MR_PERCENTILE))
        high = percentile if percentile > low else high
    return np.clip((voxels - low) / (high - low), 0, 1), bounds


def modality_of(data):
    """Return the modality by which a :class:`PreparedDataset` was scaled.

    Raises:
        InputError: Its manifest names another scaling.
    """
    seen = data.manifest["intensity"]
    modality = next((name for name, text in _INTENSITY.items() if text == seen), None)
    if modality is None:
        raise InputError(
            f"{data.root / MANIFEST}: intensity: expected one of {list(_INTENSITY.values())}, got {seen!r}"
        )
    return modality


def image_problems(path, image):
    """Return what keeps a :class:`Volume` from being scaled, one line per problem, naming the file it came from."""
    voxels = image.voxels
    if not np.isfinite(voxels).all():
        return [f"{path}: expected finite voxels, got {int((~np.isfinite(voxels)).sum())} NaN or infinite"]
    problems = []
    if voxels.min() == voxels.max():
        problems.append(f"{path}: expected an image, got the constant {voxels.flat[0]:g}")
    if not all(np.isfinite(s) and s > 0 for s in image.spacing):
        problems.append(f"{path}: expected positive voxel spacing, got {image.spacing}")
    return problems


def _label_problems(case, label, image, classes):
    where, voxels = case.labels[0], label.voxels
    if voxels.shape != image.voxels.shape:
        return [f"{where}: expected shape {image.voxels.shape} of {case.images[0].name}, got {voxels.shape}"]
    values = np.unique(voxels)
    if (values != np.round(values)).any():
        return [f"{where}: expected integer labels, got {values[values != np.round(values)][0]:g}"]
    if values.min() < 0 or values.max() > classes:
        odd = values[(values < 0) | (values > classes)]
        return [f"{where}: expected labels 0 to {classes}, got {', '.join(f'{v:g}' for v in odd[:5])}"]
    return []


def _assemble(out, parts, cases, entries, size):
    """Stream the converted cases into the final arrays, one case in memory at a time."""
    train = [c for c in cases if c.split == "train"]
    total = sum(entries[c.name]["shape"][0] for c in train)
    labelled = any(entries[c.name]["labelled"] for c in train)
    if train:
        images = _create(out / "train_images.npy", np.float16, (total, size, size))
        labels = _create(out / "train_labels.npy", np.uint8, (total, size, size)) if labelled else None
    start = 0
    for case in train:
        entry = entries[case.name]
        stop = start + entry["shape"][0]
        entry["slices"] = [start, stop]
        images[start:stop] = np.load(parts / f"{case.name}_image.npy")
        if labels is not None:
            path = parts / f"{case.name}_label.npy"
            labels[start:stop] = np.load(path) if entry["labelled"] else UNLABELED
        start = stop
    if train:
        images.flush()
        if labels is not None:
            labels.flush()
    (out / "volumes").mkdir(exist_ok=True)
    for case in cases:
        if case.split != "train":
            for path in parts.glob(f"{case.name}_*.npy"):
                shutil.copyfile(path, out / "volumes" / path.name)


def _create(path, dtype, shape):
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _finished(parts, case, frame):
    """Return the entry of a case that an earlier run converted from the same files with the same settings."""
    try:
        done = json.loads((parts / f"{case.name}.json").read_text())
    except (OSError, ValueError):
        return None
    same = done.get("frame") == list(frame) and done["stamps"] == _stamps(case) and done["entry"]["split"] == case.split
    return done["entry"] if same else None


def _stamps(case):
    """Return name, bytes and time of a case's files; enough to notice that one was replaced."""
    files = dict.fromkeys((*case.images, *(case.labels or ())))
    return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _sources(reader, paths):
    if paths is None:
        return None
    return [dict(path=str(p.relative_to(reader.root)), sha256=_sha256(p)) for p in paths]


def _sha256(path):
    with open(path, "rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _describe(path):
    array = np.load(path, mmap_mode="r")
    return dict(shape=list(array.shape), dtype=str(array.dtype), sha256=_sha256(path))


def _save(path, array):
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as handle:
        np.save(handle, array)
    os.replace(part, path)


def _write_text(path, text):
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)
