"""What all commands share: how they end when the input is wrong, how they show help, the options of configs."""

import argparse
import ast
import difflib
import errno
import functools
import os
import shlex
import sys

from cmems.errors import InputError, SomeUnusable, Stopped, memory_problem, printable

_LESS = "smaller batches (train_dataloader.SOURCE.batch_size), fewer pixels (--size, --crop) or fewer --jobs need less"
_REFUSALS = {errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT}


def main_guard(main):
    """Wrap a command's ``main``: InputError prints ``error: …`` and exits 2; Ctrl-C prints one line and exits 130.

    So does what the file system refuses: no permission, no space, a file where a folder must be; and memory that is too
    little. A training that a signal ended exits with 128 and the signal's number.
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character shows its code
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            _need_folder()
            return main(*args, **kwargs)
        except InputError as error:
            _end_if_interrupted(error)
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # `| head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + 13)
        except OSError as error:
            if error.filename is None and error.errno not in _REFUSALS:
                raise
            sys.stdout.flush()
            where = "" if error.filename is None else f"{printable(error.filename)}: "
            print(f"error: {where}{error.strerror}", file=sys.stderr)
            sys.exit(2)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.signum)
        except KeyboardInterrupt as error:
            _end_if_interrupted(error)
        except Exception as error:
            _end_if_interrupted(error)
            if (problem := memory_problem(error)) is None:
                raise
            sys.stdout.flush()
            print(f"error: too little memory, it seems: {problem}; {_LESS}", file=sys.stderr)
            sys.exit(2)

    return guarded


def _end_if_interrupted(error):
    """End as Ctrl-C does where that is what an error was made of: some libraries catch it, and raise another."""
    while error is not None:
        if type(error) is KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        error = error.__context__


def _need_folder():
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder was removed; go to one that is there") from None


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of examples, and adds a default where there is one to tell."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False, [], ()) else super()._get_help_string(action)


class Command(argparse.ArgumentParser):
    """A parser that says with its own usage what it does not know, and which option is near; none is cut short."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args=None, namespace=None):
        """Parse; end where something is not known."""
        namespace, strange = super().parse_known_args(args, namespace)
        if strange:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(strange[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(strange)}{hint}")
        return namespace, strange


class _Pairs(argparse.Action):
    """Collects ``KEY=VALUE`` arguments, of several such options too."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = dict(getattr(namespace, self.dest) or {})
        for argument in values:
            key, equals, text = argument.partition("=")
            if not equals or not key:
                raise InputError(f"{option_string} {argument}: expected KEY=VALUE, e.g. train_cfg.max_iters=100")
            if not text:
                raise InputError(f"{option_string} {argument}: expected a value, got none; is a variable not set?")
            pairs[key] = text
        setattr(namespace, self.dest, pairs)


def add_config(parser, many=False, what=""):
    """Add the config, or several, and ``--cfg-options``; ``what`` else it may be."""
    text = "Python-file config, cmems::FOLDER/NAME of those that come along, or a folder that `cmems prepare` wrote"
    text = what + text
    parser.add_argument("configs" if many else "config", nargs="+" if many else None, metavar="config", help=text)
    add_options(parser)


def add_options(parser):
    """Add ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=_Pairs, metavar="KEY=VALUE", help="e.g. train_cfg.max_iters=100"
    )


def add_training(parser, each=""):
    """Add how long and how a training goes, and what becomes of one that is there.

    Args:
        parser (ArgumentParser): Gets the options that :func:`training` reads.
        each (str): What of several trainings the lengths are of.
    """
    parser.add_argument("--resume", action="store_true", help="go on from what the work directory holds, if anything")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that the work directory holds")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 where the machine computes in it")
    length = f"train {each} ".rstrip()
    parser.add_argument("--steps", type=int, help=f"{length} so many steps; validations and learning rate are fitted")
    parser.add_argument("--hours", type=float, help=f"{length} as many steps as this machine makes in that time")
    parser.add_argument("--seed", type=int, help="overrides the config's")


def training(args):
    """Return what :func:`add_training` was given, as :func:`cmems.apis.train` takes it."""
    return {name: getattr(args, name) for name in ("resume", "overwrite", "amp", "steps", "hours", "seed")}


def add_launcher(parser, what):
    """Add how many ``what`` there are at a time, and where; see :func:`cmems.launching.launch`."""
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=f"{what} at a time; they share the CPU cores")
    parser.add_argument("--launcher", choices=["local", "slurm"], default="local", help=f"where {what} run")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="of submitit: timeout_min=600 …")


def slurm_parameters(args):
    """Return what ``--slurm`` was given: a value that is a Python literal is that, any other is text."""
    found = {}
    for text in args.slurm:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"--slurm {text}: expected key=value, e.g. timeout_min=600")
        try:
            found[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[key] = value
    if found and args.launcher != "slurm":
        raise InputError(f"--slurm {args.slurm[0]}: is for --launcher slurm")
    return found


def shell_words(*words):
    """Return a command as a shell reads it, whatever its paths hold."""
    return shlex.join(map(str, words))


def tried(act, *args, **options):
    """Return what an act made and, where some scans were unusable, what to raise once that is told."""
    try:
        return act(*args, **options), None
    except SomeUnusable as error:
        return error.made, error


def again(args):
    """Return ``--cfg-options`` as a shell reads it, for another command, with a space before; "" without any."""
    pairs = [shlex.quote(f"{key}={value}") for key, value in (cfg_options(args) or {}).items()]
    return " ".join(["", "--cfg-options", *pairs]) if pairs else ""


def cfg_options(args):
    """Return what ``--cfg-options`` was given, as it was typed, or None."""
    from cmems.apis.config import Texts

    return None if args.cfg_options is None else Texts(args.cfg_options)
