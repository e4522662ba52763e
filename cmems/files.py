"""Files that are whole or not there."""

import errno
import hashlib
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from cmems.errors import InputError

NAME_BYTES = 255  # of a file's name, on nearly every system


def need_file(path):
    """Refuse what is there and is neither file nor folder: one may wait for ever for a pipe, and a device never ends.

    Raises:
        InputError: It is a pipe, a socket or a device.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: not a file, but a pipe, a socket or a device")


@contextmanager
def naming(path):
    """Name a path in what the system refuses in the block, where nothing names one, as for a full disk.

    Raises:
        OSError: With a ``filename``.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        # Libraries that write for themselves raise a text alone.
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def check_target(option, path, begins):
    """Find what a file cannot be written over, before the work that fills it.

    Args:
        option (str): For messages.
        path (str | Path): The file.
        begins (str): How its text begins, and that of an earlier one, which alone is replaced.

    Raises:
        InputError: There is a folder, or a file that is not an earlier one.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; expected the name of a file")
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as handle:
            if handle.read(len(begins)) != begins.encode():
                raise InputError(f"{option} {path}: is there, and is not what this command writes; name another file")


@contextmanager
def whole_file(path):
    """Give a path to write to aside; when the block ends well, flush the file and give it its final name.

    Args:
        path (str | Path): Final name; missing folders are made.

    Raises:
        OSError: What the system refused; it names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{_short(path.name)}.{os.getpid()}.part")
    try:
        with naming(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            yield part
            with open(part, "r+b") as handle:  # as Windows flushes no other
                os.fsync(handle.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _short(name):
    """Return a name to which more can be added; a long one gives its end alone, which tells formats apart."""
    raw = os.fsencode(name)
    return name if len(raw) <= 100 else hashlib.sha256(raw).hexdigest()[:16] + name[-20:]


def remove_parts(folder, seconds=60):
    """Remove what killed processes had begun to write by :func:`whole_file` in a folder and those in it.

    Args:
        folder (str | Path): Perhaps shared by machines, so that which processes live is not known.
        seconds (float): How long nothing was written to a file that goes.
    """
    folder = Path(folder)
    for part in (*folder.glob(".*.*[0-9].part"), *folder.glob("*/.*.*[0-9].part")):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > seconds and part.is_file():
                part.unlink()
