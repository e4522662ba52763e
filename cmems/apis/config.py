"""Reading a config, with every mistake in one readable line."""

import difflib
from pathlib import Path

from mmengine.config import Config

from cmems.errors import InputError


def load_config(path, options=None):
    """Read a Python-file config.

    Args:
        path (str): The config.
        options (dict | None): Values to set, keys dotted: ``{"train_cfg.max_iters": 100}``.

    Raises:
        InputError: No such file, a mistake in it, or an option that names no key near one that exists.
    """
    path = Path(path)
    if not path.is_file():
        known = [str(p) for p in Path("configs").glob("*/*.py")] if Path("configs").is_dir() else []
        near = difflib.get_close_matches(str(path), known, n=3)
        raise InputError(f"config {path}: no such file" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    try:
        config = Config.fromfile(str(path), lazy_import=False)
    except InputError:
        raise
    except Exception as error:  # a config is Python: whatever it raises is the user's to mend
        raise InputError(f"config {path}: {type(error).__name__}: {error}") from error
    set_options(config, options or {})
    return config


def set_options(config, options):
    """Set dotted keys of a config that was read.

    Raises:
        InputError: An option names no key near one that exists.
    """
    for key in options:
        _check_option(config, key)
    config.merge_from_dict(options)


def count_steps(config):
    """Turn an objective's ``ramp_up``, ``begin`` and ``end`` below 1, shares of the training, into steps.

    Raises:
        InputError: A share is not in [0, 1].
    """
    steps = (config.get("train_cfg") or {}).get("max_iters")
    for objective in (config.get("model") or {}).get("objectives", []):
        for key in ("ramp_up", "begin", "end"):
            if isinstance(objective.get(key), float) and isinstance(steps, int):
                if not 0 <= objective[key] <= 1:
                    raise InputError(
                        f"model.objectives: {key}: expected steps (an integer) or a share of them in [0, 1], "
                        f"got {objective[key]}"
                    )
                objective[key] = round(objective[key] * steps)


def _check_option(config, dotted):
    """Refuse an option whose parent does not exist: a misspelt section would be set and never read."""
    node, parts = config, dotted.split(".")
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            found = part.isdigit() and int(part) < len(node)
            node = node[int(part)] if found else None
            known = [str(i) for i in range(len(node or []))]
        else:
            found = part in node
            known = list(node)
            node = node[part] if found else None
        if not found:
            near = difflib.get_close_matches(part, known, n=3)
            where = ".".join(parts[: depth + 1])
            raise InputError(
                f"--cfg-options {dotted}: the config has no '{where}'"
                + (f"; did you mean {' or '.join(near)}?" if near else f"; it has: {', '.join(known)}")
            )
        if not hasattr(node, "__contains__") or isinstance(node, str):
            raise InputError(f"--cfg-options {dotted}: '{'.'.join(parts[: depth + 1])}' is {node!r}, which has no keys")
