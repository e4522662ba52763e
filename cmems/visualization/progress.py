"""One console for all that CMEMS says, and the live progress on it."""

import atexit
import contextlib
import os
import time

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cmems.registry import HOOKS
from cmems.visualization.tables import BEST_FIRST


class _Lasting:
    """A stream that outlives its reader: after ``| head`` or a closed terminal, what is written goes nowhere.

    What its encoding lacks is written as ``?``.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self._stream.write(text.encode(error.encoding, "replace").decode(error.encoding))
        except OSError:
            self._let_go()

    def flush(self):
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def _let_go(self):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class _Console(Console):
    @property
    def file(self):
        return _Lasting(super().file)

    @file.setter
    def file(self, new):
        Console.file.fset(self, new)


console = _Console()
_REFRESH = 0.2  # seconds between redraws


def say(text):
    """Print a text as it is; a live bar is lifted over it, not torn by it."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def counting(label):
    """Give a function of (done, total, name of the last) that draws a bar on the standard error, if that is a terminal.

    Args:
        label (str): What is being done.
    """
    errors = _Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.description}", markup=False))  # fmt: skip
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows how far training, validation and test are: a bar on a terminal, a few lines elsewhere.

    Training shows steps done of all, steps per second, time elapsed and left, the loss as last recorded and the last
    validation DSC. Nothing is read from the device.

    Args:
        interval (int): Steps between looks at the loss.
        share (float): Without a terminal, a line is due after this share of the steps …
        seconds (float): … or after this time, whichever comes first.
    """

    priority = "VERY_LOW"

    def __init__(self, interval=10, share=0.1, seconds=30.0):
        self.interval, self.share, self.seconds = interval, share, seconds
        self._bars, self._tracks = None, {}
        self._score = None

    def before_run(self, runner):
        """Take down what an earlier, failed run left."""
        self._close()

    def before_train(self, runner):
        """Start at the step that training goes on from."""
        self._score = None
        self._start("train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look at the loss every ``interval`` steps and at the last."""
        done = runner.iter + 1
        if done % self.interval == 0 or done == runner.max_iters:
            self._advance("train", done, self._train_info(runner))

    def after_train(self, runner):
        """End the bar."""
        self._end("train")

    def before_val(self, runner):
        """Start a bar for the volumes."""
        self._start("validate", len(runner.val_loop.dataloader), quiet=True)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Count a batch of volumes."""
        self._advance("validate", batch_idx + 1)

    def after_val_epoch(self, runner, metrics=None):
        """Remember the score and clear the bar."""
        known = (f"{model}/DSC" for model in BEST_FIRST)
        found = next((metrics[key] for key in known if key in (metrics or {})), None)
        self._score = self._score if found is None else float(found)
        self._end("validate")

    def before_test(self, runner):
        """Start a bar for the volumes."""
        self._start("test", len(runner.test_loop.dataloader), quiet=True)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Count a batch of volumes."""
        self._advance("test", batch_idx + 1)

    def after_test_epoch(self, runner, metrics=None):
        """Clear the bar."""
        self._end("test")

    def after_run(self, runner):
        """Give the terminal back."""
        self._close()

    def _train_info(self, runner):
        parts = []
        if "train/loss" in runner.message_hub.log_scalars:
            parts.append(f"loss {runner.message_hub.get_scalar('train/loss').current():.4f}")
        if self._score is not None:
            parts.append(f"val DSC {self._score:.3f}")
        return "  ".join(parts)

    def _start(self, name, total, done=0, quiet=False):
        if not is_main_process():
            return
        now = time.monotonic()
        track = dict(
            total=total, first=done, began=now, said=done, said_at=now, drawn_at=0.0, held=0.0, quiet=quiet, task=None
        )
        if console.is_terminal:
            if self._bars is None:
                self._open()
            track["task"] = self._bars.add_task(name, total=total, completed=done, pace="", info="")
        self._tracks[name] = track

    def _advance(self, name, done, info=""):
        track = self._tracks.get(name)
        if track is None:
            return
        now = time.monotonic()
        last = done >= track["total"]
        spent, steps = now - track["began"], done - track["first"]
        working = spent - track["held"]
        rate = steps / working if working > 0 else 0.0
        left = (track["total"] - done) * spent / steps if steps > 0 else 0.0  # validations to come included
        pace = f"{rate:.1f}/s  {_clock(spent)} elapsed  {_clock(left)} left"
        if track["task"] is not None:
            if last or now - track["drawn_at"] >= _REFRESH:
                self._bars.update(track["task"], completed=done, pace=pace, info=info)
                self._bars.refresh()
                track["drawn_at"] = now
            return
        share_due = not track["quiet"] and (done - track["said"] >= self.share * track["total"] or last)
        if share_due or now - track["said_at"] >= self.seconds:
            text = f"{name} {done}/{track['total']}  {pace}"
            say(f"{text}  {info}" if info else text)
            track["said"], track["said_at"] = done, now

    def _end(self, name):
        track = self._tracks.pop(name, None)
        if track is None:
            return
        if name == "validate" and "train" in self._tracks:
            self._tracks["train"]["held"] += time.monotonic() - track["began"]
        if track["task"] is None:
            return
        if name == "train":
            self._bars.refresh()
        else:
            self._bars.remove_task(track["task"])
        if not self._tracks:
            self._close()

    def _open(self):
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            auto_refresh=False,
        )
        self._bars.start()
        # An exception or Ctrl-C leaves the run without after_run; the cursor comes back all the same.
        atexit.register(self._close)

    def _close(self):
        self._tracks = {}
        if self._bars is not None:
            bars, self._bars = self._bars, None
            bars.stop()
            atexit.unregister(self._close)


def _clock(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
