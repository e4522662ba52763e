"""Numbered jobs in forked processes, each under a limit of memory and of time."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.connection import wait

SECONDS = 10  # of a job's CPU
WALL = 600  # seconds after which a job is held to wait for what never comes; the machine may do other work
JOBS = 50  # of a process, before another takes its place: memory that is kept for a next step falls into pieces
_FORK = multiprocessing.get_context("fork")


def run(jobs, act, workers=1, room=4 << 30):
    """Yield ``(job, outcome, text)`` as jobs end.

    Args:
        jobs (iterable): Of anything that a pipe carries.
        act (callable): Takes a job, returns ``(outcome, text)``.
        workers (int): Processes.
        room (int): Bytes of address space that a process may take beyond what it starts with.
    """
    jobs, busy = iter(jobs), {}
    todo = next(jobs, None)
    idle = []
    while todo is not None or busy:
        while todo is not None and len(busy) < workers:
            worker = idle.pop() if idle else _Worker(act, room)
            worker.start(todo)
            busy[worker.pipe] = worker
            todo = next(jobs, None)
        for pipe in wait(list(busy), timeout=1):
            worker = busy.pop(pipe)
            yield worker.job, *worker.result()
            if worker.alive():
                idle.append(worker)
        for worker in [w for w in busy.values() if time.monotonic() > w.until]:
            busy.pop(worker.pipe)
            yield worker.job, *worker.result(hung=True)
    for worker in idle:
        worker.end()


class _Worker:
    def __init__(self, act, room):
        self.pipe, other = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(other, act, room), daemon=True)
        self.process.start()
        other.close()
        self.jobs = 0

    def start(self, job):
        self.job, self.until, self.jobs = job, time.monotonic() + WALL, self.jobs + 1
        self.pipe.send(job)

    def result(self, hung=False):
        try:
            if hung:
                raise EOFError
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            if hung:
                self.process.kill()
            self.process.join()
            code = -(self.process.exitcode or 0)
            if hung or code == signal.SIGPROF:
                return "hang", f"more than {SECONDS} s"
            return "crash", f"ended by signal {code}" if code > 0 else f"ended with {-code}"

    def alive(self):
        if self.process.is_alive() and self.jobs < JOBS:
            return True
        self.end()
        return False

    def end(self):
        with contextlib.suppress(OSError):
            self.pipe.send(None)  # processes that were forked later hold this pipe too, so that closing tells nothing
        self.pipe.close()
        self.process.join(5)


def _serve(pipe, act, room):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
    gc.freeze()  # torch's many objects are not looked at again
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            os._exit(0)
        if job is None:
            os._exit(0)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found = act(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(found)
