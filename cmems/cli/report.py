"""``cmems report``."""

from cmems.cli.compare import add_suite, say_report
from cmems.errors import InputError

ABOUT = "Write the report of a suite's runs that are there; nothing is trained."
EXAMPLE = "cmems report paper_table2 --datasets acdc_128"


def add_arguments(parser):
    """Add what the command takes."""
    add_suite(parser)


def run(args):
    """Write the report and print its tables."""
    from cmems.comparison.compare import report

    if args.suite is None:
        raise InputError("which suite? `cmems compare --list` shows them")
    say_report(report(args.suite, args.datasets, args.seeds, args.exemplars, args.work_dir, args.steps, args.data))
