"""The suites: what is compared with what."""

import difflib
import runpy
from dataclasses import fields
from pathlib import Path

from cmems.comparison import changes, paper
from cmems.comparison.entries import METRICS
from cmems.comparison.rows import FAMILY_NAMES, Row, Suite
from cmems.errors import InputError, warn_once

_OPTIONS = ("seeds", "jobs", "steps", "resume")  # of the command, none of which a suite has
_CMEMS = "configs/cmems/unet_{dataset}.py"


def _method(name, label, **more):
    """Make a method's row; MT-UNet is named after its network."""
    network = "mt_unet" if name == "mt_unet" else "unet"
    more.setdefault("paper", paper.METHODS.get(name, {}))
    return Row(label, f"configs/{name}/{network}_{{dataset}}.py", **more)


def _with_sd(name, label):
    return _method(name, f"{label} + SD", options=changes.with_synthetic, paper=paper.METHODS.get(f"{name}_sd", {}))


_FULL = _method("fullysup", "FullySup", one_slice=False)
_PRINTED = _method("cmems_printed", "CMEMS, Eq. 3 as printed", paper=paper.METHODS["cmems"])
_TABLE = (
    _method("unet", "UNet"),
    _with_sd("unet", "UNet"),
    _method("mt_unet", "MT-UNet"),
    _with_sd("mt_unet", "MT-UNet"),
    _method("mlds", "MLDS"),
    _with_sd("mlds", "MLDS"),
    _method("fixmatch", "FixMatch", options=changes.without_synthetic),
    _with_sd("fixmatch", "FixMatch"),
    _method("cps", "CPS", options=changes.without_synthetic),
    _with_sd("cps", "CPS"),
    _method("elsnet", "ELSNet"),
    _PRINTED,
    _method("cmems", "CMEMS"),
    _FULL,
)
_OTHERS = dict(
    unet="UNet",
    unet_synthetic="UNet, synthetic",
    mt_unet="MT-UNet",
    mlds="MLDS",
    mean_teacher="Mean Teacher",
    fixmatch="FixMatch",
    cps="CPS",
    cross_teaching="Cross Teaching",
    unimatch="UniMatch",
    bcp="BCP",
    glcl="GLCL",
    elsnet="ELSNet",
    cmems="CMEMS",
)
_MORE = dict(unet_synthetic=dict(paper=paper.METHODS["unet_sd"]))


def _components_label(switches):
    return " + ".join(["E", *(n for n, on in zip(("SD", "CM", "IP", "FP"), switches, strict=True) if on)])


def _sweep(name, values, options, best):
    return tuple(Row(f"{name} = {v:g}", _CMEMS, options(v), paper.BEST if v == best else {}, (name, v)) for v in values)


_PLUS = "configs/cmems_plus/unet_{dataset}.py"
_PLUS_ROW = Row("CMEMS+, first round", _PLUS)
_PLUS_WITHOUT = {
    "change of shape": changes.shapes(),
    "walls of every thickness, with RadialShape instead": changes.radial_shapes,
    "how hearts lie: every rotation and mirror image instead": changes.any_way_up,
    "small organs: 0.7 to 1.4 instead, the left ventricle by itself 0.8 to 1.2": changes.walls(
        scale=(0.7, 1.4), size=(0.8, 1.2)
    ),
    "the cavity's rim, stretched instead": changes.walls(rim=0.0),
    "muscle within cavities": changes.without_look("Trabeculae"),
    "painted wall": changes.without_look("PaintClasses"),
    "gain of each organ": changes.without_look("ClassGain"),
    "margin and soft edge": {f"train_dataloader.synthetic.synthesizer.{key}": 0 for key in ("margin", "edge")},
    "labels carried to more slices": changes.without_propagation,
    "bodies laid upon bodies": changes.without_fit,
    "missing organs": {"train_dataloader.synthetic.synthesizer.drop": None},
    "warped copies of the exemplar": {"train_dataloader.exemplar.copies.plain": 1.0},
    "uncertain pixels left out": {"model.pseudo_labeler.below": "background"},
    "its rate: 3e-4, the paper's": {"optim_wrapper.optimizer.lr": 3e-4},
    "its prediction: last weights, one view, one scale, labels resized": {
        "model.prediction.averaged": False,
        "model.prediction.views": 1,
        "model.prediction.scales": [1],
        "model.prediction.resize": "labels",
    },
}
# What other methods can be given one by one, and what takes each away. All but one are taken away in this order: hearts
# any way up are predicted in eight views, which the last brings down to one.
_PLUS_PARTS = {
    "how hearts lie": changes.any_way_up,
    "change of shape": changes.shapes(),
    "look of each organ": changes.together(
        *(changes.without_look(kind) for kind in ("PaintClasses", "ClassGain", "Trabeculae"))
    ),
    **{
        part: _PLUS_WITHOUT[part]
        for part in ("margin and soft edge", "missing organs", "warped copies of the exemplar")
    },
    "prediction": _PLUS_WITHOUT["its prediction: last weights, one view, one scale, labels resized"],
}
_PLUS_METHODS = dict(fixmatch_sd="FixMatch", cps_sd="CPS", unimatch="UniMatch")


