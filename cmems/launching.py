"""Commands in processes of their own, some at a time here, or as jobs of Slurm."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial

from cmems.errors import InputError

LAUNCHERS = ("local", "slurm")


def launch(act, items, jobs, folder, launcher="local", parameters=None):
    """Call ``act(item, threads, stop)`` for every item, in threads here or in jobs of one Slurm array.

    Args:
        act (callable): A function of a module, which starts a command, see :func:`run_command`. It returns why it
            failed, or None; an InputError or OSError is such a reason too. ``threads`` is its share of the CPU cores,
            and ``stop`` the event that asks it to end; both are None on Slurm.
        items (sequence): What to call it with.
        jobs (int): How many at a time.
        folder (Path): Where submitit writes.
        launcher (str): One of :data:`LAUNCHERS`.
        parameters (dict | None): Of submitit's executor.

    Yields:
        tuple: (item, why it failed or None, seconds), as they end here, in order on Slurm.

    Raises:
        InputError: submitit is missing or does not take the parameters.
    """
    timed = partial(_timed, act)
    return _slurm(timed, items, jobs, folder, parameters or {}) if launcher == "slurm" else _local(timed, items, jobs)


def _timed(act, item, threads=None, stop=None):
    began = time.monotonic()
    try:
        failure = act(item, threads, stop)
    except (InputError, OSError) as error:
        failure = str(error)
    return failure, time.monotonic() - began


def _local(act, items, jobs):
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(act, item, max(1, cores() // jobs), stop): item for item in items}
        pending = set(started)
        try:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for one in ended:
                    yield (started[one], *one.result())
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _slurm(act, items, jobs, folder, parameters):
    try:
        import submitit
    except ImportError:
        raise InputError("--launcher slurm needs submitit: pip install submitit") from None
    parameters = dict(parameters)
    cluster = parameters.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=str(folder / "slurm"), cluster=cluster)
        if cluster == "slurm":
            parameters.setdefault("slurm_array_parallelism", jobs)
        executor.update_parameters(**parameters)
        submitted = executor.map_array(act, items) if items else []
    except (NameError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"--launcher slurm: {error}") from error
    for item, job in zip(items, submitted, strict=True):
        try:
            outcome = job.result()
        except Exception as error:  # a lost node, a time limit: the job's, not ours
            lines = str(error).strip().splitlines() or [type(error).__name__]
            outcome = lines[-1], 0.0
        yield (item, *outcome)


def run_command(words, log, threads=None, lock=None, stop=None):
    """Run ``cmems`` with a command line, its output to the end of a file.

    Args:
        words (sequence): The command line.
        log (Path): The file.
        threads (int | None): ``OMP_NUM_THREADS`` where the environment sets none. Default: the CPU cores there are.
        lock (int | None): A file that the command keeps open, where files can be inherited.
        stop (threading.Event | None): Ends the command when set.

    Returns:
        str | None: Why it failed: the last line that it wrote, and where the others are.
    """
    command = [sys.executable, "-m", "cmems", *map(str, words)]
    environment, stop = {"OMP_NUM_THREADS": str(threads or cores()), **os.environ}, stop or threading.Event()
    with open(log, "ab") as out:
        start = out.tell()
        asked = False
        inherited = (lock,) if lock is not None and os.name == "posix" else ()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, pass_fds=inherited)
        while True:
            try:
                code = process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set() and not asked:
                    process.terminate()  # once: a training ends its step first, unless it is asked again
                    asked = True
    if code == 0:
        return None
    with open(log, "rb") as written:
        written.seek(start)
        lines = [line.strip() for line in written.read().decode(errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"{words[0]} ended by signal {-code}; see {log}"
    return f"{lines[-1] if lines else f'exit code {code}'}; see {log}"


def cores():
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
