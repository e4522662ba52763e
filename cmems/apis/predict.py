"""Segmenting scans that are in no prepared data set."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmems.apis.predict_files import (
    PICTURES,
    check_targets,
    files_of,
    find_scans,
    odd_name,
    remove_old,
    spare_others,
    stamp,
    what_stays,
)
from cmems.apis.segmenter import Segmenter
from cmems.apis.trust import by_doubt, part_name, signed, trust_file, trust_rows
from cmems.datasets.readers.scans import check_mask, encoded, mask_ending
from cmems.errors import InputError, SomeUnusable, memory_problem
from cmems.files import remove_parts, whole_file
from cmems.locks import part_lock
from cmems.visualization.colors import class_colors, label_tables
from cmems.visualization.panels import check_pictures, panel, write_png

MENDED = "the mask is not as it was predicted, and stays as it is; remove it to have it predicted anew"


class Masks(NamedTuple):
    """What was written.

    Attributes:
        paths: The masks' files by scan, those that were there before among them.
        classes: Foreground classes; label k is the k-th.
        model: Whose masks they are.
        turned: Scans whose axes lie as those of no case of the prepared data set, with their orientation, as ``LPS``:
            unless both are known, and the scan was turned, their slices are not what the networks know.
        notes: What a user should know of a scan, as pairs of a sentence and its details.
        trust: What :func:`cmems.apis.trust.trust_rows` says of every mask and class, the most doubtful first.
        kept: Scans whose masks were there already, made by the same model of the same file.
        mended: Scans whose masks were left alone, since somebody changed or painted them.
    """

    paths: dict[str, Path]
    classes: tuple[str, ...]
    model: str
    turned: dict[str, str]
    notes: dict[str, list]
    trust: list[dict] = []
    kept: list[str] = []
    mended: list[str] = []


def predict(
    model,
    checkpoint,
    scans,
    out,
    cfg_options=None,
    progress=None,
    doubt_maps=False,
    probabilities=False,
    pictures=False,
    part=(1, 1),
    **choices,
):
    """Write the mask of every scan, on the scan's own grid, and ``trust.csv``, which of them to look at first.

    Scans are scaled as the prepared data set was that the model was trained on. The masks are the ensemble's, or
    network 1's where it is alone, cleaned up where the config says how. While some scans are segmented, the next are
    read, the last written. A mask that is there, made by the same model with the same choices of the same file, stays:
    what was interrupted goes on. So does one that was changed since it was written, or that nothing here wrote: work
    of a person's hands.

    Args:
        model (str | Segmenter): A file of :func:`cmems.apis.publish`; or a config, of whose data ``manifest.json`` is
            enough.
        checkpoint (str | None): The weights of a config.
        scans (str): A scan, or a folder of them: NIfTI, NRRD, images or DICOM.
        out (str): Folder of the masks, ``<scan>.nii.gz``: uint8, label k is the k-th class, the scan's affine; of
            images ``<scan>.png`` of the same size, of DICOM a segmentation, ``<scan>.dcm``; and of the classes' names
            and colours, ``labels_itksnap.txt`` and ``labels_slicer.ctbl``.
        cfg_options (dict | None): Dotted keys of the config to set.
        progress (callable | None): Called with (scans done, scans, name) after each scan.
        doubt_maps (bool): Write ``doubt/<scan>_entropy.nii.gz``, the entropy of the mean probabilities in percent of
            the largest there is, and, of two or more networks, ``doubt/<scan>_disagreement.nii.gz``, 1 where their
            labels differ.
        probabilities (bool): Write ``probabilities/<scan>.nii.gz``, four axes, the last one background and the classes:
            the mean probabilities before any clean-up, uint16 with a slope that makes them 0 to 1.
        pictures (bool): Draw ``pictures/<scan>.png``: the slices where models differ most, as each outlines them.
        part (tuple[int, int]): (k, n): of n processes that share the folder, the k-th, from 1; each takes every n-th
            scan, and writes ``trust_<k>_of_<n>.csv``. Called again without parts, all they made stays, and is joined.
        **choices: ``network``, ``views``, ``clean``, ``keep_largest``, ``device`` of :class:`cmems.apis.Segmenter`;
            none where ``model`` is one.

    Returns:
        Masks: What was written. Rows of scans that ``trust.csv`` held before, whose masks are still there, stay in it.

    Raises:
        InputError: Something in the model, the config or the data is wrong, or there is no scan; masks of their names
            are there, painted by hand perhaps, in a folder without any of ours, or masks of other classes;
            ``trust.csv`` was changed by another program; another process writes there; a picture is not ours; or a
            folder is where a file must be, or a file where a folder must.
        SomeUnusable: Some scans are, after the others' masks were written.
    """
    out, segmenter = Path(out), model
    if not isinstance(part, (tuple, list)) or [type(n) for n in part] != [int, int]:
        raise InputError(f"part: expected (K, N), two integers, got {part!r:.60}")
    if not 1 <= part[0] <= part[1]:
        raise InputError(f"--part {part[0]}/{part[1]}: expected K/N with K from 1 to N")
    if not isinstance(model, Segmenter):
        segmenter = Segmenter(model, checkpoint, cfg_options, **choices)
    elif idle := [*["checkpoint"] * (checkpoint is not None), *["cfg_options"] * bool(cfg_options), *choices]:
        raise InputError(f"{', '.join(idle)}: expected none beside a Segmenter, which was made with its own")
    paths, problems = find_scans(Path(scans), out, segmenter.preparation.channel)
    number, parts = part
    wanted = files_of(paths, out, len(segmenter.networks), doubt_maps, probabilities, pictures)
    anything = files_of(paths, out, 2, True, True, True)
    nameless = {name: problem for name, path in paths.items() if (problem := odd_name(name, path, wanted(name)))}
    problems += nameless.values()
    paths = {name: path for name, path in paths.items() if name not in nameless}
    for path in paths.values():
        check_mask(path, segmenter.classes)
    all_masks = [out / (name + mask_ending(path)) for name, path in paths.items()]
    paths, problems = dict(list(paths.items())[number - 1 :: parts]), problems if number == 1 else []
    tables = [out / name for name in ("trust.csv", part_name(*part), *label_tables(segmenter.classes))]
    check_targets([*tables, *chain(*map(wanted, paths))])
    spare_others(out, all_masks, segmenter.classes)
    if pictures:
        check_pictures("--pictures", (out / PICTURES / f"{name}.png" for name in paths))
    with part_lock(out, "labelling scans", *part):
        marks = {name: f"cmems {segmenter.key} {stamp(path)}" for name, path in paths.items()}
        rows, kept, mended = what_stays(out, segmenter, marks, wanted)
        written, odd, notes = {name: wanted(name)[-1] for name in (*kept, *mended)}, {}, {}
        writing, ahead = [], deque()
        names = (name for name in paths if name not in written)
        with trust_file(out, rows, part_name(*part)) as more, ThreadPoolExecutor(os.cpu_count()) as pool:

            def read_on():
                for name in islice(names, segmenter.together):
                    ahead.append((name, pool.submit(_read, name, paths[name], segmenter.preparation)))

            for done, name in enumerate(written, 1):
                if progress:
                    progress(done, len(paths), name)
            done, tables = len(written), False
            read_on()
            try:
                while ahead:
                    batch, ready = list(ahead), []
                    ahead.clear()
                    read_on()
                    for name, reading in batch:
                        try:
                            ready.append(reading.result())
                        except InputError as error:
                            problems += error.problems
                            continue
                        notes[name] = ready[-1].notes
                        if ready[-1].odd:
                            odd[name] = ready[-1].odd
                    ready, found, short = _segmented(segmenter, ready, doubt_maps, probabilities)
                    problems += [
                        f"{paths[name]}: too little memory to segment it ({problem})" for name, problem in short
                    ]
                    problems += _settled(writing, written, rows)
                    more()
                    if ready and not tables:
                        tables = _write_tables(out, segmenter.classes)
                    for scan, models, doubt in zip(ready, *found, strict=True):
                        files = wanted(scan.name)
                        written[scan.name] = files[-1]
                        drawn = _drawn(scan, models, segmenter.classes, segmenter.alone) if pictures else None
                        maps = _maps(files, segmenter.labels(models), models, doubt, drawn)
                        rest = scan.name, segmenter.classes, models, doubt, scan.content["spacing"], marks[scan.name]
                        idle = [file for file in anything(scan.name) if file not in files]
                        writing.append((scan.name, pool.submit(_write, paths[scan.name], scan, maps, idle, *rest)))
                    for name, _ in batch:
                        done += 1
                        if progress:
                            progress(done, len(paths), name)
            finally:  # of what was interrupted too
                problems += _settled(writing, written, rows)
        if parts == 1:  # which holds what theirs say
            for path in out.glob(part_name("*", "*")):
                path.unlink()
            remove_parts(out)
    masks = Masks(written, segmenter.classes, segmenter.whose, odd, notes, by_doubt(rows), kept, mended)
    if problems:
        raise SomeUnusable(problems, masks)
    return masks


def _segmented(segmenter, scans, *choices):
    """Segment scans, together or, where memory is too little for that, each by itself.

    Returns:
        tuple[list, tuple[list, list], list]: The scans that were, what ``segment_with_doubt`` returns of them, and the
        names of the others with what the memory said.
    """
    if not scans:
        return [], ([], []), []
    try:
        return scans, segmenter.segment_with_doubt(scans, *choices), []
    except (MemoryError, RuntimeError) as error:
        if (problem := memory_problem(error)) is None:
            raise
    if len(scans) == 1:
        return [], ([], []), [(scans[0].name, problem)]
    parts = [_segmented(segmenter, [scan], *choices) for scan in scans]
    found = tuple([each for _, both, _ in parts for each in both[k]] for k in (0, 1))
    return [s for some, _, _ in parts for s in some], found, [each for _, _, short in parts for each in short]


def _write_tables(out, classes):
    for name, text in label_tables(classes).items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return True


def _settled(writing, written, rows):
    """Wait for masks and collect their rows; return the problems of those that could not be made, which leave
    ``written``."""
    problems = []
    while writing:
        name, each = writing.pop(0)
        try:
            rows += each.result()  # raises what the disk refuses
        except InputError as error:
            problems += error.problems
            del written[name]
    return problems


def _read(name, path, preparation):
    return preparation.ready(preparation.read_scan(path), path)._replace(name=name)


def _drawn(scan, models, classes, alone):
    """Draw the slices of a scan where models differ most; a network that is ``alone`` has its own number."""
    models = {f"network_{alone}" if alone and m == "network_1" else m: labels for m, labels in models.items()}
    return panel(dict(scan.content, case=scan.name, predictions=models), classes=classes)


def _maps(files, mask, models, doubt, drawn=None):
    """Return what goes into the files of a scan, in their order."""
    maps = [mask]
    if drawn is not None:
        maps.insert(0, drawn)
    if doubt.probabilities is not None:
        maps.insert(0, doubt.probabilities)
    if doubt.entropies is not None:
        labels = [each for model, each in models.items() if model.startswith("network_")]
        differ = [np.any([each != labels[0] for each in labels[1:]], axis=0).astype(np.uint8)] * (len(labels) > 1)
        maps = [np.rint(doubt.entropies * 100).astype(np.uint8), *differ, *maps]
    return dict(zip(files, maps, strict=True))


def _write(path, scan, maps, idle, *rest):
    """Write maps with their scan's header; return the rows of trust, of which ``rest`` is.

    Args:
        path (Path): The scan's file.
        scan (Ready): The scan.
        maps (dict[Path, np.ndarray]): Voxels by the file they go to, as :func:`nifti_like` takes them; the last are the
            mask.
        idle (list[Path]): Maps that are not asked for; those of another model's mask, or another scan's, go with it.
        *rest: See :func:`trust_rows`.
    """
    for file, voxels in maps.items():
        if file.parent.name == PICTURES:
            write_png(file, voxels, rest[-1])
            continue
        voxels, mark, is_mask = scan.back(voxels), rest[-1], file == list(maps)[-1]
        if is_mask:
            remove_old(idle, mark)
            mark = signed(mark, voxels, file)
        content = encoded(path, file.name, voxels, rest[1], mark, class_colors(len(rest[1])))
        with whole_file(file) as part:
            part.write_bytes(content)
    return trust_rows(*rest)
