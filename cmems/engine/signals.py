"""Ending a training well when the system, a scheduler or the user asks for it."""

import contextlib
import os
import signal
import threading
import time

# Ctrl-C; an end that is near; a terminal that closed; a scheduler's notice.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopSignals:
    """While the block runs, the first signal is only noted, in ``received``; a later one ends the process at once.

    A signal that the process was started to ignore, as ``nohup`` does, stays ignored. Only a main thread gets signals;
    in others the block changes nothing. What comes within a second is the same wish: Ctrl-C reaches a whole group of
    processes, of which one may pass it on.

    Attributes:
        received (int | None): The first signal.
    """

    def __init__(self):
        self.received, self._at, self._before = None, 0.0, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                signum = getattr(signal, name, None)
                if signum is not None and signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def ignore(self):
        """Ignore from now on, after the block too, what would end the process before it has said why it ends."""
        for signum in self._before:
            signal.signal(signum, signal.SIG_IGN)
        self._before = {}

    def _note(self, signum, frame):
        if self.received is None:
            self.received, self._at = signum, time.monotonic()
            with contextlib.suppress(OSError):
                os.write(
                    2, f"\n{signal.Signals(signum).name}: ending after this step; once more ends at once\n".encode()
                )
        elif time.monotonic() - self._at > 1:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
