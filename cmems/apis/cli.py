"""How a command ends when the input is wrong: one message, no traceback."""

import errno
import functools
import os
import sys

from cmems.engine.signals import Stopped
from cmems.errors import InputError


def main_guard(main):
    """Wrap a command's ``main``: InputError prints ``error: …`` and exits 2; Ctrl-C prints one line and exits 130.

    So does what the file system refuses: no permission, no space, a file where a folder must be. A training that a
    signal ended exits with 128 and the signal's number.
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except InputError as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # `| head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + 13)
        except OSError as error:
            if error.filename is None and error.errno != errno.ENOSPC:
                raise
            sys.stdout.flush()
            where = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {where}{error.strerror}", file=sys.stderr)
            sys.exit(2)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.signum)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return guarded
