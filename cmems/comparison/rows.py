"""What a suite is made of, and which of the paper's data sets and exemplars a row answers to."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cmems.errors import InputError

# Which of the paper's two data sets a data set compares with, and the exemplars that have a letter. A is the config's.
FAMILY_NAMES = ("acdc", "synapse")
FAMILIES = dict(phantom_cardiac="acdc", phantom_abdomen="synapse")
EXEMPLARS = dict(
    acdc=dict(B=("patient038_frame01", 1), C=("patient016_frame12", 2)),
    synapse=dict(B=("case0026", 68), C=("case0024", 96)),
    phantom_cardiac=dict(B=("patient013_frame01", 3), C=("patient009_frame01", 3)),
    phantom_abdomen=dict(B=("case0027", 13), C=("case0009", 14)),
)


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Args:
        label (str): Its name in the tables.
        config (str): Config's path; ``{dataset}`` stands for the data set.
        options (dict | callable): Dotted keys to set in the config; or, of the config, the dict of them.
        paper (dict): Cells by family (``acdc``, ``synapse``), as in :mod:`cmems.comparison.paper`.
        sweep (tuple | None): ``(parameter, value)``: rows of a parameter are drawn as a curve over it.
        one_slice (bool): It learns from the exemplar; a row that does not is not repeated for other exemplars.
    """

    label: str
    config: str
    options: dict | Callable = field(default_factory=dict)
    paper: dict = field(default_factory=dict)
    sweep: tuple | None = None
    one_slice: bool = True


@dataclass(frozen=True)
class Suite:
    """Rows to compare.

    Args:
        name (str): Also its report's folder.
        title (str): Heading of the report.
        rows (tuple[Row]): In the order of the table.
        datasets (tuple[str]): Compared on these where no other is named.
        exemplars (tuple[str]): Likewise.
        notes (tuple[str]): What the reader must know.
    """

    name: str
    title: str
    rows: tuple
    datasets: tuple = ("acdc", "synapse")
    exemplars: tuple = ("A",)
    notes: tuple = ()


def family(dataset):
    """Return ``acdc`` or ``synapse``, the paper's data set that ``dataset`` compares with, or None."""
    start = dataset.split("_")[0]
    return FAMILIES.get(dataset, start if start in FAMILY_NAMES else None)


def exemplar_slice(name, dataset, letters=None):
    """Return what ``train_dataloader.exemplar_slice`` must be for a letter or ``case:slice``; None keeps the config's.

    Raises:
        InputError: Neither a letter that the data set has nor ``case:slice``.
    """
    if name == "A":
        return None
    case, colon, index = name.rpartition(":")
    if colon and case and index.isdecimal():
        return dict(case=case, slice=int(index))
    if letters is None:
        letters = EXEMPLARS.get(dataset) or EXEMPLARS.get(dataset.split("_")[0], {})
    if name not in letters:
        raise InputError(
            f"--exemplars {name}: {dataset} has exemplars {', '.join(['A', *letters])}; or give case:slice, "
            "e.g. patient005_frame01:2"
        )
    case, index = letters[name]
    return dict(case=case, slice=index)