def _plus_row(label, method, *without):
    """Make a row of CMEMS+'s config with another method's objectives, some of the parts taken away."""
    taken = (_PLUS_PARTS[part] for part in without)
    return Row(label, _PLUS, changes.together(changes.objectives_of(method), *taken))


def _parts_added(method, label):
    yield _plus_row(f"{label}, pixels and rate of CMEMS+", method, *_PLUS_PARTS)
    for part in _PLUS_PARTS:
        yield _plus_row(f"{label} + {part}", method, *(other for other in _PLUS_PARTS if other != part))
    yield _plus_row(f"{label} + all", method)


_NOTES_CMEMS = (paper.NOTES["hd95"], paper.NOTES["hd95_cmems"])
_NOTES = (paper.NOTES["fair"], paper.NOTES["fullysup"], paper.NOTES["hd95"])
SUITES = {
    suite.name: suite
    for suite in (
        Suite("paper_table1", "Table 1: methods on Synapse", _TABLE, ("synapse",), notes=_NOTES),
        Suite("paper_table2", "Table 2: methods on ACDC", _TABLE, ("acdc",), notes=_NOTES),
        Suite(
            "methods",
            "Every method, each as its config has it",
            (
                *(_method(name, label, **_MORE.get(name, {})) for name, label in _OTHERS.items()),
                _PRINTED,
                _PLUS_ROW,
                _FULL,
            ),
            notes=_NOTES,
        ),
        Suite(
            "one_label",
            "One labelled slice: the exemplar alone, and CMEMS",
            (_method("unet", "UNet, exemplar alone"), _method("cmems", "CMEMS")),
            ("phantom_cardiac",),
        ),
        Suite(
            "ablation_components",
            "Table 3: synthetic data, cross-model learning, image and feature perturbations",
            tuple(
                Row(_components_label(switches), _CMEMS, changes.components(*switches), cells)
                for switches, cells in paper.COMPONENTS.items()
            ),
            notes=_NOTES_CMEMS,
        ),
        Suite(
            "ablation_weak",
            "Table 4: one weak view for both networks",
            tuple(
                Row(f"same view of {s}" if s else "different views", _CMEMS, {"model.shared_weak": [s]} if s else {}, c)
                for s, c in paper.SHARED_WEAK.items()
            ),
            notes=_NOTES_CMEMS,
        ),
        Suite(
            "ablation_feature",
            "Table 5: feature perturbation, one's own view and label or the other's",
            tuple(
                Row(label, _CMEMS, changes.objective("feature", teacher=t), paper.FEATURE_TEACHER[t])
                for t, label in (("self", "individual"), ("cross", "cross-model"))
            ),
            notes=_NOTES_CMEMS,
        ),
        Suite(
            "ablation_uncertain",
            "Eq. 3: what becomes of the pixels below the threshold",
            tuple(
                Row(label, _CMEMS, {"model.pseudo_labeler.below": below})
                for label, below in (("background, as printed", "background"), ("ignored", "ignore"))
            ),
        ),
        Suite(
            "ablation_plus",
            "CMEMS+: every part taken away in turn",
            (
                _PLUS_ROW,
                *(Row(f"without {part}", _PLUS, options) for part, options in _PLUS_WITHOUT.items()),
            ),
            ("acdc_cpu",),
            ("A", "B", "C"),
        ),
        Suite(
            "plus_methods",
            "Other methods with all of CMEMS+ but the objectives",
            (
                _PLUS_ROW,
                *(_plus_row(f"{label}, all else of CMEMS+", name) for name, label in _PLUS_METHODS.items()),
            ),
            ("acdc_cpu",),
            ("A", "B", "C"),
        ),
        Suite(
            "plus_parts",
            "Other methods with each of CMEMS+'s parts",
            tuple(row for name, label in _PLUS_METHODS.items() for row in _parts_added(name, label)),
            ("acdc_cpu",),
            ("A", "B", "C"),
        ),
        Suite(
            "exemplars",
            "Table 8: three exemplars",
            tuple(
                _method(name, label, paper=paper.EXEMPLARS[name])
                for name, label in (("unet", "UNet"), ("elsnet", "ELSNet"), ("cmems", "CMEMS"))
            ),
            ("acdc",),
            ("A", "B", "C"),
            (paper.NOTES["exemplars"],),
        ),
        Suite(
            "ablation_strong",
            "Table 9: strong perturbations",
            tuple(
                Row(label, _CMEMS, changes.strong(*kinds), cells)
                for (label, kinds), cells in zip(
                    (
                        ("jitter", ()),
                        ("jitter, blur", ("GaussianBlur",)),
                        ("jitter, blur, sharpness", ("GaussianBlur", "Sharpness")),
                    ),
                    paper.STRONG,
                    strict=True,
                )
            ),
            ("acdc",),
        ),
        Suite(
            "figure3",
            "Figure 3: weights of the mutual losses",
            _sweep("λ_cmip", (0.1, 0.5, 1.0, 1.5, 2.0), lambda v: changes.objective("strong", weight=v), 1.0)
            + _sweep("λ_cmfp", (0.06, 0.07, 0.08, 0.09, 0.1), lambda v: changes.objective("feature", weight=v), 0.09),
            ("acdc",),
            notes=(paper.NOTES["sweep"],),
        ),
        Suite(
            "figure4",
            "Figure 4: confidence threshold and strength of the jitter",
            _sweep("τ", (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), lambda v: {"model.pseudo_labeler.threshold": v}, 0.8)
            + _sweep("α", (0.2, 0.4, 0.6, 0.8, 1.0), lambda v: {"model.strong.strength": v}, 1.0),
            ("acdc",),
            notes=(paper.NOTES["sweep"],),
        ),
    )
}


