"""What rows change of their configs: functions of a config that return dotted keys with values, or that make such."""

import copy
import functools

_E, _S = dict(type="Supervised", source="exemplar"), dict(type="Supervised", source="synthetic")


def with_synthetic(config):
    """Return the options that add the synthetic images (SD) to a method which learns from the exemplar."""
    objectives = _objectives(config)
    if any(o.get("source") == "synthetic" for o in objectives):
        return {}
    return {"model.objectives": [objectives[0], dict(_S), *objectives[1:]]}


def without_synthetic(config):
    """Return the options that take the synthetic images away."""
    objectives = _objectives(config)
    kept = [o for o in objectives if o.get("source") != "synthetic"]
    return {} if kept == objectives else {"model.objectives": kept}


def components(sd, cm, ip, fp):
    """Return what makes, of CMEMS's config, a row of Table 3; the weights are the config's.

    Without cross-model learning one network answers to itself. Without image perturbations (and with CM) the student
    sees the weak view.

    Args:
        sd, cm, ip, fp (bool): Synthetic data, cross-model learning, image and feature perturbations.
    """

    def options(config):
        weights = {o["student"]: o.get("weight", 1.0) for o in _objectives(config) if o["type"] == "Consistency"}
        teacher = dict(type="Consistency", teacher="cross" if cm else "self")
        objectives = [dict(_E)] + [dict(_S)] * bool(sd)
        if cm or ip:
            objectives.append(dict(teacher, student="strong" if ip else "weak", weight=weights["strong"]))
        if fp:
            objectives.append(dict(teacher, student="feature", weight=weights["feature"]))
        return {"model.num_networks": 2 if cm else 1, "model.objectives": objectives}

    return options


def strong(*more):
    """Return what appends perturbations to the config's strong one (Table 9)."""

    def options(config):
        own = config.model.strong.to_dict()
        return {"model.strong": [own, *(dict(type=kind) for kind in more)]} if more else {}

    return options


def shapes(*parts):
    """Return what puts ``parts`` (dict) in the place of all of CMEMS+'s G but the first: place, size, a slight bend."""
    return _of_exemplar("geometric", lambda own: [own[0], *parts])


def without_look(kind):
    """Return what takes a part away from what CMEMS+ changes of the organs' look."""
    return _of_exemplar("organs", lambda own: [part for part in own if part["type"] != kind])


def walls(scale=None, **settings):
    """Return what changes settings of CMEMS+'s ``WallShape``, where a config sets them all.

    Args:
        scale (tuple[float, float] | None): Also that of the part before it, which places and enlarges the whole.
        settings: By name.
    """

    def change(own):
        if not any(part["type"] == "WallShape" and settings.keys() <= part.keys() for part in own):
            return own
        first = own[0] if scale is None else dict(own[0], scale=scale)
        return [first, *(dict(part, **settings) if part["type"] == "WallShape" else part for part in own[1:])]

    return _of_exemplar("geometric", change)


def without_propagation(config):
    """Return what leaves the labels on the slices that were given, where the config carries them to more."""
    return {"train_dataloader.propagation": None} if config.train_dataloader.get("propagation") else {}


def without_fit(config):
    """Return what pastes exemplars where they lie in their own picture, where the config lays them upon bodies."""
    fit = config.train_dataloader.synthetic.synthesizer.get("fit")
    return {"train_dataloader.synthetic.synthesizer.fit": None} if fit else {}


def any_way_up(config):
    """Return what CMEMS+ had before it took hearts to lie alike: every rotation and mirror image, and eight views."""
    if not config.train_dataloader.get("orientation"):
        return {}
    turned = dict(degrees=180, flip=0.5)
    return {
        **_of_exemplar("geometric", lambda own: [dict(own[0], **turned), *own[1:]])(config),
        **{f"train_dataloader.synthetic.synthesizer.background_geometric.{key}": v for key, v in turned.items()},
        **{"model.weak.degrees": 20.0, "model.weak.flip": 0.5, "model.weak.quarter_turns": True},
        **{"train_dataloader.orientation": None, "model.prediction.views": 8},
    }


def radial_shapes(config):
    """Return what CMEMS+ had before walls of every thickness: a power of the radius, and organs as they are."""
    radial = dict(type="RadialShape", classes=(2, 2, 1), exponent=(0.15, 1.8), reach=1.3, spread=(0.85, 1.5))
    parts = (shapes(radial), without_look("PaintClasses"), _of_exemplar("outlines", lambda own: ()))
    return {key: value for part in parts for key, value in part(config).items()}


def _of_exemplar(key, change):
    """Return what changes a setting of both that draw the exemplar anew."""

    def options(config):
        data = config._cfg_dict.to_dict()["train_dataloader"]
        both = {"exemplar.copies": data["exemplar"]["copies"]}
        both["synthetic.synthesizer"] = data["synthetic"]["synthesizer"]
        return {f"train_dataloader.{where}.{key}": change(part[key]) for where, part in both.items() if key in part}

    return options


def together(*parts):
    """Return what makes several changes one after the other, each of the config that those before it leave.

    Args:
        parts (dict | callable): As the options of a row.
    """

    def options(config):
        config, changed = copy.deepcopy(config), {}
        for part in parts:
            settings = part(config) if callable(part) else part
            config.merge_from_dict(copy.deepcopy(settings))  # which takes words out of what it merges
            changed.update(settings)
        return changed

    return options


def objectives_of(method):
    """Return what makes, of CMEMS+'s config, another method with all that goes beside the objectives.

    Args:
        method (str): Folder of its configs.
    """

    def options(config):
        model = copy.deepcopy(_model_of(method))
        changed = {f"model.pseudo_labeler.{key}": value for key, value in model["pseudo_labeler"].items()}
        return {**changed, **{f"model.{key}": model[key] for key in ("num_networks", "objectives")}}

    return options


@functools.cache
def _model_of(method):
    from cmems.apis.config import load_config  # and torch with it, which a list of suites needs not

    return load_config(f"configs/{method}/unet_acdc.py").model.to_dict()


def objective(student, **values):
    """Return what sets values, such as ``weight`` or ``teacher``, of the objectives of a student's view.

    Args:
        student (str): ``weak``, ``strong`` (its weight is λ_cmip) or ``feature`` (λ_cmfp).
        **values: Keys of the objectives.
    """

    def options(config):
        changed = [dict(o, **values) if o.get("student") == student else o for o in _objectives(config)]
        return {"model.objectives": changed}

    return options


def _objectives(config):
    return copy.deepcopy(config._cfg_dict.to_dict()["model"]["objectives"])
