"""Configs beside a prepared data set, so that ``cmems train DATA`` and ``cmems rounds DATA`` need no other."""

from itertools import count
from typing import NamedTuple

import numpy as np

from cmems.apis.places import BESIDE, SECOND, default_work_dir
from cmems.datasets.sources import load_exemplars
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.labels import UNKNOWN


class Anatomy(NamedTuple):
    """What a config should know of the anatomy.

    Attributes:
        upright: Left differs from right, and up from down: nothing is mirrored or turned by quarters, and a labelled
            slice that lies otherwise than the other scans is turned first.
        turn: Organs turn by ± this many degrees. Default: 180, upright 20.
        radial: Classes whose shape changes about their middle, as a ventricle contracts.
        one_piece: Each class is one connected part, the largest found.
        wall: A cavity and the wall around it, as a ventricle and its muscle, of every thickness.
        sizes: How large organs are beside those of the labelled slice, as lengths. Default: 0.7 to 1.4.
    """

    upright: bool = False
    turn: float | None = None
    radial: tuple[str, ...] = ()
    one_piece: bool = False
    wall: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()

    def check(self, classes):
        """Raise InputError for an angle or sizes that are none, or a class that is not among ``classes``."""
        if self.turn is not None and not 0 <= self.turn <= 180:
            raise InputError(f"--turn: expected 0 to 180 degrees, got {self.turn:g}")
        if self.sizes and not 0.1 <= self.sizes[0] <= self.sizes[1] <= 10:
            got = ":".join(f"{size:g}" for size in self.sizes)
            raise InputError(f"--sizes {got}: expected SMALLEST:LARGEST between 0.1 and 10; the labelled slice is 1")
        for option, names in (("--radial", self.radial), ("--wall", self.wall)):
            unknown = [name for name in names if name not in classes]
            if unknown:
                raise InputError(f"{option}: expected classes of {', '.join(classes)}; got {', '.join(unknown)}")
        if self.wall and len(set(self.wall)) != 2:
            raise InputError(f"--wall {':'.join(self.wall)}: expected CAVITY:WALL, two classes")


def find_exemplars(data):
    """Choose the labelled slices to train on: those that hold every class and were painted, the other slices of their
    masks being unknown; of whole masks one alone, the least of whose classes is large.

    Args:
        data (PreparedDataset): With at least one labelled training case.

    Returns:
        tuple[list[tuple[str, int]], list[str]]: Case and slice of each, and the classes that the only one lacks, which
        no slice has all of.
    """
    complete = data.eligible_exemplars()
    painted = [(case, index) for case, index in complete if _has_unpainted(data.case(case))]
    if complete:
        return painted or complete[:1], []
    best, labels = (-1, None), data.train_labels()
    for case in data.cases("train"):
        for index, row in enumerate(data.rows(case)):
            held = np.setdiff1d(labels[row], [0, UNKNOWN])
            if len(held) > best[0]:
                best = len(held), ([(case, index)], [c for k, c in enumerate(data.classes, 1) if k not in held])
    return best[1]


def _has_unpainted(entry):
    """Tell whether as much of a case of the manifest is unknown as a slice has voxels, or more."""
    return entry["label_counts"].get(str(UNKNOWN), 0) >= entry["shape"][1] * entry["shape"][2]


def parse_exemplars(texts):
    """Read ``CASE:SLICE`` texts as settings of ``exemplar_slice``.

    Raises:
        InputError: A text of another form.
    """
    found = []
    for text in texts:
        case, colon, index = text.rpartition(":")
        if not (colon and case and index.isdecimal()):
            raise InputError(f"--exemplar {text}: expected CASE:SLICE, slices counted from 0, e.g. patient01:12")
        each = dict(case=case, slice=int(index))
        if each in found:
            raise InputError(f"--exemplar {text}: named twice")
        found.append(each)
    return found


def write_config(data, exemplars, anatomy, replace=False):
    """Write configs into a prepared data set, to be trained as they are, or edited.

    ``config.py`` is CMEMS+ on its exemplar, ``round2.py`` a second round on the masks that the first one makes.

    Args:
        data (PreparedDataset): Where to.
        exemplars (list[dict]): ``case`` and ``slice`` of each labelled slice.
        anatomy (Anatomy): Choices.
        replace (bool): Put other configs of these names aside, as ``config.py.before``, ``config.py.before2``, ….

    Returns:
        tuple[Path, bool, list[Path]]: ``config.py``; whether it says what was asked for: one that was there is kept,
        unless ``replace``; and what was put aside.

    Raises:
        InputError: A slice cannot be an exemplar: see :func:`cmems.datasets.sources.load_exemplars`; or the folder's
            name has a quote or a backslash.
    """
    if odd := [sign for sign in '"\\' if sign in str(data.root.resolve())]:
        raise InputError(f"{data.root}: expected a path without {odd[0]}, by which no config file can name it")
    load_exemplars(data, exemplars)  # what training would end at
    anatomy.check(data.classes)
    texts = {SECOND: second_text(data), BESIDE: config_text(data, exemplars, anatomy)}
    aside = [_put_aside(data.root / name, text) for name, text in texts.items()] if replace else []
    ours = [_write(data.root / name, text) for name, text in texts.items()]
    return data.root / BESIDE, ours[-1], list(filter(None, aside))


