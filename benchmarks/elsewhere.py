"""A contender in a process of its own: with the C library's usual memory, whatever this process has set."""

import atexit
import multiprocessing


class Elsewhere:
    """Builds ``make(*args)`` in another process; calling this calls that, and returns what it returns."""

    def __init__(self, make, *args):
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, make, args))
        self._process.start()
        far.close()
        atexit.register(self.close)
        self._receive()

    def __call__(self):
        """Call, and wait for the answer."""
        self._pipe.send("call")
        return self._receive()

    def close(self):
        """End the process."""
        if self._process.is_alive():
            self._pipe.send("end")
            self._process.join()

    def _receive(self):
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("error: the contender's process ended; its own message is above") from None


def _serve(pipe, make, args):
    try:
        work = make(*args)
        pipe.send(None)
        while pipe.recv() == "call":
            pipe.send(work())
    except (EOFError, KeyboardInterrupt):  # the other end is gone
        pass
