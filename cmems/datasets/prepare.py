"""Turning a raw folder into a prepared data set; interrupted, it goes on where it was."""

import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import torch

from cmems.datasets.convert import convert, finished, part_of, save, stamps, stream, write_text
from cmems.datasets.intensity import INTENSITY
from cmems.datasets.names import composed, near
from cmems.datasets.prepared import FORMAT, MANIFEST, VERSION, PreparedDataset, file_sha256, is_text, manifest_sha256
from cmems.errors import InputError
from cmems.labels import UNKNOWN
from cmems.locks import folder_lock
from cmems.resize import Frame

MAX_SIZE = 4096
LOCK = ".lock"
PREPARATION = 3  # raised when the same scans and settings give other arrays
WHOLE = ".whole"
ALONE = 2.0  # seconds that this process converts by itself, as workers take longer than that to start


def prepare(reader, out, size=224, workers=None, progress=None, overwrite=False, pixel=None, exemplars=()):
    """Write a prepared data set.

    Args:
        reader (Reader): The raw folder.
        out (str): Folder to write. While it is incomplete it has no manifest and nothing loads it.
        size (int): Side of the training slices, pixels.
        workers (int | None): Processes that take over where this one needs more than seconds. Default: one per core.
        progress (callable | None): Called with (cases done, cases, name) after each case.
        overwrite (bool): Replace a data set that was prepared otherwise.
        pixel (float | None): Resample training slices to pixels of this side, mm, and cut out their middle, ``size``
            pixels square. Default: squeeze whole slices to the square.
        exemplars (Sequence[dict]): ``case`` and ``slice`` of labelled slices, which are looked at before all else.

    Returns:
        PreparedDataset: What was written, or was there already from the same files and settings.

    Raises:
        InputError: Every problem of the raw folder, at once; what was converted so far is kept for the next run.
    """
    out = Path(out)
    if not isinstance(size, int) or not 16 <= size <= MAX_SIZE:
        option = "--size" if pixel is None else "--crop"
        raise InputError(f"{option}: expected an integer of 16 to {MAX_SIZE} pixels, got {size!r}")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise InputError(f"--workers: expected an integer of 1 or more, got {workers!r}")
    if pixel is not None and not 0 < pixel < math.inf:
        raise InputError(f"--spacing: expected the side of a pixel in mm, more than 0, got {pixel!r}")
    _check_classes(reader.classes)
    ours = not out.exists() or (out / MANIFEST).is_file() or (out / ".partial").is_dir()
    if not ours and not (out.is_dir() and all(p.name == LOCK for p in out.iterdir())):
        but = "it holds other files" if out.is_dir() else "it is a file"
        raise InputError(f"{out}: expected an empty or a new folder, but {but}")
    cases = reader.cases()
    with folder_lock(out, "preparing data", LOCK):
        return _prepare(reader, cases, out, Frame(size, pixel), workers, progress, overwrite, exemplars)


def _prepare(reader, cases, out, frame, workers, progress, overwrite, exemplars):
    orientations = reader.settle_axes(cases)
    settings = dict(reader.settings(), frame=list(frame), preparation=PREPARATION)
    fingerprint = _digest(dict(settings, cases=[[c.name, c.split, stamps(c)] for c in cases]))
    if (out / MANIFEST).is_file() and not overwrite:
        if PreparedDataset(out, arrays=False).manifest.get("fingerprint") != fingerprint:
            raise InputError(f"{out}: already holds another prepared data set; --overwrite replaces it")
        return PreparedDataset(out)
    _look_ahead(reader, cases, frame, exemplars)
    parts = out / ".partial"
    _keep_parts(parts, _digest(settings))
    entries = _convert_all(reader, cases, parts, frame, workers, progress)
    _note_strangers(entries)
    _note_copies(entries)
    _note_missing(entries, reader.classes)
    whole = parts / WHOLE
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    _assemble(whole, parts, cases, entries, frame.size)
    manifest = dict(
        format=FORMAT,
        version=VERSION,
        dataset=reader.name,
        size=frame.size,
        pixel=frame.pixel,
        classes=list(reader.classes),
        intensity=INTENSITY[reader.modality],
        resize=dict(images="bilinear, antialiased", labels="nearest"),
        axes=reader.axes or next(iter(orientations), None),
        reading=reader.reading(),
        splits={s: [c.name for c in cases if c.split == s] for s in ("train", "val", "test")},
        cases={c.name: entries[c.name] for c in cases},
        files={p.relative_to(whole).as_posix(): _describe(p) for p in sorted(whole.rglob("*.npy"))},
        fingerprint=fingerprint,
    )
    manifest["sha256"] = manifest_sha256(json.loads(json.dumps(manifest)))  # as it will be read
    write_text(whole / MANIFEST, json.dumps(manifest, indent=1))
    _replace(out, whole)
    shutil.rmtree(parts)
    return PreparedDataset(out)