def too_small(data, case, classes):
    """Return those of some classes that are painted in a case, but in none of its training slices."""
    left = np.unique([data.train_label(row) for row in data.rows(case)])
    counts = data.case(case)["label_counts"]
    numbers = {name: k for k, name in enumerate(data.classes, 1)}
    return [name for name in classes if counts.get(str(numbers[name])) and numbers[name] not in left]


def _put_aside(path, text):
    """Rename a file that holds another text, whose user may have edited it; return its new path, or None."""
    if not path.is_file() or _holds(path, text):
        return None
    names = (path.with_name(f"{path.name}.before{k if k > 1 else ''}") for k in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def _write(path, text):
    """Write a file unless one is there; return whether it holds the text."""
    if path.is_file():
        return _holds(path, text)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return True


def _holds(path, text):
    return path.read_text(encoding="utf-8", errors="replace") == text


def config_text(data, exemplars, anatomy):
    """Return the text of ``config.py``."""
    classes = ", ".join(f"{k} {name}" for k, name in enumerate(data.classes, 1))
    first, *more = exemplars
    degrees = anatomy.turn if anatomy.turn is not None else 20 if anatomy.upright else 180
    flip, weak = 0.0 if anatomy.upright else 0.5, max(20, 0.75 * degrees)
    copied, pasted = (anatomy.sizes or usual for usual in ((0.75, 1.35), (0.7, 1.4)))
    radial, wall = (tuple(data.classes.index(c) + 1 for c in names) for names in (anatomy.radial, anatomy.wall))
    largest, labels = 'dict(type="KeepLargest", of="class")', tuple(range(1, data.num_classes))
    shapes = [f'dict(type="WallShape", cavity={wall[0]}, wall={wall[1]})'] if wall else []
    shapes += [f'dict(type="RadialShape", classes={radial})'] if radial else []
    lines = [
        f"# CMEMS+ on {data.name!r}, written by cmems prepare: edit what does not fit. Classes: {classes!r}.",
        '_base_ = "cmems::cmems_plus/unet_nifti.py"',
        'data_root = "{{ fileDirname }}"  # this folder',
        "",
        "# What the anatomy allows: how far organs turn, degrees; how often they are mirrored; changes of shape.",
        f'affine = dict(type="RandomAffine", degrees={degrees:g}, flip={flip}, control_points=6)',
        f"shapes = [{', '.join(shapes)}]",
        "train_dataloader = dict(",
        f"    exemplar_slice={first!r},  # slices are counted from 0, along the scan's last axis",
        *([f"    exemplar_slices={more!r},"] if more else []),
        *(
            ['    orientation=dict(type="StackOrientation"),  # turned first, if it lies otherwise']
            if anatomy.upright
            else []
        ),
        "    exemplar=dict(",
        "        copies=dict(",
        *(_paint(wall[1], labels, 0.5, 0.2) if wall else []),
        f"            geometric=[dict(scale={copied}, shift=0.1, elastic=0.02, **affine), *shapes],",
        "        )",
        "    ),",
        "    synthetic=dict(",
        "        synthesizer=dict(",
        *(_paint(wall[1], labels, 0.6, 0.35) if wall else []),
        f"            geometric=[dict(scale={pasted}, shift=0.12, elastic=0.025, **affine), *shapes],",
        f"            background_geometric=dict(degrees={degrees:g}, flip={flip}),",
        f"            margin={max(1, round(data.size / 32))},  # pixels of the surroundings that come along",
        "        )",
        "    ),",
        ")",
        "del affine, shapes",
        "model = dict(",
        f"    backbone=dict(num_classes={data.num_classes}),",
        *([f"    weak=dict(quarter_turns=False, flip=0.0, degrees={weak:g}),"] if anatomy.upright else []),
        "    prediction=dict(",
        f"        views={1 if anatomy.upright else 8},  # mirror images and quarter turns that are averaged",
        f"        clean=[{largest if anatomy.one_piece else ''}],",
        "    ),",
        ")",
        *_measured(data),
    ]
    return "\n".join(lines) + "\n"


def _paint(wall, labels, probability, width):
    """Return the lines that paint a wall by its label: made thicker, it would show its neighbours."""
    return [
        "            organs=[",
        f'                dict(type="PaintClasses", classes=({wall},), probability={probability}),',
        f'                dict(type="ClassGain", width={width}),',
        "            ],",
        f"            outlines={labels},  # stay smooth where they are enlarged",
    ]


def second_text(data):
    """Return the text of ``round2.py``."""
    return f"""# The second of two rounds: a fresh network learns from the masks of config.py's networks.
# `cmems rounds` puts the folder of those that it made in the place of this one.
_base_ = "./config.py"
train_dataloader = dict(
    exemplar=dict(batch_size=4),
    static=dict(type="StaticLabels", batch_size=8, folder={default_work_dir(data.root / SECOND) + "/labels_1"!r}),
)
model = dict(
    num_networks=1,
    strong=dict(_delete_=True, type="ColorJitter", strength=0.5, probability=0.8),
    objectives=[
        dict(type="Supervised", source="exemplar", view="strong", weight=0.5),
        dict(type="Supervised", source="static", view="strong"),
    ],
)
train_cfg = dict(max_iters=1000, val_interval=250)
"""


def _measured(data):
    """Return the line that has validation cases tested where no test case is labelled."""
    if any(data.case(case)["labelled"] for case in data.cases("test")) or not data.cases("val"):
        return []
    return ['test_dataloader = dict(dataset=dict(split="val"))  # no test case is labelled']
