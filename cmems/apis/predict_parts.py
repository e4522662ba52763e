"""Segmenting a folder of scans in several processes, or jobs of Slurm."""

import re
from itertools import chain
from pathlib import Path

from cmems.apis.predict import MENDED, Masks
from cmems.apis.predict_files import find_scans
from cmems.apis.trust import BY_HAND, part_name, read_trust, tells, trust_file
from cmems.datasets.readers.scans import mask_file
from cmems.errors import InputError, SomeUnusable, warn_once
from cmems.files import remove_parts
from cmems.launching import launch, run_command
from cmems.locks import part_lock


def predict_in_parts(words, segmenter, scans, out, jobs, launcher="local", parameters=None, say=print):
    """Run ``cmems predict`` on parts of a folder side by side, then join their ``trust.csv``.

    What was interrupted, or a part that was killed, is gone on with by the same command, or by one without parts.

    Args:
        words (sequence): The command line, from ``predict`` on, without what says how many parts.
        segmenter (Segmenter): Its model; not used for segmenting.
        scans, out (str): See :func:`cmems.apis.predict`.
        jobs (int): Parts, all at a time; there are no more than scans.
        launcher, parameters: See :func:`cmems.launching.launch`.
        say (callable): Gets a line for every part that ends.

    Returns:
        Masks: What was written; the parts' warnings are printed.

    Raises:
        SomeUnusable: As of :func:`cmems.apis.predict`, of all parts together, after what there is was joined; or a part
            ended before its end.
    """
    if jobs < 1:
        raise InputError(f"--jobs: expected 1 or more, got {jobs}")
    out = Path(out)
    names, _ = find_scans(Path(scans), out, segmenter.preparation.channel)
    jobs = min(jobs, len(names)) or 1
    logs = out / "parts"
    logs.mkdir(parents=True, exist_ok=True)
    items = [dict(words=[*words, "--part", f"{k}/{jobs}"], log=logs / f"{k}_of_{jobs}.txt") for k in range(1, jobs + 1)]
    for item in items:
        item["log"].unlink(missing_ok=True)
    problems, warnings = [], []
    for done, (item, failure, seconds) in enumerate(launch(_part, items, jobs, logs, launcher, parameters), 1):
        told, wrong = _read(item["log"])
        warnings += told
        problems += wrong or ([f"part {item['words'][-1]}: {failure}"] if failure else [])
        say(f"{done}/{jobs} part {item['words'][-1]}: {'ended with errors' if failure else 'done'} ({seconds:.0f} s)")
    rows = chain(*(read_trust(out / part_name(k, jobs)) for k in range(1, jobs + 1)))
    rows = list({(row["scan"], row["class"]): row for row in rows if tells(row, out)}.values())
    with part_lock(out, "labelling scans", 1, 1), trust_file(out, rows):
        pass
    for line in warnings:
        if not line.startswith(MENDED):  # of all parts together, by who prints the masks
            warn_once(line)
    mended = sorted({row["scan"] for row in rows if row["note"] == BY_HAND})
    made = {row["scan"] for row in rows}
    paths = {name: mask_file(out, name) for name in names if name in made}
    masks = Masks(paths, segmenter.classes, segmenter.whose, {}, {}, rows, mended=mended)
    if problems:
        raise SomeUnusable(list(dict.fromkeys(problems)), masks)
    for path in [*logs.glob("*_of_*.txt"), *out.glob(part_name("*", "*"))]:
        path.unlink()
    if not any(logs.iterdir()):
        logs.rmdir()
    remove_parts(out)
    return masks


def _part(item, threads, stop):
    return run_command(item["words"], item["log"], threads, stop=stop)


def _read(log):
    """Return the warnings and the problems that a part's output ends with."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    warnings = re.findall(r"^warning: (.*)", text, re.MULTILINE)
    *_, said = text.rpartition("\nerror: ") if "\nerror: " in text else ("", text.removeprefix("error: "))
    if said == text:
        return warnings, []
    problems = re.findall(r"^  - (.*)", said, re.MULTILINE)
    return warnings, problems or said.strip().splitlines()[:1]
