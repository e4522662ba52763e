"""Comparing configs: every run of a suite trained and tested as the tools do, then one report.

All state is in files: a run's folder is named after what its config, its own modules and its data hold, so that suites
share runs, finished ones are skipped, killed ones go on, and one that changed is another run.
"""

import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cmems.apis.places import spare_data_set
from cmems.apis.record import read_record
from cmems.comparison.entries import read_run
from cmems.comparison.plan import plan_own, plan_runs
from cmems.comparison.report import write_report
from cmems.comparison.suites import get_suite
from cmems.engine.checkpoint import LAST, PREVIOUS
from cmems.errors import InputError, warn_once
from cmems.files import naming, whole_file
from cmems.launching import launch, run_command

try:
    import fcntl
except ImportError:  # where there is none, two commands must not share a work directory
    fcntl = None

SUITE = "suite.json"  # beside a report: what it is of


def compare(
    suite,
    datasets=None,
    seeds=(0,),
    exemplars=None,
    work_dir="work_dirs/compare",
    jobs=1,
    resume=False,
    steps=None,
    launcher="local",
    slurm=None,
    say=print,
    data=None,
):
    """Run a suite and report it.

    Args:
        suite (str | dict | Suite): What :func:`cmems.comparison.suites.get_suite` takes.
        datasets (sequence[str] | None): Fill ``{dataset}`` of the rows' configs. Default: the suite's.
        seeds (sequence[int]): Of each row.
        exemplars (sequence[str] | None): Letters or ``case:slice``. Default: the suite's.
        work_dir (str): Holds ``runs`` and one folder per suite and data with its report.
        jobs (int): Runs at a time.
        resume (bool): Let interrupted runs go on.
        steps (int | None): Training steps instead of the configs'.
        launcher (str): ``local`` or ``slurm``.
        slurm (dict | None): Parameters of submitit's executor.
        say (callable): Gets lines for people.
        data (str | None): Compare on this prepared data set of one's own, in place of ``datasets``.

    Returns:
        dict: What :func:`cmems.comparison.report.write_report` makes, with ``failed``, the number of failed runs.

    Raises:
        InputError: A config, or data of a run that is to do, is missing or wrong, or runs were interrupted and
            ``resume`` is not set.
    """
    if jobs < 1:
        raise InputError(f"--jobs: expected 1 or more, got {jobs}")
    spare_data_set(work_dir, "--work-dir ", "the runs")
    given, (suite, plan) = suite, _planned(suite, datasets, seeds, exemplars, work_dir, steps, data)
    for line in suite.notes if data else ():
        say(line)
    runs = list({run["folder"]: run for entry in plan for run in entry["runs"]}.values())
    waiting = [run for run in runs if not is_done(run)]
    again = [run for run in waiting if any(Path(run["folder"]).glob("test_*/metrics.json"))]
    halves = [
        run["folder"]
        for run in waiting
        if run not in again and any(Path(run["folder"], name).is_file() for name in (LAST, PREVIOUS))
    ]
    if halves and not resume:
        raise InputError(
            f"{len(halves)} run(s) were interrupted, e.g. {halves[0]}: add --resume to go on from their last.pth, or "
            "remove their folders"
        )
    unfit = dict.fromkeys(problem for run in waiting for problem in run["unfit"])
    if unfit:
        raise InputError(list(unfit))
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    say(f"{suite.name}: {len(runs)} runs, {len(runs) - len(waiting)} of them done")
    if again:
        say(f"{len(again)} run(s) are tested again: their test was of another split, of other weights or voxel sizes")
    failures, folder = {}, _report_folder(work_dir, suite, plan, given, data)
    interrupted = True
    try:
        for done, (run, failure, seconds) in enumerate(launch(_attempt, waiting, jobs, folder, launcher, slurm), 1):
            if failure:
                failures[run["folder"]] = failure
            outcome = f"failed: {failure}" if failure else "done"
            say(f"{done}/{len(waiting)} {run['name']}: {outcome} ({seconds:.0f} s)")
        interrupted = False
    finally:
        if not interrupted or any(map(is_done, runs)):
            report = write_report(suite, plan, failures, folder)
    return dict(report, failed=len(failures))


