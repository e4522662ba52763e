"""``cmems compare``."""

import argparse
import signal
import sys

from cmems.cli.common import add_launcher, shell_words, slurm_parameters
from cmems.errors import InputError
from cmems.files import check_target

ABOUT = "Train and test every row of a suite, and report it beside the paper; or compare two runs case by case."
EXAMPLE = "cmems compare paper_table2 --datasets acdc_128 --seeds 0 1 2 --jobs 2\n  cmems compare RUN_A RUN_B"


def add_arguments(parser):
    """Add what the command takes."""
    add_suite(parser)
    parser.add_argument(
        "other",
        nargs="?",
        metavar="RUN",
        help="a second run: the two, in place of a suite, are tested runs' folders or metrics.csv files",
    )
    parser.add_argument("--out", metavar="FILE", help="of two runs: write the table there too, as CSV")
    parser.add_argument(
        "--resume", action="store_true", help="let interrupted runs go on; finished ones are kept anyway"
    )
    add_launcher(parser, "runs")
    parser.add_argument("--list", action="store_true", help="show the suites, or the rows of SUITE, and stop")


def add_suite(parser, also=""):
    """Add what says which runs are meant; ``also`` is what else may be named."""
    parser.add_argument(
        "suite", nargs="?", help=f"{also}a name that `cmems compare --list` shows, or a .py file of rows"
    )
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="ends of the configs' names: acdc_128, …")
    parser.add_argument("--data", metavar="DATA", help="your own, as `cmems prepare` leaves it, not --datasets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="of each row")
    parser.add_argument("--exemplars", nargs="+", metavar="X", help="A (the config's), B, C, or case:slice")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps instead of the configs'; rates stay")
    parser.add_argument("--work-dir", default="work_dirs/compare", help="holds the runs and a report per suite")


def run(args):
    """Run the suite, print its tables; exit 1 where a run failed. Of two runs, print how they differ."""
    if args.other is not None:
        compare_runs(args)
        return
    if args.out is not None:
        raise InputError("--out: expected two runs; a suite's report goes to --work-dir")
    if args.data and args.datasets:
        raise InputError("--data and --datasets: expected one of them")
    if args.list or args.suite is None:
        show(args.suite, args.datasets, args.data is not None)
        if not args.list:
            raise InputError("which suite? Name one of those above, or a .py file that defines rows")
        return
    from cmems.comparison.compare import compare

    # A scheduler ends a command as Ctrl-C does: the runs' processes end too, and --resume goes on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = compare(
        args.suite,
        args.datasets,
        args.seeds,
        args.exemplars,
        args.work_dir,
        args.jobs,
        args.resume,
        args.steps,
        args.launcher,
        slurm_parameters(args),
        say=lambda line: print(line, flush=True),
        data=args.data,
    )
    say_report(report)
    if report["failed"]:
        sys.exit(1)


def compare_runs(args):
    """Print what two runs' scores say case by case."""
    from cmems.comparison.paired import COLUMNS, compare_scores, paired_table
    from cmems.visualization.tables import write_csv

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    own = ("suite", "other", "out")
    idle = [k for k, v in vars(parser.parse_args([])).items() if k not in own and getattr(args, k) != v]
    if idle:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in idle)
        raise InputError(f"{options}: for a suite; {args.suite} and {args.other} are compared as they were tested")
    if args.out:
        check_target("--out", args.out, ",".join(COLUMNS))
    rows, models, notes = compare_scores(args.suite, args.other)
    print("\n".join([paired_table(rows, models), *notes]))
    if args.out:
        write_csv(args.out, rows, COLUMNS)
        print(f"{args.out}: the table as CSV, every figure in full")
    else:
        then = shell_words("cmems", "compare", args.suite, args.other, "--out", "pairs.csv")
        print(f"next: {then} writes it as CSV")


def say_report(report):
    """Print a report's tables and where its files are."""
    print(report["text"])
    page = next(path for path in report["files"] if path.suffix == ".html")
    print("\n".join(f"  {path}" for path in report["files"] if path != page))
    print(f"{page}: all of it on one page; next: open it in a browser")


def show(name, datasets, own=False):
    """Print the suites, or a suite's rows with what is missing for them; ``own``: on one's own data."""
    from cmems.comparison.suites import SUITES, get_suite

    if name is None:
        for suite in SUITES.values():
            print(f"{suite.name:20} {len(suite.rows):2} rows  {suite.title} (on {', '.join(suite.datasets)})")
        return
    from cmems.comparison.plan import TEMPLATE, missing_configs

    suite = get_suite(name)
    print(suite.title)
    for dataset in [TEMPLATE] if own else datasets or suite.datasets:
        missing = missing_configs(suite, [dataset])
        for row in suite.rows:
            path = row.config.format(dataset=dataset)
            print(f"  {row.label:28} {path}{'  (missing)' if path in missing else ''}")
