"""How fast a raw folder is prepared, with one process and with one per core, and how much memory that takes."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prettytable import PrettyTable

from cmems.datasets.prepared import PreparedDataset


def main():
    """Prepare the folder into a new place each time and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", help="acdc, synapse, …")
    parser.add_argument("raw", help="the raw folder")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", nargs="+", type=int, default=sorted({1, os.cpu_count()}))
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    read = sum(f.stat().st_size for f in Path(args.raw).rglob("*") if f.is_file()) / 1e6
    table, report = PrettyTable(["processes", "s", "volumes/s", "MB read/s", "peak memory of a process, MB"]), []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for workers in args.workers:
            out, began = Path(folder, str(workers)), time.perf_counter()
            command = [sys.executable, "tools/prepare_data.py", args.layout, args.raw, out, "--workers", workers]
            subprocess.run([*map(str, command), "--size", str(args.size)], check=True, stdout=subprocess.DEVNULL)
            seconds, volumes = time.perf_counter() - began, len(PreparedDataset(out).manifest["cases"])
            # Of the largest process so far: with the fewest processes first, that of the run or of one before it.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            report.append(dict(workers=workers, seconds=seconds, volumes=volumes, peak_mb=peak))
            table.add_row(
                [workers, f"{seconds:.1f}", f"{volumes / seconds:.1f}", f"{read / seconds:.1f}", f"{peak:.0f}"]
            )
    print(f"{args.layout}, {read:.0f} MB raw, {args.size}x{args.size}; {os.cpu_count()} cores, {platform.machine()}")
    print(table)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
