"""What the literature counts where a mask is empty, under names."""

import difflib
from dataclasses import dataclass
from math import nan

from cmems.errors import InputError

DIAGONAL = "diagonal"


@dataclass(frozen=True)
class Convention:
    """How a class of a volume scores where the prediction, the reference, or both are empty.

    A ``nan`` is left out of every mean and counted as skipped; ``"diagonal"`` is the length of the volume's diagonal.

    Attributes:
        name: The preset.
        unit: ``voxel`` (every spacing 1) or ``mm``, of HD95.
        dsc: Scores by status: ``both_empty``, ``missed`` (only the reference has voxels), ``false`` (only the
            prediction).
        hd95: The same for HD95.
    """

    name: str
    unit: str
    dsc: dict
    hd95: dict


PRESETS = {
    # TransUNet's calculate_metric_percase, which the paper follows: a false positive scores 1, a correct nothing 0.
    "transunet": Convention(
        "transunet", "voxel", dict(both_empty=0, missed=0, false=1), dict(both_empty=0, missed=0, false=0)
    ),
    # SSL4MIS's val_2D; medpy raises there on a false positive, whose HD95 is skipped here.
    "ssl4mis": Convention(
        "ssl4mis", "voxel", dict(both_empty=0, missed=0, false=0), dict(both_empty=0, missed=0, false=nan)
    ),
    # nnU-Net's habit: what is undefined is left out, and counted.
    "nan": Convention(
        "nan", "voxel", dict(both_empty=nan, missed=0, false=0), dict(both_empty=nan, missed=nan, false=nan)
    ),
    # Nothing is gained by predicting nothing.
    "strict": Convention(
        "strict", "mm", dict(both_empty=1, missed=0, false=0), dict(both_empty=0, missed=DIAGONAL, false=DIAGONAL)
    ),
}


def get_convention(name):
    """Return a preset; raises InputError with the known names."""
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"metric preset {name!r}: {hint}known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
