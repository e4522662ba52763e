"""What the numbers in a mask mean, as viewers and other tools write it down."""

import csv
import json
import re
from pathlib import Path

from cmems.datasets.names import each_once
from cmems.datasets.readers.files import reading
from cmems.errors import InputError

_KIND = "a file of label names: ITK-SNAP's, 3D Slicer's colour table, CSV of number and name, or JSON"
_SNAP = re.compile(r'\s*(\d+)\s[\s\d.+eE-]*"(.*)"\s*')
_TABLE = re.compile(r"\s*(\d+)\s+(\S+)(?:\s+[\d.]+){3,4}\s*")
_NUMBERS = ("labelvalue", "label", "value", "number", "id", "index", "integer")
_NAMES = ("name", "labelname", "class", "segment", "structure")


def read_label_names(path):
    """Read the names of labels.

    Args:
        path (str | Path): ITK-SNAP's label descriptions; a colour table (``.ctbl``) of 3D Slicer; a CSV or TSV of a
            number and a name a line, headings or not; JSON of names and numbers, either way round, or nnU-Net's
            ``dataset.json``.

    Returns:
        dict[int, str]: Names by number, without 0 and without what is called background.

    Raises:
        InputError: It is none of these, or gives a number or a name twice.
    """
    path = Path(path)
    with reading(path, _KIND):
        if path.stat().st_size > 1 << 20:
            raise InputError(f"{path}: expected {_KIND}, got {path.stat().st_size:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        pairs = _from_json(text) if text.lstrip()[:1] in ("{", "[") else _from_lines(text)
    if not pairs:
        raise InputError(f"{path}: expected {_KIND}, got no number with a name")
    found = {}
    for number, name in pairs:
        name = name.strip()
        if number == 0 or name.casefold() in ("", "background", "clear label"):
            continue
        if number in found or plain_name(name) in map(plain_name, found.values()):
            raise InputError(
                f"{path}: expected each number and each name once, whatever its capitals and underscores, got {number} "
                f"{name!r} again"
            )
        found[number] = name
    return dict(sorted(found.items()))


def plain_name(name):
    """Return a name as it is compared: capitals do not count, and underscores, as colour tables have, are spaces."""
    return " ".join(name.casefold().replace("_", " ").split())


def _from_json(text):
    held = json.loads(text, object_pairs_hook=each_once)
    held = held.get("labels", held)
    if all(isinstance(value, str) for value in held.values()):
        return [(int(key), value) for key, value in held.items()]
    return [(_number(value), key) for key, value in held.items()]


def _number(value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a number, got {value!r}")
    return value


def _from_lines(text):
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all(match := [_SNAP.fullmatch(line) for line in lines]):
        return [(int(m[1]), m[2]) for m in match]
    if all(match := [_TABLE.fullmatch(line) for line in lines]):
        return [(int(m[1]), m[2]) for m in match]
    rows = list(csv.reader(lines, csv.Sniffer().sniff(lines[0], ",;\t")))
    headings = [cell.strip().casefold().replace("_", "").replace(" ", "") for cell in rows[0]]
    number = next((headings.index(h) for h in _NUMBERS if h in headings), None)
    name = next((headings.index(h) for h in _NAMES if h in headings), None)
    if number is None or name is None:
        (number, name), headings = (0, 1) if rows[0][0].strip().isdecimal() else (1, 0), None
        rows = [None, *rows]
    return [(int(row[number]), row[name]) for row in rows[1:]]
