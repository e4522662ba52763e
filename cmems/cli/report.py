"""``cmems report``."""

from pathlib import Path

from cmems.cli.common import add_options, cfg_options
from cmems.cli.compare import add_suite, say_report
from cmems.errors import InputError

ABOUT = "Write the page of a run, or the report of a suite's runs that are there; nothing is trained."
EXAMPLE = "cmems report work_dirs/cmems_plus/DATA"
# What each of the two takes alone.
_OF_SUITES = ("datasets", "data", "seeds", "exemplars", "work_dir", "steps")
_OF_RUNS = ("out", "split", "checkpoint", "metrics_preset", "cases", "megabytes", "cfg_options")


def add_arguments(parser):
    """Add what the command takes."""
    add_suite(parser, also="a run's folder, which `cmems train` or `cmems rounds` wrote; or a suite, ")
    of_runs = parser.add_argument_group("of a run")
    of_runs.add_argument("--out", help="the page; default report.html in the run's folder")
    of_runs.add_argument("--split", help="train, val or test; default test, or the next of val, train that has cases")
    of_runs.add_argument("--checkpoint", help="default best.pth, or last.pth of rounds or where there is no other")
    of_runs.add_argument("--metrics-preset", help="transunet, ssl4mis, nan or strict; default the config's")
    of_runs.add_argument("--cases", type=int, default=4, metavar="N", help="worst, and best, to page through")
    of_runs.add_argument("--megabytes", type=float, default=15, metavar="N", help="of the page, at most")
    add_options(of_runs)
    parser.set_defaults(defaults={name: parser.get_default(name) for name in (*_OF_SUITES, *_OF_RUNS)})


def run(args):
    """Write the page and name it; or write the report and print its tables."""
    from cmems.apis.run_report import is_run, report_run
    from cmems.comparison.compare import report
    from cmems.comparison.suites import SUITES
    from cmems.visualization.progress import counting, say

    if args.suite is None:
        raise InputError("which run, or suite? Name a run's folder, or a suite that `cmems compare --list` shows")
    a_run = is_run(args.suite)
    if Path(args.suite).is_dir() and not a_run and args.suite not in SUITES:
        raise InputError(f"{args.suite}: a folder without run.json, which a training writes: no run")
    odd = [name for name in (_OF_SUITES if a_run else _OF_RUNS) if getattr(args, name) != args.defaults[name]]
    if odd:
        kinds = ("a run", "a suite") if a_run else ("a suite", "a run")
        options = ", ".join(f"--{name.replace('_', '-')}" for name in odd)
        raise InputError(f"{args.suite} is {kinds[0]}; {options}: of {kinds[1]} alone")
    if not a_run:
        say_report(report(args.suite, args.datasets, args.seeds, args.exemplars, args.work_dir, args.steps, args.data))
        return
    with counting("measuring") as progress:
        page, left = report_run(
            args.suite,
            args.out,
            args.split,
            args.checkpoint,
            args.metrics_preset,
            args.cases,
            args.megabytes,
            cfg_options(args),
            progress,
        )
    for sentence in left:
        say(f"left out: {sentence}")
    say(f"{page}: the run's page, {page.stat().st_size / 1e6:.1f} MB; open it in a browser")