def _look_ahead(reader, cases, frame, exemplars):
    """Refuse pixels and exemplars that cannot be, by the first scan and by the exemplars', before all are converted."""
    known, problems, held, painted = {case.name: case for case in cases}, [], set(), set()
    for each in exemplars:
        case = known.get(composed(each["case"]))
        where = f"--exemplar {each['case']}:{each['slice']}"
        if case is None:
            problems.append(f"{where}: no such case in {reader.root}; {near(each['case'], known)}")
        elif case.split != "train":
            problems.append(f"{where}: {case.name} is in split '{case.split}'; expected a training case")
        elif problem := _exemplar_problem(reader, case, each["slice"], frame, held, painted):
            problems.append(f"{where}: {problem}")
    missing = [name for k, name in enumerate(reader.classes, 1) if k not in held]
    if exemplars and missing and not problems and None not in held:
        named = " ".join(f"{each['case']}:{each['slice']}" for each in exemplars)
        lost = [name for k, name in enumerate(reader.classes, 1) if k in painted - held]
        small = f"; too little is painted of {', '.join(lost)} to stay at {frame.size}x{frame.size} pixels" * bool(lost)
        problems.append(f"--exemplar {named}: expected every class, got none of {', '.join(missing)}{small}")
    if problems:
        raise InputError(problems)
    if frame.pixel is None:
        return
    try:
        image, _ = reader.read(cases[0])
    except InputError:  # converting it will say so, beside what is wrong with the others
        return
    if problem := frame.problem(image.voxels.shape[1:], image.spacing[1:]):
        raise InputError(f"--spacing {frame.pixel:g}: {cases[0].images[0]}: {problem}")


def _exemplar_problem(reader, case, index, frame, held, whole):
    """Return why a slice cannot be an exemplar, or None.

    What it is labelled with goes into ``held``, of the frame's pixels, None where it is not read, and into ``whole``,
    of the scan's.
    """
    try:
        image, label = reader.read(case)
    except InputError:  # as above
        held.add(None)
        return None
    if index >= len(image.voxels):
        return f"expected a slice of 0 to {len(image.voxels) - 1}"
    if label is None:
        return "expected a labelled slice, but this case has no label"
    painted = np.flatnonzero((label.voxels != UNKNOWN).any(axis=(1, 2)))
    if index not in painted:
        return f"expected a labelled slice, but of this case only {', '.join(map(str, painted))} is painted"
    plane = torch.from_numpy(np.ascontiguousarray(label.voxels[index : index + 1]).astype(np.uint8))
    whole.update(np.unique(plane.numpy()).tolist())
    held.update(frame.labels(plane, image.spacing[1:]).unique().tolist())
    return None


def _check_classes(classes):
    """Refuse classes that uint8 labels, or a reader of tables, cannot tell apart."""
    if len(classes) > UNKNOWN - 1:
        raise InputError(f"--classes: expected {UNKNOWN - 1} classes or fewer, got {len(classes)}")
    if odd := [name for name in classes if not is_text(name)]:
        raise InputError(f"--classes: expected names in Unicode, got {odd[0]!r}")
    twice = [name for name, count in Counter(classes).items() if count > 1 or name in ("", "background", "mean")]
    if twice:
        raise InputError(
            f"--classes: expected different names other than background and mean, got {twice[0]!r} in {classes}"
        )


def _keep_parts(parts, key):
    """Empty ``parts`` of what was converted under other settings."""
    path = parts / ".settings"
    if parts.is_dir() and not (path.is_file() and path.read_bytes() == key.encode()):
        shutil.rmtree(parts)
    parts.mkdir(exist_ok=True)
    write_text(path, key)


def _replace(out, whole):
    """Put the files of ``whole`` in the place of a data set that may be in ``out``, the manifest last."""
    (out / MANIFEST).unlink(missing_ok=True)
    for name in ("train_images.npy", "train_labels.npy", "volumes"):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        (out / name).unlink(missing_ok=True)
        if (whole / name).exists():
            os.replace(whole / name, out / name)
    os.replace(whole / MANIFEST, out / MANIFEST)


def check(out):
    """Compare a prepared data set with its manifest; return its problems, one line each."""
    data = PreparedDataset(out, arrays=False)
    problems = [data.changed] * bool(data.changed) + data.file_problems()
    for name, expected in data.manifest["files"].items():
        path = data.root / name
        if path.is_file() and not any(p.startswith(f"{path}: ") for p in problems) and (
            (seen := file_sha256(path)) != expected["sha256"]
        ):  # fmt: skip
            problems.append(f"{path}: sha256: expected {expected['sha256']}, got {seen}")
    return problems


def _convert_all(reader, cases, parts, frame, workers, progress):
    entries, problems, pending = {}, [], []
    for case in cases:
        entry = finished(parts, case, frame)
        if entry is None:
            pending.append(case)
        else:
            entries[case.name] = entry
    workers = min(workers or os.cpu_count() or 1, max(1, len(pending)))
    if sys.platform == "win32":
        workers = min(workers, 61)  # Windows waits for no more
    with closing(_converted(reader, pending, parts, frame, workers)) as results:
        for case, (entry, found) in results:
            entries[case.name] = entry
            problems += found
            if progress:
                progress(len(entries), len(cases), case.name)
    if problems:
        raise InputError(sorted(problems))
    return {case.name: entries[case.name] for case in cases}  # whichever was done first


