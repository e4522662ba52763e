"""How good are the labels that a propagation carries? Labels of other slices are read here, for measuring alone.

Prints, for each exemplar, the slices reached, by where they are: the exemplar's own stack, other scans of the patient,
others. DSC is of all their pixels together, a class at a time, unknown pixels left out; "labels in place" are the
exemplar's, copied as they are to the same slices.
"""

import argparse
import ast
import re
import time

import numpy as np
from prettytable import PrettyTable

from cmems.datasets.prepared import PreparedDataset
from cmems.registry import PROPAGATIONS


def main():
    """Carry, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", help="a prepared data set, every training slice labelled")
    parser.add_argument("exemplars", nargs="+", metavar="CASE:SLICE")
    parser.add_argument("--propagation", default="dict(type='FlowPropagation')", help="as in a config, a literal")
    parser.add_argument("--patient", default=r"patient\d+|.+", help="what of a case's name names the patient")
    args = parser.parse_args()
    data = PreparedDataset(args.prepared)
    carry = PROPAGATIONS.build(_literal(args.propagation))
    stacks = {case: data.rows(case) for case in data.cases("train")}
    table = PrettyTable(["exemplar", "slices", "scans", "unknown", *data.classes, "DSC", "labels in place", "seconds"])
    for case, index in (each.split(":") for each in args.exemplars):
        row, began = data.row(case, int(index)), time.perf_counter()
        given = data.train_label(row)
        found = carry(data.train_images(), list(stacks.values()), {row: given})
        seconds = time.perf_counter() - began
        case_of = {r: name for name, rows in stacks.items() for r in rows if r in found}
        person = re.match(args.patient, case)[0]
        where = {"own stack": [], "same patient": [], "others": []}
        for r, name in case_of.items():
            same = re.match(args.patient, name)[0] == person
            where["own stack" if name == case else "same patient" if same else "others"].append(r)
        for kind, rows in {**where, "all": list(case_of)}.items():
            if rows:
                cells = _measured(data, np.stack([found[r] for r in rows]), given, rows)
                scans = len({case_of[r] for r in rows})
                seconds_shown = f"{seconds:.1f}" if kind == "all" else ""
                table.add_row([f"{case}:{index}, {kind}", len(rows), scans, *cells, seconds_shown])
    print(table)


def _literal(text):
    call = ast.parse(text, mode="eval").body
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords}


def _measured(data, found, given, rows):
    """Return the share of unknown pixels, the DSC of each class, their mean, and that of labels left in place."""
    true, known = np.stack([data.train_label(r) for r in rows]), found != 255
    each = [_dice(found == k, (true == k) & known) for k in range(1, data.num_classes)]
    still = [_dice(np.broadcast_to(given == k, true.shape), true == k) for k in range(1, data.num_classes)]
    return [
        f"{1 - known.mean():.0%}",
        *(f"{d:.2f}" for d in each),
        f"{np.nanmean(each):.3f}",
        f"{np.nanmean(still):.3f}",
    ]


def _dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else np.nan


if __name__ == "__main__":
    main()
