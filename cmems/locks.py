"""One writer per folder."""

import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cmems.errors import InputError
from cmems.files import naming

LOCK = ".lock"


@contextmanager
def folder_lock(path, what, name=LOCK, seconds=0):
    """Keep a folder to this process while the block runs.

    The lock is the operating system's and ends with the process, however it ends; the empty file that it is held on
    stays, since removing it would let two processes hold two files of one name.

    Args:
        path (str | Path): The folder; made where it is missing.
        what (str): What the process does there, as in "another process is <what> in this folder".
        name (str): File that the lock is held on.
        seconds (float): To wait for it.

    Raises:
        InputError: Another process, or another block of this one, holds the folder.
        OSError: The folder cannot be made or written to.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / name)
    with naming(path / name):
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            holder = f" ({told})" if (told := _read(path / name)) else ""
            raise InputError(
                f"{path}: another process is {what} in this folder{holder}; wait for it to end, or name another folder"
            ) from None
    try:
        with suppress(OSError):  # a note for people; Windows lets nobody write to a locked file
            (path / name).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            os.truncate(path / name, 0)
        lock.release()


@contextmanager
def part_lock(path, what, number, parts):
    """Keep a folder to this process, or to one of a job's parts, which share it, while the block runs.

    Args:
        path, what: See :func:`folder_lock`.
        number, parts (int): It is part ``number`` of so many; the only one has the folder for itself.

    Raises:
        InputError: Another process holds the folder, this very part of it, or a part of another job.
        OSError: The folder cannot be made or written to.
    """
    path, own, ending = Path(path), LOCK, ""
    if parts > 1:
        own, ending = f"{LOCK}_{number}_of_{parts}", f"_of_{parts}"
    with folder_lock(path, what, own):
        # Each holds its own, then looks at the others': of two that begin at once, one at least sees the other.
        for other in {LOCK, *(each.name for each in path.glob(f"{LOCK}_*_of_*"))} - {own}:
            if (path / other).is_file() and not (ending and other.endswith(ending)):
                with folder_lock(path, what, other, seconds=2):  # which other parts look at too, for a moment
                    pass
        yield


def _read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100].strip()
    except OSError:
        return ""
