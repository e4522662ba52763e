"""Where configs and their modules lie, and where they train."""

import ast
import difflib
import hashlib
import os
import sys
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE

import cmems.configs
from cmems.datasets.prepared import MANIFEST
from cmems.errors import InputError

# ``_base_ = "cmems::cmems/unet_acdc.py"``: the configs of this very package, whatever else is installed.
MODULE2PACKAGE["cmems"] = cmems.configs.__name__
CONFIGS = Path(cmems.configs.__file__).parent / ".mim" / "configs"
BESIDE, SECOND = "config.py", "round2.py"  # of a prepared data set
_PACKAGES = {"site-packages", "dist-packages"}  # folders of what is installed


def find_config(name):
    """Return the path of a config.

    Args:
        name (str): A path; ``cmems::FOLDER/NAME``, with or without ``.py``, of the package's configs, as MMEngine names
            them, and where there is no folder ``configs``, ``configs/FOLDER/NAME.py`` too; or a prepared data set's
            folder, whose ``config.py`` is meant.

    Raises:
        InputError: There is none, or it is no Python file.
    """
    package, colons, inner = str(name).partition("::")
    if colons and package == "cmems":
        path = CONFIGS / (inner if inner.endswith(".py") else f"{inner}.py")
        if path.is_file():
            return path
        near = difflib.get_close_matches(inner.removesuffix(".py"), known_configs(), n=3)
        hint = f"; did you mean {' or '.join(f'cmems::{each}' for each in near)}?" if near else ""
        raise InputError(f"config {name}: no such config comes with cmems{hint}")
    path = Path(name)
    if path.is_file():
        if path.suffix != ".py":
            hint = ", which comes before the checkpoint" if path.suffix == ".pth" else ""
            raise InputError(f"config {path}: expected a Python file, .py, or a prepared data set's folder{hint}")
        return path
    if path.is_dir():
        if (path / BESIDE).is_file():
            return path / BESIDE
        raise InputError(f"{path}: a folder without a {BESIDE}; expected a config, or a data set of `cmems prepare`")
    inner = path.as_posix().removeprefix("configs/")
    near = difflib.get_close_matches(inner.removesuffix(".py"), known_configs(), n=3)
    ours = path.parts[:1] == ("configs",)
    if ours and not Path("configs").is_dir() and (CONFIGS / inner).is_file():
        return CONFIGS / inner
    there = "configs/{}.py" if ours else "cmems::{}"
    hint = f"; did you mean {' or '.join(map(there.format, near))}?" if near else ""
    raise InputError(f"config {path}: no such file{hint}")


def spare_data_set(folder, option="", of="the run"):
    """Raise InputError for a folder to write to that holds a prepared data set.

    Args:
        folder (str | Path): The folder.
        option (str): What named it, and a space, for the message.
        of (str): What would be written.
    """
    if Path(folder, MANIFEST).is_file():
        raise InputError(f"{option}{folder}: holds a prepared data set; name a folder of its own for {of}")


def known_configs():
    """List the package's configs, as ``FOLDER/NAME``."""
    found = (path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.glob("[!_]*/*.py"))
    return sorted(path.as_posix() for path in found)


def default_work_dir(config):
    """Return where a config trains by default: methods have files of one name, in folders of their own.

    What `cmems prepare` leaves beside a data set trains into a folder of the data's name.
    """
    path = find_config(config) if "::" in str(config) or Path(config).is_dir() else Path(config)
    path = path.resolve()
    if path.name in (BESIDE, SECOND) and (path.parent / MANIFEST).is_file():
        return f"work_dirs/cmems_plus/{path.parent.name}{'_rounds' * (path.name == SECOND)}"
    return str(Path("work_dirs", path.parent.name, path.stem))


def own_modules(config):
    """Return the modules that a config's ``custom_imports`` names."""
    names = (config.get("custom_imports") or {}).get("imports") or []
    return [names] if isinstance(names, str) else list(names)


def module_folders(config):
    """Return the folders that the modules of a config's ``custom_imports`` were imported from."""
    return list(dict.fromkeys(str(place.parent) for place in _module_places(config)))


def module_content(config):
    """Return what the code of a config's own modules is known by; None of none.

    Packages count with all that lies in them, and so does what modules import from beside them.
    """
    digest, places = hashlib.sha256(), _module_places(config)
    files = [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    for root in dict.fromkeys(place.parent for place in places):
        files += _imported(own_modules(config), root).values()
    for path in dict.fromkeys(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16] if places else None


def check_modules(config, folders=()):
    """Refuse another folder's module in place of a config's own: Python loads a name once, and one config's serves all.

    Args:
        config (Config): As it was read.
        folders (sequence[str]): Where its modules lie, where that is not beside it.

    Raises:
        InputError: A module that it names, or that such a module imports from beside it, is loaded from elsewhere.
    """
    named = own_modules(config)
    for folder in (Path(config.filename).resolve().parent, *map(Path, folders)):
        for name, path in _imported(named, folder).items():
            loaded = getattr(sys.modules.get(name), "__file__", None)
            asked = any(f"{each}.".startswith(f"{name}.") for each in named)
            if loaded and path.resolve() != Path(loaded).resolve() and (asked or not _is_installed(name, loaded)):
                raise InputError(
                    f"config {config.filename}: module {name}: expected {path}, got {loaded}, which has that name "
                    "already; rename one of them"
                )


def _is_installed(name, path):
    """Tell whether a module is one that a file beside a config never stands in for."""
    return name.partition(".")[0] in sys.stdlib_module_names or not _PACKAGES.isdisjoint(Path(path).parts)


def _imported(names, root):
    """Return the files below a folder, by module, of modules and of all that these import from there in turn."""
    found, waiting = {}, [*names]
    if not _PACKAGES.isdisjoint(root.parts):
        return found
    for name in waiting:  # which grows
        parts = name.split(".")
        for k in range(1, len(parts) + 1) if parts[0] != "cmems" else ():
            inner, below = ".".join(parts[:k]), root.joinpath(*parts[:k])
            files = [path for path in (below / "__init__.py", below.with_name(f"{below.name}.py")) if path.is_file()]
            if files and inner not in found:
                found[inner] = files[0]
                waiting += _imports(inner, files[0])
    return found


def _imports(name, path):
    """Yield the names that a module imports, wherever in its code; those after ``from`` may be modules too."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # of a file beside it that was not loaded
        return
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            start += [node.module] if node.module else []
            yield from (".".join([*start, each.name]) for each in node.names)


def _module_places(config):
    """Return the files of modules, and the folders of packages, that a config's ``custom_imports`` brought."""
    places = {}
    for name in own_modules(config):
        module = sys.modules.get(name)
        if file := getattr(module, "__file__", None):
            path = Path(os.path.abspath(file))
            path = path.parent if path.name == "__init__.py" else path
            place = path.parents[name.count(".") - 1] if "." in name else path
        elif folder := next(iter(getattr(module, "__path__", ())), None):  # a folder without an __init__.py
            place = Path(os.path.abspath(folder))
            place = place.parents[name.count(".") - 1] if "." in name else place
        else:
            continue
        places[place] = None
    return list(places)
