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
def folder_lock(path, what, name=LOCK):
    """Keep a folder to this process while the block runs.

    The lock is the operating system's and ends with the process, however it ends; the empty file that it is held on
    stays, since removing it would let two processes hold two files of one name.

    Args:
        path (str | Path): The folder; made where it is missing.
        what (str): What the process does there, as in "another process is <what> in this folder".
        name (str): File that the lock is held on.

    Raises:
        InputError: Another process, or another block of this one, holds the folder.
        OSError: The folder cannot be made or written to.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / name)
    with naming(path / name):
        try:
            lock.acquire(timeout=0)
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


def _read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:100].strip()
    except OSError:
        return ""
