"""The exceptions that the command line prints without a traceback, and other words for people."""

import functools
import sys


def printable(text):
    """Return a text as one line: what a terminal would obey rather than show is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@functools.lru_cache
def warn_once(text):
    """Print a warning to the terminal, the first time that this process has it to say."""
    print(f"warning: {text}", file=sys.stderr)


class InputError(Exception):
    """Bad input, which the user can mend: a file, a config value or an argument.

    Args:
        problems (str | list[str]): One message per problem. Each names the file or key, what was expected and
            what was seen.
    """

    def __init__(self, problems):
        self.problems = [printable(p) for p in ([problems] if isinstance(problems, str) else problems)]
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems:\n  - "
        super().__init__(head + "\n  - ".join(self.problems))


class SomeUnusable(InputError):
    """Some scans are unusable; what the others give was written.

    Args:
        problems (list[str]): One message each.
        made: What the others gave.
    """

    def __init__(self, problems, made):
        super().__init__(problems)
        self.made = made


class Stopped(KeyboardInterrupt):
    """A signal ended a training, after its checkpoint was written.

    Args:
        signum (int): The signal.
        text (str): For people.
    """

    def __init__(self, signum, text):
        super().__init__(text)
        self.signum = signum


_SHORT = ("out of memory", "can't allocate memory", "could not create a primitive", "could not execute a primitive")


def memory_problem(error):
    """Return what an error says of too little memory, torch's on any device and oneDNN's too; None of others."""
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    words = printable(" ".join(str(error).split()))
    if not isinstance(error, MemoryError) and not any(short in words for short in _SHORT):
        return None
    return words[:200] or type(error).__name__


def said(notes):
    """Yield a line per kind of note, naming the cases that it is of.

    Args:
        notes (dict[str, list]): By case, pairs of a sentence and its details.
    """
    kinds = {}
    for case, pairs in notes.items():
        for sentence, detail in pairs:
            kinds.setdefault(sentence, []).append(f"{case} ({detail})" if detail else case)
    for sentence, cases in kinds.items():
        more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
        yield printable(f"{sentence}: {', '.join(cases[:3])}{more}")
