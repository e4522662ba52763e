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

from cmems.datasets.readers.scans import description_of, mask_file
from cmems.evaluation.agreement import mean_dice, shared_voxels
from cmems.files import whole_file
from cmems.visualization.tables import csv_cell, csv_text, model_label

COLUMNS = ("scan", "class", "agreement", "views_agreement", "softmax", "ml", "components", "note", "made_by", "mask")
_NUMBERS = ("agreement", "views_agreement", "softmax", "ml")
BY_HAND = "by hand"
_HEADINGS = ("scan", "class", "networks agree", "views agree", "ml", "parts", "note")


def trust_rows(name, classes, labels, doubt, spacing, made_by="", mask_digest=""):
    """Say of each class of a volume how far its mask may be trusted.

    Args:
        name (str): Of the volume.
        classes (sequence[str]): Foreground classes.
        labels (dict[str, np.ndarray]): ``(D, H, W)`` uint8 by model, as :meth:`MutualLearner.segment` names them; the
            last is the mask that is written.
        doubt (Doubt): Beside them.
        spacing (sequence[float]): (slice, row, column), mm.
        made_by (str): By which the mask is known as this model's of this scan.
        mask_digest (str): By which the mask's file is known as it was written, see :func:`digest`.

    Returns:
        list[dict]: By :data:`COLUMNS`: ``agreement``, mean Dice of any two networks' labels on the volume's grid;
        ``views_agreement``, of any two views of a network, on the networks'; ``softmax``, mean probability of the class
        where it is the label of the networks' mean; ``ml`` of the mask; ``components``, parts connected by faces before
        any clean-up; ``note``, what a network did not find, or the mask has not; ``made_by`` and ``mask``. NaN where
        there is nothing to compare: one network, one view, or a class that nobody finds; where one of two networks
        finds it, their agreement is 0, and where both find it and the mask has none, what it is.
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
                "mask": mask_digest,
            }
        )
    return rows


def _note(found, voxels):
    missing = [model_label(model) for model, count in found.items() if not count]
    if missing and len(missing) < len(found):
        return f"{' and '.join(missing)} {'finds' if len(missing) == 1 else 'find'} none"
    return "" if voxels else "not found"


def rows_by_hand(name, classes, path, rows=()):
    """Return the rows of a mask that was changed since it was written, or that nothing here wrote.

    Args:
        name (str): Of the scan.
        classes (sequence[str]): Foreground classes.
        path (Path): The mask.
        rows (iterable[dict]): Those of it as it was written, whose ``mask`` is kept: by it the change is seen again.

    Returns:
        list[dict]: By :data:`COLUMNS`, with the note :data:`BY_HAND`; NaN and None where nothing is known of the mask.
    """
    written = {row["class"]: row["mask"] for row in rows}
    unknown = {**dict.fromkeys(_NUMBERS, math.nan), "components": None, "note": BY_HAND}
    made_by = description_of(path) or ""
    known = [{"scan": name, "class": cls, "made_by": made_by, "mask": written.get(cls, "")} for cls in classes]
    return [{**row, **unknown} for row in known]


def digest(content):
    """Return 16 hexadecimal digits by which the bytes of a mask's file are known."""
    return hashlib.sha256(content).hexdigest()[:16]


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
        out (Path): The folder. What ``trust.csv`` says of masks that are still there, and not in ``rows``, stays.
        rows (list[dict]): Filled within the block; see :func:`trust_rows`. Sorted by doubt in the file; an empty field
            where there is nothing to compare.
        name (str): Of the table.
        seconds (float): Between two writings, at most; less where that takes a twentieth of the time.

    Yields:
        callable: To be called when there may be more rows.
    """
    path, written, pause = Path(out, name), time.monotonic(), 0.0

    def write():
        before = read_trust(path) if name == "trust.csv" else []  # now: another process may have written since
        done = {row["scan"] for row in rows}
        mark = functools.cache(lambda scan: _mark(out, scan))
        kept = [r for r in before if r["scan"] not in done and mark(r["scan"]) == r["made_by"]]
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
    return _mark(out, row["scan"]) == row["made_by"]


def _mark(out, scan):
    """Return what a scan's mask says of who made it, perhaps nothing; None where there is no mask."""
    path = mask_file(out, scan)
    return path and (description_of(path) or "")


def _count(cell):
    return int(cell) if cell else None


def read_trust(path):
    """Return the rows of a file that :func:`trust_file` wrote; of any other, none."""
    texts = dict.fromkeys(("scan", "class", "note", "made_by", "mask"), csv_text)
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) not in (COLUMNS, COLUMNS[:-1]):  # the last came later
                return []
            kinds = {**texts, **dict.fromkeys(_NUMBERS, lambda cell: float(cell or "nan")), "components": _count}
            return [{c: kind(row.get(c) or "") for c, kind in kinds.items()} for row in reader]
    except (OSError, ValueError, TypeError):
        return []
