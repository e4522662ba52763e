"""What CMEMS gains over its exemplar alone: both, same budget, several seeds, on a phantom's test split."""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from prettytable import PrettyTable

METHODS = ("unet", "cmems", "fullysup")


def main():
    """Train and test every method and seed; print means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="phantom_cardiac", help="suffix of the configs: phantom_cardiac, acdc_128, …")
    parser.add_argument("--methods", nargs="+", default=list(METHODS[:2]), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--work-dir", default="work_dirs/one_label")
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    scores = {m: [measure(m, s, args) for s in args.seeds] for m in args.methods}
    table = PrettyTable(["method", "DSC mean", *[f"seed {s}" for s in args.seeds]])
    for method, values in scores.items():
        table.add_row([method, f"{statistics.mean(values):.3f}", *[f"{v:.3f}" for v in values]])
    print(f"{args.data}, split {args.split}, last.pth, ensemble where there is one")
    print(table)
    if args.out:
        Path(args.out).write_text(json.dumps(dict(vars(args), scores=scores), indent=1))


def measure(method, seed, args):
    """Return the mean DSC of one run's last checkpoint; a finished run is not repeated."""
    config, work = f"configs/{method}/unet_{args.data}.py", Path(args.work_dir, args.data, method, str(seed))
    report = work / f"test_{args.split}" / "metrics.json"
    if not report.is_file():
        run("tools/train.py", config, "--work-dir", work, "--seed", seed, "--resume")
        run("tools/test.py", config, work / "last.pth", "--split", args.split)
    summary = json.loads(report.read_text())["summary"]["DSC"]
    return summary["ensemble" if "ensemble" in summary else "network_1"]["mean"]["mean"]


def run(*words):
    """Run one of the tools."""
    subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