def get_suite(suite):
    """Return a suite by name, from a Python file, or from a dict.

    Args:
        suite (str | dict | Suite): A name of :data:`SUITES`; the path of a ``.py`` file that defines ``rows``, a list
            of :class:`Row` or of dicts of its arguments, and, if it likes, ``title``, ``datasets``, ``exemplars`` and
            ``notes``; or these as a dict, with ``name``.

    Raises:
        InputError: No such suite, or a mistake in it.
    """
    if isinstance(suite, Suite):
        return suite
    if isinstance(suite, dict):
        return _from_dict(suite, f"suite {suite.get('name')}")
    if not suite.endswith(".py"):
        if suite not in SUITES:
            if Path(suite).is_dir():
                raise InputError(f"{suite}: a folder; expected a suite, or two runs, `cmems compare {suite} OTHER`")
            near = difflib.get_close_matches(suite, SUITES, n=1) or list(SUITES)
            raise InputError(
                f"{suite}: no such file or folder; expected a suite: a .py file or one of {', '.join(near)}"
            )
        return SUITES[suite]
    if not Path(suite).is_file():
        raise InputError(f"suite {suite}: no such file")
    try:
        found = runpy.run_path(suite)
    except (Exception, SystemExit) as error:  # the file is the user's, whatever it raises
        raise InputError(f"suite {suite}: {type(error).__name__}: {error}") from error
    names = {f.name for f in fields(Suite)}
    _check_names(found, names, f"suite {suite}")
    return _from_dict({"name": Path(suite).stem, **{k: v for k, v in found.items() if k in names}}, f"suite {suite}")


