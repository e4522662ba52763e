"""Which masks deserve doubt, told without a reference: how far networks and views agree, and what looks odd."""

import csv
import functools
import hashlib
import math
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from prettytable import PrettyTable
from scipy.ndimage import find_objects, label

from cmems.datasets.readers.scans import description_of, mask_file, read_mask
from cmems.errors import InputError
from cmems.evaluation.agreement import mean_dice, shared_voxels
from cmems.files import whole_file
from cmems.visualization.tables import csv_cell, csv_text, model_label

COLUMNS = ("scan", "class", "agreement", "views_agreement", "softmax", "ml", "components", "note", "made_by")
_NUMBERS = ("agreement", "views_agreement", "softmax", "ml")
BY_HAND = "by hand"
_HEADINGS = ("scan", "class", "networks agree", "views agree", "ml", "parts", "note")


def trust_rows(name, classes, labels, doubt, spacing, made_by=""):
    """Say of each class of a volume how far its mask may be trusted.

    Args:
        name (str): Of the volume.
        classes (sequence[str]): Foreground classes.
        labels (dict[str, np.ndarray]): ``(D, H, W)`` uint8 by model, as :meth:`MutualLearner.segment` names them; the
            last is the mask that is written.
        doubt (Doubt): Beside them.
        spacing (sequence[float]): (slice, row, column), mm.
        made_by (str): By which the mask is known as this model's of this scan.

    Returns:
        list[dict]: By :data:`COLUMNS`: ``agreement``, mean Dice of any two networks' labels on the volume's grid;
        ``views_agreement``, of any two views of a network, on the networks'; ``softmax``, mean probability of the class
        where it is the label of the networks' mean; ``ml`` of the mask; ``components``, parts connected by faces before
        any clean-up; ``note``, what a network did not find, or the mask has not; ``made_by``. NaN where there is
        nothing to compare: one network, one view, or a class that nobody finds; where one of two networks finds it,
        their agreement is 0, and where both find it and the mask has none, what it is.
    """
    networks = {model: each for model, each in labels.items() if model.startswith("network_")}
    whole, mask = labels.get("ensemble", labels["network_1"]), list(labels.values())[-1]
    between = shared_voxels(list(networks.values()), len(classes) + 1)
    member = np.arange(doubt.shared.shape[1]) % doubt.num_networks  # whose network's view it is
    views = [mean_dice(each, member[:, None] == member) for each in doubt.shared]
    counts, boxes, rows = np.bincount(mask.ravel(), minlength=len(classes) + 1), find_objects(whole), []
    for k, cls in enumerate(classes, 1):
        found = dict(zip(networks, np.diagonal(between[k - 1]), strict=True))
        box = boxes[k - 1] if k <= len(boxes) else None
        rows.append(
            {
                "scan": name,
                "class": cls,
                "agreement": mean_dice(between[k - 1]),
                "views_agreement": views[k - 1],
                "softmax": float(doubt.softmax[k - 1]),
                "ml": float(counts[k] * math.prod(spacing) / 1000),
                "components": 0 if box is None else label(whole[box] == k)[1],
                "note": _note(found, counts[k]),
                "made_by": made_by,
            }
        )
    return rows


def _note(found, voxels):
    missing = [model_label(model) for model, count in found.items() if not count]
    if missing and len(missing) < len(found):
        return f"{' and '.join(missing)} {'finds' if len(missing) == 1 else 'find'} none"
    return "" if voxels else "not found"


def rows_by_hand(name, classes, path):
    """Return the rows of a mask that was changed since it was written, or that nothing here wrote.

    Args:
        name (str): Of the scan.
        classes (sequence[str]): Foreground classes.
        path (Path): The mask.

    Returns:
        list[dict]: By :data:`COLUMNS`, with the note :data:`BY_HAND`; NaN and None where nothing is known of the mask.
    """
    unknown = {**dict.fromkeys(_NUMBERS, math.nan), "components": None, "note": BY_HAND, "made_by": maker(path) or ""}
    return [{"scan": name, "class": cls, **unknown} for cls in classes]


def digest(labels):
    """Return 16 hexadecimal digits by which labels are known, whatever their dtype."""
    return hashlib.sha256(np.asarray(labels, np.uint8).tobytes()).hexdigest()[:16]


def signed(made_by, labels, path):
    """Return what the header of the mask at ``path`` says: who made it, and by what its labels ``(D, H, W)`` are known.

    The order of a DICOM segmentation's slices is not its file's, and slices without a label may not be in it.
    """
    return f"{made_by} {_known_by(labels, path)}"


def _known_by(labels, path):
    if path.suffix != ".dcm":
        return digest(labels)
    if (held := labels.any((1, 2)).nonzero()[0]).size:
        labels = labels[held[0] : held[-1] + 1]
    return min(digest(labels), digest(labels[::-1]))


def maker(path):
    """Return who made the mask at ``path``, by its header, perhaps nobody; None where there is no mask."""
    return path and " ".join((description_of(path) or "").split()[:3])


