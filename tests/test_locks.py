"""One writer per folder."""

import errno
import os
import subprocess
import sys

import pytest

from cmems.errors import InputError
from cmems.locks import folder_lock

HOLD = """
import sys
from cmems.locks import folder_lock
with folder_lock(sys.argv[1], "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_refused_while_it_is_held_and_free_afterwards(tmp_path):
    with folder_lock(tmp_path / "new", "preparing"):
        with (
            pytest.raises(InputError, match=rf"new: another process is preparing .*process {os.getpid()} on"),
            folder_lock(tmp_path / "new", "preparing"),
        ):
            pass
        with folder_lock(tmp_path / "other", "preparing"):
            pass
    with folder_lock(tmp_path / "new", "preparing"):
        pass


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"another process is training .*process {holder.pid} "),
            folder_lock(tmp_path, "training"),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with folder_lock(tmp_path, "training"):
        pass


def test_a_disk_that_refuses_the_lock_is_named_with_it(tmp_path, monkeypatch):
    def refuse(lock, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmems.locks.FileLock.acquire", refuse)
    with pytest.raises(OSError, match="No space left") as raised, folder_lock(tmp_path, "training"):
        pass
    assert raised.value.filename == str(tmp_path / ".lock")
