"""The mutual learner: any number of networks that learn from labels and from each other (Algorithm 1)."""

import copy
import difflib

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import nn

from cmems.errors import InputError, memory_problem
from cmems.models.learners.views import StepViews
from cmems.models.losses.objectives import Objective
from cmems.models.perturbations.base import check_draws
from cmems.models.prediction import Prediction
from cmems.precision import float32_by_default
from cmems.registry import BACKBONES, CONSISTENCY_LOSSES, LOSSES, MODELS, PERTURBATIONS, PSEUDO_LABELERS
from cmems.seeding import Draws, derive_key


@MODELS.register_module()
class MutualLearner(BaseModel):
    """Networks, perturbations, a pseudo-labeller and the list of objectives that makes the method.

    Args:
        backbone (dict | list[dict]): One network's config, built ``num_networks`` times, or one config per network.
        objectives (list[dict]): What the step minimises; the sum is L_total (Eq. 10).
        num_networks (int): M ≥ 1 (paper: 2). Networks of one seed start from different weights.
        weak (dict): W.
        strong (dict | list[dict] | None): S; a list acts in order.
        feature (dict | None): F.
        pseudo_labeler (dict): Eq. 3.
        ema_momentum (float): Of the teachers that average past weights; at step k at most 1 - 1/(k + 1).
        shared_weak (sequence[str]): Sources whose weak view all networks share (Table 4). Default: none.
        pseudo_label_mode (str): ``"train"``: the pseudo-label pass runs with dropout and batch statistics like every
            other forward of Algorithm 1; ``"eval"``: without.
        channels_last (bool): Keep images and weights channels-last, which is how convolutions are fast.
        compile (bool): Pass each network's halves through ``torch.compile``; without a working compiler the log says
            why and the networks run as they are.
        batch_views (bool): On a CPU, run the views that objectives ask one network for in one batch, each with
            BatchNorm statistics and dropout of its own; networks that do not take views together run them in turn.
        prediction (dict | None): How volumes are labelled: the arguments of
            :class:`cmems.models.prediction.Prediction`.
        data_preprocessor (dict | None): MMEngine's ``BaseDataPreprocessor``, which changes nothing here: batches come
            prepared.
    """

    @float32_by_default()
    def __init__(
        self,
        backbone,
        objectives,
        num_networks=2,
        weak=None,
        strong=None,
        feature=None,
        pseudo_labeler=None,
        ema_momentum=0.99,
        shared_weak=(),
        pseudo_label_mode="train",
        channels_last=True,
        compile=False,
        batch_views=True,
        prediction=None,
        data_preprocessor=None,
    ):
        if data_preprocessor is not None and data_preprocessor != dict(type="BaseDataPreprocessor"):
            raise InputError(
                f"model.data_preprocessor: expected None, as batches come prepared, got {data_preprocessor!r}"
            )
        super().__init__(data_preprocessor=data_preprocessor)
        if not isinstance(num_networks, int) or num_networks < 1:
            raise InputError(f"model.num_networks: expected an integer of 1 or more, got {num_networks!r}")
        configs = list(backbone) if isinstance(backbone, (list, tuple)) else [backbone] * num_networks
        if len(configs) != num_networks:
            raise InputError(f"model.backbone: expected {num_networks} configs (num_networks), got {len(configs)}")
        if not isinstance(objectives, (list, tuple)) or not all(isinstance(each, dict) for each in objectives):
            raise InputError(f"model.objectives: expected a list of dicts, each with a type, got {objectives!r}")
        if pseudo_label_mode not in ("train", "eval"):
            raise InputError(f"model.pseudo_label_mode: expected 'train' or 'eval', got {pseudo_label_mode!r}")
        self.num_networks = num_networks
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.networks = nn.ModuleList(_build_networks(configs)).to(memory_format=self.memory_format)
        self.weak = _perturbation("weak", dict(type="RandomRotateFlip") if weak is None else weak)
        self.strong, self.feature = _perturbation("strong", strong), _perturbation("feature", feature)
        self.pseudo_labeler = PSEUDO_LABELERS.optional(pseudo_labeler, dict(type="ConfidenceThreshold"))
        self.objectives = nn.ModuleList(_build_objective(o) for o in objectives)
        for objective in self.objectives:
            objective.bind(self.networks)
        self.needs_levels = any(objective.needs_levels for objective in self.objectives)
        self.ema_momentum = ema_momentum
        check_draws(self, probabilities=["ema_momentum"])
        if not isinstance(prediction, (dict, type(None))):
            raise InputError(
                f"{type(self).__name__}: prediction: expected settings (a dict) or None, got {prediction!r}"
            )
        self.prediction = Prediction(**(prediction or {}))
        self.prediction.check(getattr(self.networks[0], "num_classes", None))
        kinds = {objective.teacher for objective in self.objectives} & {"ema", "static"}
        kinds |= {"ema"} if self.prediction.averaged else set()
        # Untrained copies: weights of the past, kept with the checkpoint. Made before compiling, which binds a network.
        self.teachers = nn.ModuleDict({k: copy.deepcopy(self.networks).requires_grad_(False) for k in sorted(kinds)})
        if compile and _compiler_works():
            for net in self.networks:
                net.encode, net.decode = torch.compile(net.encode), torch.compile(net.decode)
        self.batch_views = batch_views and not compile
        self.static_from = next((o.begin for o in self.objectives if o.teacher == "static"), None)
        if not isinstance(shared_weak, (list, tuple)) or not all(isinstance(each, str) for each in shared_weak):
            raise InputError(f"model.shared_weak: expected a list of sources, got {shared_weak!r}")
        self.shared_weak = frozenset(shared_weak)
        self.pseudo_label_mode = pseudo_label_mode
        begins = {o.begin for o in self.objectives if o.teacher == "static"}
        if len(begins) > 1:
            raise InputError(f"model.objectives: teacher='static' needs one begin, got {sorted(begins)}")
        names = [o.name for o in self.objectives]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise InputError(f"model.objectives: two objectives are named {', '.join(repeated)}; give one a name=...")

    def check(self, sources, size, classes):
        """Return what keeps this learner from training, one line per problem.

        Args:
            sources (dict): What ``train_dataloader`` serves.
            size (int): Side of the slices.
            classes (sequence[str]): Foreground classes of the data.
        """
        problems = [problem for objective in self.objectives for problem in objective.check(self, sources)]
        if unknown := sorted(self.shared_weak - sources.keys()):
            known = ", ".join(sources) or "none"
            problems.append(f"model.shared_weak: {', '.join(unknown)} is not in train_dataloader, which has: {known}")
        if self.static_from is not None and "matrices" not in self.weak.draw(Draws(0, 0).stream("check"), 1):
            kind = type(self.weak).__name__
            problems.append(f"teacher='static' moves labels by W's matrices, and {kind} of model.weak draws none")
        if not self.objectives:
            problems.append("model.objectives: expected one or more, got none: there is nothing to learn")
        for m, net in enumerate(self.networks, 1):
            try:
                net.check_input(torch.empty(1, 1, size, size, device="meta"))
            except InputError as error:
                problems.append(str(error))
            if net.num_classes != len(classes) + 1:
                problems.append(
                    f"network {m}: num_classes={net.num_classes}, but the data has {len(classes) + 1}: "
                    f"background, {', '.join(classes)}"
                )
        return list(dict.fromkeys(problems))

    def forward(self, batch=None, draws=None, monitor=(), volumes=None, mode="loss"):
        """Run one step's forwards, or predict volumes.

        Args:
            batch (dict): ``{source: dict(images, labels)}``, for ``mode="loss"``.
            draws (Draws): The step's random numbers, for ``mode="loss"``.
            monitor (sequence[str]): Class names, background first, on steps whose monitors are wanted.
            volumes (list[dict]): ``case``, ``image``, ``spacing``, ``frame`` and more, for ``mode="predict"``.
            mode (str): ``loss`` or ``predict``.

        Returns:
            dict | list[dict]: Losses and monitors, or the volumes with their ``predictions``.
        """
        if mode == "predict":
            return [dict(v, predictions=p) for v, p in zip(volumes, self.segment(volumes), strict=True)]
        self._update_teachers(draws)
        active = [objective for objective in self.objectives if not objective.idle(draws.number)]
        step = StepViews(self, batch, draws, active)
        losses = {}
        for objective in active:
            losses.update(objective(step))
        if monitor:
            losses.update(step.monitors(monitor))
        return losses

    def parse_losses(self, losses):
        """Add up the terms, and leave out the monitors, of which a class's name may have ``loss`` in it."""
        total, logs = super().parse_losses({k: v for k, v in losses.items() if k.startswith("loss_")})
        logs.update({k: v.mean() for k, v in losses.items() if k not in logs})
        return total, logs

    @torch.no_grad()
    def _update_teachers(self, draws):
        """Bring the teachers to a step from the weights that the last one left."""
        index = draws.step
        for kind, copies in self.teachers.items():
            if kind == "ema":
                if not draws.first:  # gradients are accumulated: the weights are those of the step before
                    continue
                # Of weights; BatchNorm's running statistics are taken as they are.
                share, least = 1 / (draws.update + 1), 1 - self.ema_momentum
                share = share.clamp(min=least) if torch.is_tensor(share) else max(share, least)
                for old, new in zip(copies.parameters(), self.networks.parameters(), strict=True):
                    old.lerp_(new, share)
                for old, new in zip(copies.buffers(), self.networks.buffers(), strict=True):
                    old.copy_(new)
            elif torch.is_tensor(index):
                for old, new in _pairs(copies, self.networks):
                    old.copy_(torch.where(index == self.static_from, new, old))
            elif index == self.static_from:
                for old, new in _pairs(copies, self.networks):
                    old.copy_(new)

    @property
    def predictors(self):
        """The networks that predict: those that train, or the averages of their weights."""
        return self.teachers["ema"] if self.prediction.averaged else self.networks

    @torch.no_grad()
    def probabilities(self, images):
        """Predict slices.

        Args:
            images (Tensor): ``(B, 1, S, S)`` float32 in [0, 1].

        Returns:
            Tensor: ``(M, B, K, S, S)`` float32, the softmax of each network.
        """
        return self.prediction.probabilities(self.predictors, images)

    def segment(self, volumes):
        """Label volumes with every network and, of two or more, their mean (the ensemble).

        Args:
            volumes (list[dict]): ``image``, ``spacing`` and ``frame`` each; see
                :meth:`cmems.models.prediction.Prediction.segment`.

        Returns:
            list[dict[str, np.ndarray]]: ``network_1`` …, ``ensemble``, ``cleaned``: ``(D, H, W)`` uint8 on the volume's
            own grid.
        """
        return self.prediction.segment(self.predictors, volumes)