def _converted(reader, cases, parts, frame, workers):
    """Yield ``(case, (entry, problems))`` as cases are done: by this process, and by workers where that takes long."""
    begun, cases = time.monotonic(), list(cases)
    while cases and (min(workers, len(cases)) == 1 or time.monotonic() - begun < ALONE):
        case = cases.pop(0)
        yield case, convert(reader, case, parts, frame)
    if not cases:
        return
    # "spawn": a forked child inherits torch's thread pool in an unusable state.
    with ProcessPoolExecutor(
        min(workers, len(cases)), mp_context=get_context("spawn"), initializer=_start_worker
    ) as pool:
        came = 0
        try:
            with _interrupt_held():
                running = {pool.submit(convert, reader, case, parts, frame): case for case in cases}
            for done in as_completed(running):
                result = done.result()
                came += 1
                yield running[done], result
        except BrokenProcessPool as error:
            own = "" if came else "; in a script of one's own, prepare belongs under if __name__ == '__main__'"
            raise InputError(
                f"a worker process was ended from outside, as for want of memory; try fewer --workers{own}"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _interrupt_held():
    """Hold Ctrl-C back while processes start, which then never see it: it is this process that ends them, in a line."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker():
    """Take one thread, and end with the process that this one works for: a killed one cannot tell its workers."""
    torch.set_num_threads(1)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _note_strangers(entries):
    """Note the cases whose mean after scaling lies far from the others', as that of an unlike scan does."""
    means = np.array([entry["scaled_mean"] for entry in entries.values()])
    if len(means) < 5:
        return
    away = np.abs(means - np.median(means))
    for entry, far in zip(entries.values(), away > max(0.15, 8 * np.median(away)), strict=True):
        if far:
            detail = f"mean {entry['scaled_mean']:g} in [0, 1], others' {np.median(means):.3g}"
            entry["notes"].append(["intensities unlike the other scans'", detail])


def _note_copies(entries):
    """Note the cases whose voxels are another's: one patient under two names, maybe on both sides of a split."""
    first = {}
    for name, entry in entries.items():
        content = (tuple(entry["shape"]), entry.get("voxels", name))
        other = first.setdefault(content, name)
        if other != name:
            splits = entries[other]["split"], entry["split"]
            apart = "" if splits[0] == splits[1] else f", which is in {splits[0]}, this in {splits[1]}"
            entry["notes"].append(["the same voxels as another case's", f"{other}{apart}"])


def _note_missing(entries, classes):
    """Note the cases without a label, and the whole labels without a class, where most have it: it may be forgotten."""
    for split in Counter(entry["split"] for entry in entries.values()):
        there = [entry for entry in entries.values() if entry["split"] == split]
        bare = [entry for entry in there if not entry["labelled"]]
        for entry in bare if 2 * len(bare) < len(there) else ():
            entry["notes"].append(["no label, while most cases of the split have one", split])
    whole = [entry for entry in entries.values() if entry["labelled"] and str(UNKNOWN) not in entry["label_counts"]]
    common = [
        (str(k), name)
        for k, name in enumerate(classes, 1)
        if 2 * sum(entry["label_counts"].get(str(k), 0) > 0 for entry in whole) > len(whole)
    ]
    for entry in whole:
        if lacks := [name for k, name in common if not entry["label_counts"].get(k)]:
            entry["notes"].append(["its label lacks a class that most cases' have", ", ".join(lacks)])


def _assemble(out, parts, cases, entries, size):
    """Stream the converted cases into the final arrays, one case in memory at a time."""
    train = [c for c in cases if c.split == "train"]
    total = sum(entries[c.name]["shape"][0] for c in train)
    labelled = any(entries[c.name]["labelled"] for c in train)
    slices = 0
    for case in train:
        entry = entries[case.name]
        entry["slices"] = [slices, slices := slices + entry["shape"][0]]
    if train:
        images = (part_of(parts, c, "image") for c in train)
        stream(out / "train_images.npy", np.float16, (total, size, size), images)
    if labelled:
        labels = (_train_labels(parts, c, entries[c.name], size) for c in train)
        stream(out / "train_labels.npy", np.uint8, (total, size, size), labels)
    (out / "volumes").mkdir()
    for case in cases:
        if case.split != "train":
            for kind in ("image", "label") if entries[case.name]["labelled"] else ("image",):
                save(out / "volumes" / f"{case.name}_{kind}.npy", part_of(parts, case, kind))


def _train_labels(parts, case, entry, size):
    if entry["labelled"]:
        return part_of(parts, case, "label")
    return np.full((entry["shape"][0], size, size), UNKNOWN, np.uint8)


def _digest(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _describe(path):
    array = np.load(path, mmap_mode="r")
    found = dict(shape=list(array.shape), dtype=str(array.dtype), sha256=file_sha256(path))
    if path.name == "train_labels.npy":
        found["rows"] = [zlib.crc32(np.ascontiguousarray(row)) for row in array]
    return found
