"""Segmenting scans that are in no prepared data set."""

import gzip
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch

from cmems.apis.config import load_config
from cmems.apis.trust import by_doubt, trust_file, trust_rows
from cmems.datasets.prepare import image_problems, modality_of, scale_intensity, scaling_notes
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.readers.files import nifti_files, nifti_stem, reading
from cmems.datasets.readers.folder import filled
from cmems.datasets.readers.geometry import axes, known_axes, turned, turned_array
from cmems.datasets.readers.nifti import nifti_like, read_nifti
from cmems.engine.checkpoint import load_weights, read_checkpoint
from cmems.engine.runner import set_up_cpu
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.registry import MODELS


class Masks(NamedTuple):
    """What was written.

    Attributes:
        paths: The masks' files by scan.
        classes: Foreground classes; label k is the k-th.
        model: Whose masks they are.
        turned: Scans whose axes lie as those of no case of the prepared data set, with their orientation, as ``LPS``:
            unless both are known, and the scan was turned, their slices are not what the networks know.
        notes: What a user should know of a scan, as pairs of a sentence and its details.
        trust: What :func:`cmems.apis.trust.trust_rows` says of every mask and class, the most doubtful first.
    """

    paths: dict[str, Path]
    classes: tuple[str, ...]
    model: str
    turned: dict[str, str]
    notes: dict[str, list]
    trust: list[dict] = []


def predict(config, checkpoint, scans, out, cfg_options=None, progress=None, doubt_maps=False):
    """Write the mask of every scan, on the scan's own grid, and ``trust.csv``, which of them to look at first.

    Scans are scaled as the config's prepared data set was; of that its ``manifest.json`` is enough. The masks are the
    ensemble's, or network 1's where it is alone, cleaned up where the config says how. While some scans are segmented,
    the next are read, the last written.

    Args:
        config (str): Path of the config.
        checkpoint (str): The weights.
        scans (str): A NIfTI file, or a folder of them.
        out (str): Folder of the masks, ``<scan>.nii.gz``: uint8, label k is the k-th class, the scan's affine.
        cfg_options (dict | None): Dotted keys to set.
        progress (callable | None): Called with (scans done, scans, name) after each scan.
        doubt_maps (bool): Write ``doubt/<scan>_entropy.nii.gz``, the entropy of the mean probabilities in percent of
            the largest there is, and, of two or more networks, ``doubt/<scan>_disagreement.nii.gz``, 1 where their
            labels differ.

    Returns:
        Masks: What was written. Rows of scans that ``trust.csv`` held before, whose masks are still there, stay in it.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong, or there is no scan; or some scans
            are unusable, after the others' masks were written.
    """
    cfg = load_config(config, cfg_options)
    data = PreparedDataset(cfg.test_dataloader.dataset.data_root, arrays=False)
    modality, (paths, problems) = modality_of(data), _find(Path(scans), Path(out))
    model = _load(cfg, config, checkpoint, data)
    best = model.prediction.names(model.num_networks)[-1]
    known = {case["orientation"] for case in data.manifest["cases"].values()}
    written, odd, notes, back, writing, ahead, names = {}, {}, {}, {}, [], deque(), iter(paths)
    rows, segment = [], model.prediction.segment_with_doubt
    with trust_file(Path(out), rows), ThreadPoolExecutor(os.cpu_count()) as pool:

        def read_on():
            for name in islice(names, cfg.test_dataloader.get("batch_size", 1)):
                ahead.append((name, pool.submit(_read, paths[name], modality, data)))

        read_on()
        done = 0
        while ahead:
            batch, ready = list(ahead), {}
            ahead.clear()
            read_on()
            for name, reading in batch:
                try:
                    ready[name], orientation, back[name], notes[name] = reading.result()
                except InputError as error:
                    problems += error.problems
                    continue
                if orientation not in known:
                    odd[name] = orientation
            found = segment(model.predictors, list(ready.values()), doubt_maps) if ready else ([], [])
            problems += _settled(writing, written, rows)
            writing = []
            for name, models, doubt in zip(ready, *found, strict=True):
                written[name] = Path(out, f"{name}.nii.gz")
                maps = {written[name]: models[best]}
                if doubt_maps:
                    maps |= _doubt_maps(Path(out, "doubt", name), models, doubt)
                rest = name, data.classes, models, doubt, ready[name]["spacing"]
                writing.append((name, pool.submit(_write, paths[name], maps, back.pop(name), *rest)))
            for name, _ in batch:
                done += 1
                if progress:
                    progress(done, len(paths), name)
        problems += _settled(writing, written, rows)
    if problems:
        raise InputError(problems)
    return Masks(written, data.classes, _whose(model, best), odd, notes, by_doubt(rows))


def _settled(writing, written, rows):
    """Wait for masks and collect their rows; return the problems of those that could not be made, which leave
    ``written``."""
    problems = []
    for name, each in writing:
        try:
            rows += each.result()  # raises what the disk refuses
        except InputError as error:
            problems += error.problems
            del written[name]
    return problems