def _pairs(copies, networks):
    return zip([*copies.parameters(), *copies.buffers()], [*networks.parameters(), *networks.buffers()], strict=True)


def _compiler_works():
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # a missing or broken compiler shows itself in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print_log(f"model.compile: torch.compile does not work here ({reason}); running uncompiled", "current", 30)
        return False
    return True


def _build_networks(configs):
    """Build each network from a key of its own, so that the weights of one do not depend on the others."""
    seed = torch.initial_seed()
    for m, config in enumerate(configs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_key(seed, "weights", m) % (1 << 63))
            count = config.get("num_classes", 2) if isinstance(config, dict) else 2
            if type(count) is not int or count < 2:
                raise InputError(f"model.backbone.num_classes: expected an integer of 2 or more, got {count!r}")
            try:
                yield BACKBONES.build(config)
            except RuntimeError as error:  # of sizes that no tensor has
                if memory_problem(error) is not None:
                    raise
                raise InputError(f"model.backbone: {str(error).splitlines()[0][:200]}") from error
            except AssertionError as error:  # by which mmcv refuses the settings of a layer
                reason = str(error) or "norm_cfg, act_cfg or conv_cfg lacks a setting, as GN does without num_groups"
                raise InputError(f"model.backbone: {reason.splitlines()[0][:200]}") from error


def _build_objective(config):
    name = config.get("type")
    if isinstance(name, str) and name not in LOSSES and name not in CONSISTENCY_LOSSES:
        known = sorted(
            key
            for registry in (LOSSES, CONSISTENCY_LOSSES)
            for key in registry.names()
            if isinstance(kind := registry.get(key), type) and issubclass(kind, Objective)
        )
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"objective '{name}' is not registered: {hint}known names: {', '.join(known)}")
    built = (LOSSES if name in LOSSES else CONSISTENCY_LOSSES).build(config)
    if not isinstance(built, Objective):
        raise InputError(
            f"model.objectives: expected objectives, as Supervised and Consistency, got {type(built).__name__}, "
            "a pixel loss, which one of them takes as its loss"
        )
    return built


def _perturbation(role, config):
    """Build W, S or F; of several S or F, a list, each acts in turn."""
    if isinstance(config, (list, tuple)) and role != "weak":
        config = dict(type="Compose", perturbations=list(config))
    return None if config is None else PERTURBATIONS.build_for(role, f"model.{role}", config)