def report(suite, datasets=None, seeds=(0,), exemplars=None, work_dir="work_dirs/compare", steps=None, data=None):
    """Report a suite's runs that are there; nothing is trained.

    Args:
        suite, datasets, seeds, exemplars, work_dir, steps, data: As for :func:`compare`.

    Returns:
        dict: What :func:`cmems.comparison.report.write_report` makes.

    Raises:
        InputError: A config is missing or wrong, or no run is done.
    """
    given, (suite, plan) = suite, _planned(suite, datasets, seeds, exemplars, work_dir, steps, data)
    if not any(is_done(run) for entry in plan for run in entry["runs"]):
        raise InputError(
            f"{work_dir}: no run of suite {suite.name} is done there; cmems compare {suite.name} makes them"
        )
    return write_report(suite, plan, {}, _report_folder(work_dir, suite, plan, given, data))


def _report_folder(work_dir, suite, plan, given, data):
    """Make the folder of a suite's report: one of its own where that of its name is of other data or another file."""
    datasets = list(dict.fromkeys(entry["dataset"] for entry in plan))
    file = isinstance(given, str) and given.endswith(".py")
    known = dict(
        suite=str(Path(given).resolve()) if file else suite.name,
        data=str(Path(data).resolve()) if data else None,
        datasets=datasets,
    )
    text = json.dumps(known, indent=1) + "\n"
    named = re.sub(r"[^\w.-]+", "-", "_".join(datasets))
    for end in ("", f"-{named}", f"-{sha256(text.encode()).hexdigest()[:8]}"):
        folder = Path(work_dir, f"{suite.name}{end}")
        held = folder / SUITE
        if not held.is_file() or held.read_text(encoding="utf-8", errors="replace") == text:
            break
    with whole_file(held) as part:
        part.write_text(text, encoding="utf-8")
    return folder


def _planned(suite, datasets, seeds, exemplars, work_dir, steps, data):
    """Return the suite and its plan."""
    suite = get_suite(suite)
    if data and datasets:
        raise InputError("--data and --datasets: expected one of them")
    if data:
        return plan_own(suite, data, seeds, list(exemplars or ["A"]), work_dir, steps)
    datasets, exemplars = list(datasets or suite.datasets), list(exemplars or suite.exemplars)
    return suite, plan_runs(suite, datasets, seeds, exemplars, work_dir, steps)


def is_done(run):
    """Tell whether a run's metrics are there."""
    return read_run(run) is not None


def _attempt(run, threads, stop):
    with naming(run["folder"]):
        return execute(run, threads, stop)


def execute(run, threads=None, stop=None):
    """Train and test one run, with the tools, from wherever it got to.

    Args:
        run (dict): An element of :func:`plan_runs`.
        threads (int | None): ``OMP_NUM_THREADS`` where the environment sets none. Default: the CPU cores there are.
        stop (threading.Event | None): Ends the run's processes when set.

    Returns:
        str | None: Why the run failed.
    """
    folder, stop = Path(run["folder"]), stop or threading.Event()
    config = folder / "config" / f"{folder.parent.name}.py"  # the runner writes its own of that name into the folder
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, stop) as lock:
        if is_done(run):
            return None
        with whole_file(config) as part:
            part.write_text(run["config"], encoding="utf-8")
        record = read_record(folder)
        if not (record and record.get("finished", True)):
            words = ("train", config, "--work-dir", folder, "--seed", run["seed"], "--resume")
            failure = run_command(words, folder / "train.txt", threads, lock, stop)
            if failure:
                return failure
        split = run["split"]
        words = ("evaluate", config, folder / "last.pth", "--split", split)
        failure = run_command(words, folder / "test.txt", threads, lock, stop)
        if failure is None and not is_done(run):
            failure = f"no metrics in {folder / f'test_{split}'}"
        return failure


@contextmanager
def _alone(folder, stop):
    """Keep a folder to one command, and to the tool that it started: whoever comes second waits."""
    if fcntl is None:
        yield None
        return
    with open(folder / ".compare.lock", "w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                warn_once(f"{folder}: another command makes this run, or tests it; waiting for its end")
                if stop.wait(0.5):
                    raise KeyboardInterrupt from None
        yield handle.fileno()