def _find(scans, out):
    """Return the scans' paths by stem, and what lies in their folder and is none."""
    found, problems = nifti_files(scans) if scans.is_dir() else ({nifti_stem(scans): scans}, [])
    if not scans.exists() or not (found or problems):
        raise InputError(f"{scans}: expected a NIfTI file or a folder of them, .nii or .nii.gz")
    if out.resolve() in (scans.resolve(), scans.resolve().parent if scans.is_file() else None):
        raise InputError(f"{out}: the masks would take the names of the scans; name another folder")
    return found, problems


def _read(path, modality, data):
    """Read a scan as a prepared data set holds it.

    Returns:
        tuple: The volume as :meth:`MutualLearner.segment` takes it; the axes' orientation in the file; the axes that
        it was turned to and those of the file, None where they are the same; notes.
    """
    how = data.manifest.get("reading") or {}
    volume = read_nifti(path, how.get("channel"))
    volume = filled(volume) if how.get("fill_nan") else volume
    problems = image_problems(path, volume, modality)
    if problems:
        raise InputError(problems)
    wanted, stored, turn = data.manifest.get("axes"), known_axes(volume), None
    orientation = axes(volume.affine)
    if wanted and stored and wanted != stored:
        volume, turn = turned(volume, wanted), (wanted, stored)
    voxels, _ = scale_intensity(volume.voxels, modality)
    notes = [*volume.notes, *scaling_notes(volume.voxels, voxels, modality)]
    if turn:
        notes.append((f"turned to {wanted} as the prepared cases, and the mask back", f"stored as {stored}"))
    ready = dict(image=voxels.astype(np.float16), spacing=volume.spacing, frame=data.frame)
    return ready, orientation, turn, notes


def label_training_scans(config, checkpoint, out, cfg_options=None, progress=None):
    """Write the mask of every training case, for another round of training to learn from (``StaticLabels``).

    Args:
        config (str): Path of the config.
        checkpoint (str): The weights.
        out (str): Folder of the masks, ``<case>.nii.gz``, on the scans' own grids, so that a next round may have
            another size or spacing; as :func:`predict` cleans them.
        cfg_options (dict | None): Dotted keys to set.
        progress (callable | None): Called with (cases done, cases, name) after each case.

    Returns:
        Masks: What was written.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong.
    """
    cfg = load_config(config, cfg_options)
    data = PreparedDataset(cfg.train_dataloader.data_root)
    model = _load(cfg, config, checkpoint, data)
    best, cases, written = model.prediction.names(model.num_networks)[-1], data.cases("train"), {}
    images = data.train_images()
    for done, case in enumerate(cases, 1):
        entry, rows = data.case(case), data.rows(case)
        squares = np.array(images[rows.start : rows.stop])
        volume = dict(image=squares, shape=entry["shape"], spacing=entry["spacing"], frame=data.frame)
        mask = model.segment([volume])[0][best]
        mask = nib.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0)), np.asarray(entry["affine"]))
        written[case] = Path(out, f"{case}.nii.gz")
        with whole_file(written[case]) as part:
            part.write_bytes(gzip.compress(mask.to_bytes(), compresslevel=3, mtime=0))
        if progress:
            progress(done, len(cases), case)
    return Masks(written, data.classes, _whose(model, best), {}, {})


def _load(cfg, config, checkpoint, data):
    """Build a config's learner with a checkpoint's weights, ready to predict."""
    set_up_cpu(cfg.get("env_cfg") or {})
    model = MODELS.build(cfg.model)
    load_weights(model, read_checkpoint(checkpoint), checkpoint)
    if model.networks[0].num_classes != data.num_classes:
        raise InputError(
            f"config {config}: num_classes={model.networks[0].num_classes}, but {data.root} has {data.num_classes}: "
            f"background, {', '.join(data.classes)}"
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _whose(model, best):
    whose = "the ensemble" if model.num_networks > 1 else "network 1"
    return f"{whose}, cleaned up" if best == "cleaned" else whose


def _doubt_maps(stem, models, doubt):
    """Return the maps that show where to look, as :func:`_write` takes them."""
    maps = {stem.with_name(f"{stem.name}_entropy.nii.gz"): np.rint(doubt.entropies * 100).astype(np.uint8)}
    labels = [each for model, each in models.items() if model.startswith("network_")]
    if len(labels) > 1:
        differ = np.any([each != labels[0] for each in labels[1:]], axis=0)
        maps[stem.with_name(f"{stem.name}_disagreement.nii.gz")] = differ.astype(np.uint8)
    return maps


def _write(scan, maps, turn, *rest):
    """Write ``(D, H, W)`` maps with their scan's header; return the rows of trust, of which ``rest`` is.

    Args:
        scan (Path): The scan.
        maps (dict[Path, np.ndarray]): uint8 voxels by the file they go to.
        turn (tuple | None): Axes of the maps and of the scan, where they differ.
        *rest: See :func:`trust_rows`.
    """
    for path, voxels in maps.items():
        voxels = voxels if turn is None else turned_array(voxels, *turn)
        with reading(scan, "a NIfTI file"):
            content = gzip.compress(nifti_like(scan, voxels), compresslevel=3, mtime=0)
        with whole_file(path) as part:
            part.write_bytes(content)
    return trust_rows(*rest)