def _check_names(found, names, where):
    """Refuse a name that is meant for one of a suite's, as far as its value may be; warn of what an option sets."""
    for name, value in found.items():
        near = difflib.get_close_matches(name, names - {*found}, n=1, cutoff=0.8)
        if near and name not in names and isinstance(value, (str, list, tuple)):
            raise InputError(f"{where}: nothing reads '{name}'; did you mean {near[0]}?")
        if name in _OPTIONS:
            warn_once(f"{where}: {name}: no suite sets it; cmems compare --{name} does")


def _is_pair(sweep):
    """Tell whether a value is a parameter's name and value, which a curve is drawn over."""
    return isinstance(sweep, (list, tuple)) and len(sweep) == 2 and isinstance(sweep[0], str) and _is_number(sweep[1])


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_cell(value):
    return _is_number(value) or isinstance(value, (list, tuple)) and len(value) > 1 and all(map(_is_number, value))


def _all_of(fits, *levels):
    """Return whether a value is nested dicts, one of the keys of each level (None: any text), of what fits."""

    def check(value, level=0):
        if level == len(levels):
            return fits(value)
        known = isinstance(value, dict) and all(isinstance(k, str) and k in (levels[level] or (k,)) for k in value)
        return known and all(check(each, level + 1) for each in value.values())

    return check


def _is_path(value):
    """Tell whether a config's path has at most ``{dataset}`` to fill."""
    try:
        return isinstance(value, str) and bool(value.format(dataset="d"))
    except (LookupError, ValueError, AttributeError, TypeError):
        return False


_ROW = dict(
    label=(lambda value: isinstance(value, str), "a text"),
    config=(_is_path, "a config's path, with no braces but {dataset}"),
    options=(lambda value: callable(value) or isinstance(value, dict) and all(isinstance(key, str) for key in value),
             "a dict of dotted keys, or a function that returns one"),
    paper=(_all_of(_is_cell, FAMILY_NAMES, METRICS, None), "a dict like dict(acdc=dict(DSC=dict(mean=0.5)))"),
    sweep=(lambda value: value is None or _is_pair(value), "(parameter, number) or None"),
    one_slice=(lambda value: isinstance(value, bool), "True or False"),
)  # fmt: skip


def _from_dict(content, where):
    content = dict(content)
    rows = content.get("rows")
    for key, missing in (("name", None), ("title", "")):
        if not isinstance(value := content.get(key, missing), str):
            raise InputError(f"{where}: {key}: expected a text, got {value!r}")
    for key in ("datasets", "exemplars", "notes"):
        value = content.get(key, [])
        if not (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)):
            raise InputError(f"{where}: {key}: expected a list of texts, got {value!r}")
    if not (isinstance(rows, (list, tuple)) and rows):
        raise InputError(f"{where}: expected rows, a list of dict(label=..., config=..., options=..., paper=...)")
    try:
        content["rows"] = tuple(r if isinstance(r, Row) else Row(**r) for r in rows)
        for number, row in enumerate(content["rows"]):
            for key, (fits, wanted) in _ROW.items():
                if not fits(value := getattr(row, key)):
                    raise InputError(f"{where}: rows[{number}]: {key}: expected {wanted}, got {value!r}")
        if not any("{dataset}" in row.config for row in content["rows"]):  # one way to fill it is enough
            content.setdefault("datasets", (content["name"],))
        for key in ("datasets", "exemplars", "notes"):
            if key in content:
                content[key] = tuple(content[key])
        made = Suite(**{"title": content["name"], **content})
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error
    labels = [r.label for r in made.rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"{where}: two rows are labelled {', '.join(twice)}")
    return made
