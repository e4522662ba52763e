"""Whether two runs are alike: the settings that train one, the networks built from them, and what validates it."""

import hashlib
import inspect
import json
import re

from cmems.errors import InputError
from cmems.registry import BACKBONES

_LATER = ("precise_norm", "load_from", "references", "spacings")  # what not every version wrote
_FINISHES = ("clean", "resize", "scales")  # of model.prediction: what is made of the networks' answers
_UNSEEN = re.compile("pretrained|init_cfg|drop")  # what trained networks do not show, or not in prediction


def of_training(settings):
    """Return a run's settings without what a prediction makes of the networks' answers, which trains nothing.

    Args:
        settings (dict): Of a run, in plain values; not changed.
    """
    model = settings.get("model")
    prediction = model.get("prediction") if isinstance(model, dict) else None
    if not isinstance(prediction, dict):
        return settings
    kept = {k: v for k, v in prediction.items() if k not in (*_FINISHES, "unknown_below")}
    rest = {k: v for k, v in model.items() if k != "prediction"}
    return {**settings, "model": {**rest, "prediction": kept} if kept else rest}


def known_to(made, settings):
    """Return a run's settings without the kinds that a checkpoint's, of an earlier version, do not have.

    Args:
        made (dict): Of the checkpoint.
        settings (dict): Of the run.
    """
    return {k: v for k, v in settings.items() if k in made or k not in _LATER}


def differing(made, own):
    """List where two settings differ, as ``key: value there, value here``.

    Args:
        made, own (dict): Of a checkpoint, and of the run that would go on; nested dicts and lists of plain values.
    """
    made, own = dict(_leaves(made)), dict(_leaves(own))
    return [
        f"{key}: {made.get(key, 'not set')} there, {own.get(key, 'not set')} here"[:200]
        for key in {**made, **own}
        if made.get(key, "not set") != own.get(key, "not set")
    ]


def _leaves(value, path=""):
    if not isinstance(value, (dict, list)) or not value:
        yield path, json.dumps(value)
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(part, f"{path}.{key}" if path else str(key))


def check_networks(model, saved, path):
    """Refuse a checkpoint whose networks were built otherwise, as with another activation, though its weights fit.

    Args:
        model (dict): Of the config.
        saved (dict): As :func:`cmems.engine.checkpoint.read_checkpoint` returns it; one that does not tell is taken.
        path (str | Path): Its file.

    Raises:
        InputError: Naming what differs.
    """
    try:
        pairs = list(zip(*map(_backbones, (json.loads(saved["meta"]["settings"])["model"], model)), strict=True))
        found = [line for made, own in pairs for line in differing(_as_built(made, own), _as_built(own, own))]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # of another number, weights are missing
        return
    if found:
        odd = "; ".join(dict.fromkeys(found))
        raise InputError(
            f"checkpoint {path}: its networks were built otherwise: model.backbone: {odd}. Name the config that it was "
            "trained with; a file of `cmems publish` predicts without one"
        )


def _backbones(model):
    """Return the settings of each network."""
    backbones = json.loads(json.dumps(model["backbone"], default=str))
    return [backbones] * model.get("num_networks", 2) if isinstance(backbones, dict) else backbones


def _as_built(settings, own):
    """Return what tells in a network's settings, with the defaults of the class of one's own."""
    known = inspect.signature(BACKBONES.get(own["type"])).parameters.values()
    whole = {p.name: p.default for p in known if p.default is not p.empty} | settings
    norm = whole.get("norm_cfg")
    if norm is None or norm.get("type") in ("BN", "SyncBN"):  # which predict alike
        whole["norm_cfg"] = None
    return json.loads(json.dumps({k: v for k, v in whole.items() if not _UNSEEN.search(k)}, default=str))


def alike(settings):
    """Return a prediction's settings with scales that are seen alike written alike: in order, once, none for 1 alone.

    Args:
        settings (dict): Arguments that :class:`cmems.models.prediction.Prediction` takes.
    """
    scales = sorted({float(scale) for scale in settings.get("scales", (1,))})
    return {k: v for k, v in settings.items() if k != "scales"} | (dict(scales=scales) if scales != [1] else {})


def validated_by(runner):
    """Return what validates a run, as JSON: scores of one and of another are not compared."""
    content = runner.cfg._cfg_dict.to_dict()
    data = {k: v for k, v in ((content.get("val_dataloader") or {}).get("dataset") or {}).items() if k != "data_root"}
    prediction = alike((content.get("model") or {}).get("prediction") or {})
    finishes = {k: prediction[k] for k in _FINISHES if k in prediction}
    found = dict(val_evaluator=content.get("val_evaluator"), data=data)
    if finishes:
        found["prediction"] = finishes
    dataset = getattr(getattr(runner.val_loop, "dataloader", None), "dataset", None)
    for key in ("references", "spacings"):  # by case: data lie anywhere
        if known := getattr(dataset, "metainfo", {}).get(key):
            found[key] = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return json.dumps(found, sort_keys=True, default=str)
