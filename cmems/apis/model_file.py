"""One file that predicts: weights, networks, and how scans are prepared; tensors and plain values alone.

Nothing in such a file is run or imported: components are looked up by name among those that are registered, and get
plain values, none of which may name a file or an address.
"""

import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import cmems
from cmems.apis.config import load_config, value_at
from cmems.datasets.intensity import modality_of
from cmems.datasets.preparation import Preparation
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.checkpoint import read_checkpoint, read_meta, seal
from cmems.engine.checks import told
from cmems.engine.restore import load_weights
from cmems.engine.settings import check_networks
from cmems.errors import InputError
from cmems.files import whole_file
from cmems.models.prediction import Prediction
from cmems.precision import float32_by_default
from cmems.registry import BACKBONES, MODELS, POST_PROCESSORS

FORMAT, VERSION = "cmems-model", 1
# Keys of what reads from elsewhere, whatever they hold, and of what names a place.
_READS, _NAMES = re.compile("pretrained|checkpoint|init_cfg|^_"), re.compile("path|file|url|cache")
_PREDICTION = dict(batch=int, views=int, scales=list, resize=str, bfloat16=bool, clean=list)
_LEFT_OUT = ("averaged", "unknown_below")  # of a prediction's settings: which weights, and for further rounds alone
_DATA_PLACES = ("test_dataloader.dataset.data_root", "train_dataloader.data_root", "data_root")
_PLAIN_TEXT = re.compile(r"[\w.+ -]*")


class Model(NamedTuple):
    """What predicts.

    Attributes:
        networks: In evaluation mode, on the CPU.
        prediction: The arguments of :class:`cmems.models.prediction.Prediction`.
        preparation: How scans are prepared.
        env: ``compiled_kernels`` and ``keep_memory``, as a config's ``env_cfg``.
        name: The file, for messages.
        together: Scans that prediction has in hand at a time.
    """

    networks: nn.ModuleList
    prediction: dict
    preparation: Preparation
    env: dict
    name: str
    together: int = 4


