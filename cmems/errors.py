"""The one exception that means "the user can mend this"; the command line prints it without a traceback."""


class InputError(Exception):
    """Bad input: a file, a config value or an argument.

    Args:
        problems (str | list[str]): One message per problem. Each names the file or key, what was expected and
            what was seen.
    """

    def __init__(self, problems):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems:\n  - "
        super().__init__(head + "\n  - ".join(self.problems))