def is_by_hand(path):
    """Tell whether a mask is there that is not as it was written: its header is not ours, or its labels are others."""
    if not path.is_file():
        return False
    *_, known = said = (description_of(path) or "").split()[:4] or [""]
    if len(said) < 4 or said[0] != "cmems":
        return True
    try:
        return _known_by(read_mask(path).voxels, path) != known
    except InputError:  # whoever left it so
        return True


def by_doubt(rows):
    """Sort rows, the most doubtful first: what one network misses, what was not found, then the lowest agreement;
    in the end what is by hand.
    """

    def key(row):
        known = [row[c] for c in ("agreement", "views_agreement") if not math.isnan(row[c])]
        kind = {"not found": 1, "": 2, BY_HAND: 3}.get(row["note"], 0)
        return kind, known[0] if known else 1.0, row["scan"]

    return sorted(rows, key=key)


def trust_table(rows, limit=10):
    """Return the first rows as a table of several lines; what there is nothing to say of is a dash."""
    table = PrettyTable(_HEADINGS)
    for row in rows[:limit]:
        shares = [_dash(row[c]) if not row["note"] else "–" for c in ("agreement", "views_agreement")]
        known = ["–"] * 2 if row["note"] == BY_HAND else [f"{row['ml']:.1f}", row["components"]]
        table.add_row([row["scan"], row["class"], *shares, *known, row["note"]])
    table.align = "r"
    for column in ("scan", "class", "note"):
        table.align[column] = "l"
    return table.get_string()


def _dash(value):
    return "–" if math.isnan(value) else f"{value:.2f}"


def part_name(number, parts):
    """Return the name of the table of one part of the scans; of the only one it is ``trust.csv``."""
    return "trust.csv" if parts == 1 else f"trust_{number}_of_{parts}.csv"


@contextmanager
def trust_file(out, rows, name="trust.csv", seconds=10):
    """Write the table of a folder of masks: often, as long as it takes little time, and when the block ends, however it
    ends.

    Args:
        out (Path): The folder. What ``trust.csv`` and tables of parts say of masks that are still there, and not in
            ``rows``, stays in ``trust.csv``.
        rows (list[dict]): Filled within the block; see :func:`trust_rows`. Sorted by doubt in the file; an empty field
            where there is nothing to compare.
        name (str): Of the table.
        seconds (float): Between two writings, at most; less where that takes a twentieth of the time.

    Yields:
        callable: To be called when there may be more rows.
    """
    path, written, pause = Path(out, name), time.monotonic(), 0.0

    def write():
        before = known_rows(out) if name == "trust.csv" else []  # now: another process may have written since
        done = {row["scan"] for row in rows}
        made_by = functools.cache(lambda scan: maker(mask_file(out, scan)))
        kept = [r for r in before if r["scan"] not in done and made_by(r["scan"]) == r["made_by"]]
        if rows or path.exists():
            with whole_file(path) as part, open(part, "w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(COLUMNS)
                for row in by_doubt(rows + kept):
                    writer.writerow([_cell(row[column]) for column in COLUMNS])

    def more():
        nonlocal written, pause
        began = time.monotonic()
        if began - written > pause:
            write()
            written = time.monotonic()
            pause = min(seconds, 20 * (written - began))

    try:
        yield more
    finally:
        write()


def _cell(value):
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return csv_cell("" if value is None else value)


def tells(row, out):
    """Return whether a row is of the mask that is there, by what its header says of who made it."""
    return maker(mask_file(out, row["scan"])) == row["made_by"]


def known_rows(out):
    """Return what ``trust.csv`` and the tables of parts in a folder say, of each mask and class once.

    Raises:
        InputError: One is not as it was written.
    """
    tables = [Path(out, "trust.csv"), *sorted(Path(out).glob(part_name("*", "*")))]
    rows = [row for path in tables for row in read_trust(path)]
    return list({(row["scan"], row["class"], row["made_by"]): row for row in rows}.values())


def _count(cell):
    return int(cell) if cell else None


def read_trust(path):
    """Return the rows of a file that :func:`trust_file` wrote, none where there is none.

    Raises:
        InputError: It is not as it was written: a spreadsheet's separators or numbers, further columns, another file.
    """
    texts = dict.fromkeys(("scan", "class", "note", "made_by"), csv_text)
    kinds = {**texts, **dict.fromkeys(_NUMBERS, lambda cell: float(cell or "nan")), "components": _count}
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:  # a spreadsheet's mark at the beginning
            reader = csv.DictReader(handle)
            names = [name for name in reader.fieldnames or () if name != "mask"]  # which stood there once
            if tuple(names) not in (COLUMNS, ()):
                raise ValueError(f"expected the columns {','.join(COLUMNS)}, got {','.join(names)[:120]}")
            return [{c: kind(row.get(c) or "") for c, kind in kinds.items()} for row in reader]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path}: not as cmems predict wrote it ({str(error)[:300]}); rename it to keep it, as it is written anew"
        ) from error
