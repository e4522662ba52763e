"""Where configs and their modules lie, and where they train."""

import difflib
import hashlib
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
    """Return what the code of a config's own modules is known by, packages with all that lies in them; None of none."""
    digest, places = hashlib.sha256(), _module_places(config)
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16] if places else None


def _module_places(config):
    """Return the files of modules, and the folders of packages, that a config's ``custom_imports`` brought."""
    tops = dict.fromkeys(name.partition(".")[0] for name in own_modules(config))
    modules = [sys.modules[name] for name in tops if name in sys.modules]
    places = [next(iter(getattr(each, "__path__", ())), None) or getattr(each, "__file__", None) for each in modules]
    return [Path(place).resolve() for place in dict.fromkeys(places) if place]