def publish(checkpoint, out, config=None, cfg_options=None):
    """Write a checkpoint as a model file: what predicts, without the optimiser, and without the data set.

    Args:
        checkpoint (str): ``best.pth`` or ``last.pth`` of a training.
        out (str): The file, ``.pth``; a model file that is there is replaced, any other is not. Under its name there is
            a whole one, or none.
        config (str | None): Take networks, prediction and data from this config, not from what the checkpoint says of
            its training; for settings of ``model.prediction`` that were changed since.
        cfg_options (dict | None): Dotted keys of that config to set.

    Returns:
        Model: As read back from the file.

    Raises:
        InputError: The checkpoint or the config is unusable, or they do not belong together.
    """
    out, saved = Path(out), read_checkpoint(checkpoint)
    if out.suffix != ".pth" or out.is_dir():
        raise InputError(f"{out}: expected the name of a file that ends with .pth")
    if out.exists() and out.samefile(checkpoint):
        raise InputError(f"{out}: the checkpoint itself; name another file")
    if out.exists() and not _is_model(out):
        raise InputError(f"{out}: is there, and is no file of `cmems publish` to replace; name another")
    if config is None and cfg_options:
        raise InputError("--cfg-options: they change a config; name it with --config")
    settings, preparation, env = (
        _of_checkpoint(saved, checkpoint) if config is None else _of_config(config, cfg_options, saved, checkpoint)
    )
    prediction, backbones = settings.get("prediction") or {}, settings["backbone"]
    if isinstance(backbones, dict):
        backbones = [backbones] * settings.get("num_networks", 2)
    prefix = "teachers.ema." if prediction.get("averaged") else "networks."
    weights = {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
    content = dict(
        format=FORMAT,
        version=VERSION,
        cmems=cmems.__version__,
        networks=[{k: False if k == "pretrained" else v for k, v in each.items()} for each in backbones],
        prediction=_kept(prediction),
        channels_last=settings.get("channels_last", True),
        env=env,
        preparation=preparation.plain(),
        steps=saved["meta"].get("iter"),
        seed=saved["meta"].get("seed"),
    )
    with whole_file(out) as part:
        torch.save(dict(state_dict=weights, meta=dict(model=json.dumps(content))), part)
        seal(part)
        read_model(part, checkpoint)
    return read_model(out)


def _of_checkpoint(saved, path):
    """Return the model's settings, preparation and environment that a checkpoint tells of its own training."""
    meta, found = saved["meta"], []
    for key in ("settings", "preparation"):
        try:
            found.append(json.loads(meta.get(key) or "null"))
        except (TypeError, ValueError, RecursionError):
            found.append(None)
    settings, preparation = found
    settings = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or "backbone" not in settings or not isinstance(preparation, dict):
        if isinstance(meta.get("model"), str):
            raise InputError(f"checkpoint {path}: it is a model file already")
        raise InputError(f"checkpoint {path}: it does not tell what it was trained with; --config CONFIG does")
    return settings, Preparation.read(preparation, f"checkpoint {path}: preparation"), {}


def _of_config(config, cfg_options, saved, path):
    """Return what :func:`_of_checkpoint` does, of a config; refuse data that the checkpoint was not trained on."""
    cfg, data = _load(config, cfg_options)
    preparation = Preparation.of(data)
    preparation.check(saved, path)
    settings = json.loads(json.dumps(cfg._cfg_dict.to_dict()["model"], default=str))
    check_networks(settings, saved, path)
    return settings, preparation, _env(cfg)


def _is_model(path):
    """Tell whether a file says that :func:`publish` wrote it, whatever else is wrong with it."""
    try:
        return isinstance(read_meta(path).get("model"), str)
    except InputError:
        return False


def _load(config, cfg_options):
    """Return a config, and the prepared data set that it names, of which the manifest is enough."""
    cfg = load_config(config, cfg_options, ["model"], trains=False)
    root = next(filter(None, (value_at(cfg, place) for place in _DATA_PLACES)), None)
    if root is None:
        raise InputError(f"config {config}: data_root is not set; expected the prepared data set it was trained on")
    return cfg, PreparedDataset(root, arrays=False)


def _kept(prediction):
    """Return of a config's ``model.prediction`` what labels scans."""
    return {k: v for k, v in prediction.items() if k not in _LEFT_OUT}


def _env(cfg):
    return {k: v for k, v in (cfg.get("env_cfg") or {}).items() if k in ("compiled_kernels", "keep_memory")}


def model_of_config(config, checkpoint, cfg_options=None):
    """Return the :class:`Model` of a config and its weights.

    Raises:
        InputError: Something in the config, the data or the checkpoint is wrong.
    """
    cfg, data = _load(config, cfg_options)
    modality_of(data.manifest["intensity"], data.root)
    learner = load_learner(cfg, config, checkpoint, data)
    prediction = _kept(cfg.model.get("prediction") or {})
    together = value_at(cfg, "test_dataloader.batch_size")
    together = 1 if together is None else together
    if type(together) is not int or together < 1:
        raise InputError(f"test_dataloader.batch_size: expected a positive integer, got {together!r}")
    return Model(learner.predictors, prediction, Preparation.of(data), _env(cfg), str(checkpoint), together)


def load_learner(cfg, config, checkpoint, data):
    """Build a config's learner with a checkpoint's weights, on the CPU; raises InputError where they do not fit."""
    with told("model"):
        learner = MODELS.build(cfg.model)
    saved = read_checkpoint(checkpoint)
    Preparation.of(data).check(saved, checkpoint)
    check_networks(cfg._cfg_dict.to_dict()["model"], saved, checkpoint)
    load_weights(learner, saved, checkpoint)
    if learner.networks[0].num_classes != data.num_classes:
        raise InputError(
            f"config {config}: num_classes={learner.networks[0].num_classes}, but {data.root} has {data.num_classes}: "
            f"background, {', '.join(data.classes)}"
        )
    return learner.eval()


def read_model(path, name=None):
    """Read a model file.

    Args:
        path (str | Path): What :func:`publish` wrote.
        name (str | Path | None): What messages call it.

    Returns:
        Model: Ready to predict.

    Raises:
        InputError: It is missing, damaged, or no model file; it names a component that is not registered; or something
            in it would lead out of the file.
    """
    saved, name = read_checkpoint(path), f"model {name or path}"
    try:
        content = json.loads(saved["meta"].get("model") or "null")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: its settings are not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{name}: expected a file of `cmems publish` (a checkpoint needs its config before it)")
    if problems := list(_problems(content)):
        raise InputError([f"{name}: {problem}" for problem in problems])
    preparation = Preparation.read(content["preparation"], f"{name}: preparation")
    modality_of(preparation.intensity, f"{name}: preparation")
    networks = _networks(content, saved, name)
    for net in networks:
        if getattr(net, "num_classes", None) != len(preparation.classes) + 1:
            raise InputError(f"{name}: expected networks of {len(preparation.classes) + 1} classes")
        net.check_input(torch.empty(1, 1, preparation.frame.size, preparation.frame.size, device="meta"))
    try:
        with told("prediction"):
            Prediction(**content["prediction"]).check(len(preparation.classes) + 1)
    except InputError as error:
        raise InputError([f"{name}: {problem}" for problem in error.problems]) from error
    return Model(networks.eval(), content["prediction"], preparation, content["env"], str(path))


def _problems(content):
    """Yield what is wrong with a model file's settings, which may be anybody's."""
    networks, prediction, env = (content.get(key) for key in ("networks", "prediction", "env"))
    if not isinstance(networks, list) or not 1 <= len(networks) <= 100 or not all(map(_is_dict, networks)):
        yield "networks: expected a list of 1 to 100 objects"
        return
    if not all(map(_is_dict, (prediction, env, content.get("preparation")))):
        yield "prediction, env, preparation: expected objects"
        return
    if not isinstance(content.get("channels_last"), bool) or not all(isinstance(v, bool) for v in env.values()):
        yield "channels_last, env: expected true or false"
    for key, value in prediction.items():
        if type(value) is not _PREDICTION.get(key):
            yield f"prediction.{key:.60}: expected one of {', '.join(_PREDICTION)}, each of its type, got {value!r:.60}"
    layers = MODELS.names()
    for k, each in enumerate(networks):
        yield from _leads_out(each, f"networks.{k}", BACKBONES.names(), "backbone", layers)
    clean = prediction.get("clean", [])
    for k, each in enumerate(clean if isinstance(clean, list) else []):
        yield from _leads_out(each, f"prediction.clean.{k}", POST_PROCESSORS.names(), "post-processor", layers)


def _is_dict(value):
    return isinstance(value, dict)


def _leads_out(node, where, names, kind, layers):
    """Yield what in a component's settings names anything beyond what is registered.

    Args:
        node: The settings.
        where (str): Their key.
        names (set[str] | None): What a ``type`` may be; None: there need be none.
        kind (str): What these are.
        layers (set[str]): What a ``type`` further in may be.
    """
    if isinstance(node, str) and not _PLAIN_TEXT.fullmatch(node):
        yield f"{where}: expected a plain word, got {node!r:.60}"
    if isinstance(node, list):
        for k, part in enumerate(node):
            yield from _leads_out(part, f"{where}.{k}", None, "layer", layers)
    if names is not None and not isinstance(node, dict):
        yield f"{where}: expected the settings of a {kind}, got {node!r:.60}"
    if not isinstance(node, dict):
        return
    seen = node.get("type")
    known_as = seen.removeprefix("cmems.") if isinstance(seen, str) else None  # a scope may stand before a name
    if (seen is not None or names is not None) and known_as not in (names or layers):
        known = f", which are {', '.join(sorted(names))}" if names else ""
        yield f"{where}.type: {seen!r:.60} is not among the registered {kind}s{known}; import what registers it first"
    for key, part in node.items():
        amount = isinstance(part, (int, float)) and not isinstance(part, bool)  # a drop_path of 0.2 is no path
        if part and (_READS.search(key) or _NAMES.search(key) and not amount):
            yield f"{where}.{key:.60}: a model file reads nothing from elsewhere"
        elif key != "type":
            yield from _leads_out(part, f"{where}.{key:.60}", None, "layer", layers)


def _networks(content, saved, name):
    """Build the networks and load their weights; their sizes are compared before memory is asked for."""
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), float32_by_default():
                networks = nn.ModuleList(BACKBONES.build(dict(each)) for each in content["networks"])
        except InputError as error:
            raise InputError([f"{name}: {problem}" for problem in error.problems]) from error
        except NotImplementedError as error:
            if device == "meta":  # a network that computes as it is built shows its sizes only then
                continue
            raise InputError(f"{name}: networks: {error}") from error
        except Exception as error:  # whatever a component raises over values that it does not take
            raise InputError(f"{name}: networks: {type(error).__name__}: {str(error)[:160]}") from error
        if device == "cpu" and content["channels_last"]:
            networks.to(memory_format=torch.channels_last)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is copied to the meta device
            load_weights(networks, saved, name.removeprefix("model "))
    return networks
