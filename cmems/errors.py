"""The one exception that means "the user can mend this"; the command line prints it without a traceback."""


def printable(text):
    """Return a text as one line: what a terminal would obey rather than show is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class InputError(Exception):
    """Bad input: a file, a config value or an argument.

    Args:
        problems (str | list[str]): One message per problem. Each names the file or key, what was expected and
            what was seen.
    """

    def __init__(self, problems):
        self.problems = [printable(p) for p in ([problems] if isinstance(problems, str) else problems)]
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems:\n  - "
        super().__init__(head + "\n  - ".join(self.problems))
