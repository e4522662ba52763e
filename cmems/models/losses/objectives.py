"""Objectives: what each network sees and what it answers to. A method is a list of them."""

import torch
from mmengine.dist import get_world_size
from torch import nn

from cmems import processes
from cmems.errors import InputError
from cmems.models.perturbations.base import check_draws
from cmems.registry import CONSISTENCY_LOSSES, LOSSES, PERTURBATIONS

# The paper's names of its two terms; any other pair is named after what it does.
_NAMES = {("strong", "cross"): "loss_cmip", ("feature", "cross"): "loss_cmfp"}


class Objective(nn.Module):
    """A term of the total loss. A subclass defines ``value``, and ``check`` where it can be misused.

    Args:
        name (str): Key in the log; it begins with ``loss_``.
        source (str): Where its images come from.
        weight (float): Factor of the term.
        ramp_up (int): Steps over which the factor grows as ``exp(-5 (1 - t)^2)`` (Laine & Aila 2017), from ``begin``;
            0: at once.
        begin (int): First step of the term.
        end (int | None): Step from which on it is absent again.

    Attributes:
        teacher (str | None): ``cross``, ``self``, ``ema`` or ``static``: whose pseudo-label it answers to.
        needs_levels (bool): It reads the decoder's feature maps.
        takes_unknown (bool): It knows what to do with labels of 255, unknown.
        reaches_all (bool): Every weight of a network takes a gradient from it.
    """

    teacher = None
    needs_levels = False
    takes_unknown = False
    reaches_all = True

    def __init__(self, name, source, weight=1.0, ramp_up=0, begin=0, end=None):
        super().__init__()
        for key, value in (("name", name), ("source", source)):
            if not isinstance(value, str):
                raise InputError(f"{type(self).__name__}: {key}: expected a text, got {value!r}")
        if not name.startswith("loss_"):  # MMEngine adds up what is called a loss, and nothing else
            raise InputError(f"{type(self).__name__}: name: expected one that begins with loss_, got {name!r}")
        self.name, self.source, self.weight = name, source, weight
        self.ramp_up, self.begin, self.end = ramp_up, begin, end
        check_draws(self, sizes=["weight", "ramp_up", "begin", *["end"] * (end is not None)])

    @property
    def sources(self):
        """Names of the sources it reads."""
        return (self.source,)

    def bind(self, networks):
        """Make what depends on the networks; called once, before training."""

    def asks(self, network, num_networks):
        """Return the ``(source, view, owner)`` that it will ask the network's logits of, as whole forwards, if any.

        It serves ``model.batch_views`` alone: what is not named runs when it is asked for.
        """
        return ()

    @property
    def labelled_sources(self):
        """Names of those whose labels it reads."""
        return ()

    @property
    def mixed_sources(self):
        """Names of those of which it mixes an image with another of its batch, or compares them."""
        return ()

    @property
    def perturbations(self):
        """What of the learner's it sees images through, beside W: ``strong``, ``feature``."""
        return ()

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        kind, known, problems = type(self).__name__, ", ".join(sources) or "none", []
        for name in self.sources:
            if name not in sources:
                problems.append(f"source '{name}' is not in train_dataloader, which has: {known}")
            elif getattr(sources[name], "partial", False) and not self.takes_unknown:
                problems.append(
                    f"some labels of source '{name}' are unknown (255), which this objective would take for a class"
                )
        for name in self.labelled_sources:
            if not getattr(sources.get(name), "serves_labels", True):
                which = type(sources[name]).__name__
                problems.append(f"expected a source of labels, got '{name}', a {which}, which has none")
        for name in self.mixed_sources:
            size = getattr(sources.get(name), "batch_size", None)
            if size is not None and size * get_world_size() < 2:
                problems.append(
                    f"expected a batch_size of 2 or more of source '{name}', whose images it takes together"
                )
        for name in self.perturbations:
            if getattr(learner, name) is None:
                problems.append(f"expected a {name} perturbation in model.{name}, got None")
        return [f"{kind}: {problem}" for problem in problems]

    def idle(self, index):
        """Tell whether step ``index``, an int, has no part for this term."""
        return not (self.begin <= index and (self.end is None or index < self.end))

    def factor(self, index):
        """Return the factor at step ``index``, which is not :meth:`idle`; a number, or a 0-d tensor of a tensor."""
        factor = self.weight
        if torch.is_tensor(index):
            if self.ramp_up:
                missing = (1 - (index - self.begin).float() / self.ramp_up).clamp(0, 1)
                factor = factor * torch.exp(-5 * missing**2)
        elif self.ramp_up:
            missing = min(max(1 - (index - self.begin) / self.ramp_up, 0.0), 1.0)
            factor = factor * float(torch.exp(torch.tensor(-5 * missing**2)))
        return factor

    def forward(self, step):
        """Return ``{name: 0-d loss}`` of a :class:`cmems.models.learners.views.StepViews`."""
        return {self.name: self.factor(step.index) * self.value(step)}

    def value(self, step):
        """Return the term before its factor, a 0-d tensor."""
        raise TypeError(f"{type(self).__name__} does not define value")


def _pixel_loss(objective, config, soft=True):
    """Build the pixel loss of an objective; ``soft`` tells whether one of probabilities fits."""
    built = LOSSES.optional(config, dict(type="CrossEntropyDice"))
    kind, where = type(built).__name__, type(objective).__name__
    if isinstance(built, Objective):
        raise InputError(f"{where}: loss: expected a pixel loss, as CrossEntropyDice, got {kind}, an objective")
    if getattr(built, "soft", False) and not soft:
        raise InputError(
            f"{where}: loss: expected one of labels, as CrossEntropyDice, got {kind}, one of probabilities"
        )
    return built


@LOSSES.register_module()
class Supervised(Objective):
    """Each network answers to the label of its own weak view (Eq. 9: L_e, L_s), summed over the networks.

    Args:
        source (str): ``exemplar``, ``synthetic`` or another source that serves labels.
        loss (dict): Pixel loss.
        view (str): ``weak``, or ``strong``: the weak view, strongly perturbed.
        unknown (float): What a pixel of unknown label (255) counts, as background: 0, nothing; 1, as much as any
            other; between, see the loss.
        mixup (bool): Mix each image with the one before it in the batch, in a share drawn uniformly per step, and
            answer to both labels in that share (Zhang et al. 2018, Beta(1, 1); Table 10).
        name (str | None): Key in the log. Default ``loss_<source>``.
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every :class:`Objective`.
    """

    takes_unknown = True

    def __init__(self, source, loss=None, view="weak", unknown=0.0, mixup=False, name=None, **schedule):
        super().__init__(name or f"loss_{source}", source, **schedule)
        if view not in ("weak", "strong"):
            raise InputError(f"Supervised: view: expected 'weak' or 'strong', got {view!r}")
        self.view = view
        self.loss = _pixel_loss(self, loss, soft=False)
        self.unknown = unknown
        self.mixup = mixup
        check_draws(self, sizes=["unknown"])

    @property
    def labelled_sources(self):
        """Its source."""
        return (self.source,)

    @property
    def mixed_sources(self):
        """Its source, with mixup."""
        return (self.source,) * self.mixup

    @property
    def perturbations(self):
        """What its view takes."""
        return ("strong",) if self.view == "strong" else ()

    def asks(self, network, num_networks):
        """Return the network's own view."""
        return () if self.mixup else ((self.source, self.view, network),)

    def value(self, step):
        """Sum over the networks."""
        return sum(self._of(step, m) for m in range(step.num_networks))

    def _of(self, step, m):
        labels, unknown, weight = step.labels(self.source, m), step.unknown(self.source, m), None
        if unknown is not None:
            labels = labels.masked_fill(unknown, 0)
            weight = torch.where(unknown, self.unknown, 1.0)
        if not self.mixup:
            return self.loss(step.logits(m, self.source, self.view, owner=m), labels, weight)
        share = step.draws.stream("mixup", self.name, m).uniform(1, batch=None)
        images = step.images(self.source, self.view, m)
        logits = step.run(m, images.lerp(processes.neighbours(images), share), "mixup", self.name)
        other = weight if weight is None else processes.neighbours(weight)
        ours, theirs = self.loss(logits, labels, weight), self.loss(logits, processes.neighbours(labels), other)
        return ((1 - share) * ours + share * theirs).squeeze()


@CONSISTENCY_LOSSES.register_module()
class Consistency(Objective):
    """Each network, on a perturbed view of its teacher's image, answers to its teacher's pseudo-label.

    ``student="strong", teacher="cross"`` is L_cmip (Eq. 4-5): the network sees the *other* network's weak view,
    strongly perturbed. ``student="feature", teacher="cross"`` is L_cmfp (Eq. 7-8): it encodes the other's weak view
    and decodes perturbed features. Of more than two networks, m learns from m+1, the last from the first.

    Args:
        student (str): ``weak``, ``strong``, ``strong2`` (a second, independent strong view of the same weak view) or
            ``feature``: the view the student sees.
        teacher (str): ``cross``: the other network; ``self``: the same network; ``ema``: the average of the network's
            past weights (Tarvainen & Valpola 2017); ``static``: the network as it was at step ``begin``, without
            dropout, on the unperturbed image, its labels moved with the weak view.
        source (str): Where the images come from.
        unknown (bool): Of a source with labels, answer only where they are unknown (255): what a background's own
            organs are, its teacher says.
        loss (dict): Pixel loss; ``SoftmaxMSE`` compares with the teacher's probabilities, the others with its labels.
        mix (dict | None): Mix each image, its pseudo-label alike, with the one before in the batch, e.g. ``CutMix``.
        name (str | None): Key in the log. Default ``loss_cmip``, ``loss_cmfp``, or ``loss_<student>_<teacher>``.
        **schedule: ``weight`` (λ), ``ramp_up``, ``begin``, ``end`` of every :class:`Objective`.
    """

    takes_unknown = True

    def __init__(self, student, teacher, source="unlabeled", unknown=False, loss=None, mix=None, name=None, **schedule):
        for key, value, known in (
            ("student", student, ("weak", "strong", "strong2", "feature")),
            ("teacher", teacher, ("cross", "self", "ema", "static")),
        ):
            if value not in known:
                raise InputError(f"Consistency: {key}: expected one of {', '.join(known)}, got {value!r}")
        name = name or (f"loss_{source}_unknown" if unknown else _NAMES.get((student, teacher)))
        super().__init__(name or f"loss_{student}_{teacher}", source, **schedule)
        if mix and student == "feature":
            raise InputError("Consistency: mix: expected None with student='feature', whose features are not mixed")
        if mix and unknown:
            raise InputError("Consistency: mix: expected None with unknown=True, whose pixels are not mixed")
        self.unknown = unknown
        self.student, self.teacher = student, teacher
        self.loss = _pixel_loss(self, loss)
        self.mix = None if mix is None else PERTURBATIONS.build_for("mix", "Consistency: mix", mix)

    @property
    def labelled_sources(self):
        """Its source, where it asks which labels are unknown."""
        return (self.source,) if self.unknown else ()

    @property
    def mixed_sources(self):
        """Its source, where it mixes."""
        return () if self.mix is None else (self.source,)

    @property
    def perturbations(self):
        """What its student's view takes."""
        return dict(strong=("strong",), strong2=("strong",), feature=("feature",)).get(self.student, ())

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        problems = super().check(learner, sources)
        if self.teacher == "cross" and learner.num_networks < 2:
            problems.append(
                "Consistency: teacher='cross' needs num_networks of 2 or more; with one, use teacher='self'"
            )
        if self.unknown and self.source in sources and not problems and not sources[self.source].partial:
            problems.append(f"Consistency: unknown=True, but the labels of source '{self.source}' are all known")
        return problems

    def asks(self, network, num_networks):
        """Return the student's view, unless its features or its mixture are asked for."""
        if self.mix or self.student == "feature":
            return ()
        return ((self.source, self.student, self._owner(network, num_networks)),)

    def _owner(self, network, num_networks):
        return (network + 1) % num_networks if self.teacher == "cross" else network

    def value(self, step):
        """Sum over the networks."""
        total = 0
        for m in range(step.num_networks):
            owner = self._owner(m, step.num_networks)
            target = step.pseudo_label(owner, self.source, self.teacher)
            if self.unknown:
                target = self._unknown(step, owner, target)
            if self.mix:
                logits, target = self._mixed(step, m, owner, target)
            else:
                logits = step.logits(m, self.source, self.student, owner)
            answer = target.probabilities if getattr(self.loss, "soft", False) else target.labels
            total = total + self.loss(logits, answer, target.weight)
        return total

    def _unknown(self, step, owner, target):
        """Leave, of a pseudo-label, the confident pixels whose label is unknown."""
        return target._replace(weight=(step.unknown(self.source, owner) & target.confident).float())

    def _mixed(self, step, m, owner, target):
        images = step.images(self.source, self.student, owner)
        # The box is the owner's, so that networks that share a view share its mixture too.
        owner = step.owner(self.source, owner)
        mask = self.mix.draw(step.draws.stream("mix", self.name, owner), len(images), images.shape[-2:])["mask"]
        logits = step.run(m, self.mix.apply(images, mask), "mix", self.name, owner)
        mixed = [value if value is None else self.mix.apply(value, mask) for value in target]
        return logits, type(target)(*mixed)


@CONSISTENCY_LOSSES.register_module()
class CopyPaste(Objective):
    """Bidirectional copy-paste (Bai et al., CVPR 2023): a box of a labelled image in an unlabelled one, and back.

    The network answers to the label inside what is labelled and to its EMA teacher's pseudo-label elsewhere.

    Args:
        labeled (str): A source that serves labels.
        source (str): The unlabelled source, whose batch must be as large.
        box (float): Side of the box as a share of the image's (their 2/3).
        pseudo_weight (float): Factor of the pseudo-labelled part (their 0.5).
        loss (dict): Pixel loss.
        name (str | None): Key in the log. Default ``loss_copy_paste``.
        **schedule: ``weight``, ``ramp_up``, ``begin``, ``end`` of every :class:`Objective`.
    """

    teacher = "ema"

    def __init__(
        self, labeled, source="unlabeled", box=2 / 3, pseudo_weight=0.5, loss=None, name="loss_copy_paste", **schedule
    ):
        super().__init__(name, source, **schedule)
        if not isinstance(labeled, str):
            raise InputError(f"CopyPaste: labeled: expected a source, got {labeled!r}")
        self.labeled, self.box, self.pseudo_weight = labeled, box, pseudo_weight
        check_draws(self, probabilities=["box"], sizes=["pseudo_weight"])
        self.loss = _pixel_loss(self, loss, soft=False)

    @property
    def sources(self):
        """Names of the sources it reads."""
        return (self.labeled, self.source)

    @property
    def labelled_sources(self):
        """The labelled one."""
        return (self.labeled,)

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        problems = super().check(learner, sources)
        sizes = [sources[name].batch_size for name in self.sources if name in sources]
        if len(set(sizes)) > 1:
            problems.append(
                f"CopyPaste: '{self.labeled}' and '{self.source}' need one batch_size, got {sizes[0]} and {sizes[1]}"
            )
        return problems

    def value(self, step):
        """Sum over the networks and both directions."""
        total = 0
        for m in range(step.num_networks):
            ours, theirs = (step.images(name, "weak", m) for name in self.sources)
            labels, target = step.labels(self.labeled, m), step.pseudo_label(m, self.source, "ema")
            inside = self._box(step, m, ours)
            for direction, mask in (("in", inside), ("out", ~inside)):
                logits = step.run(m, torch.where(mask.unsqueeze(1), ours, theirs), self.name, direction)
                labelled, pseudo = mask.float(), (~mask).float()
                if target.weight is not None:
                    pseudo = pseudo * target.weight
                total = total + self.loss(logits, labels, labelled)
                total = total + self.pseudo_weight * self.loss(logits, target.labels, pseudo)
        return total

    def _box(self, step, m, images):
        """Return a ``(B, H, W)`` bool mask, one box per sample."""
        n, (height, width) = len(images), images.shape[-2:]
        corner = step.draws.stream("box", self.name, m).uniform((2, n, 1), 0, 1 - self.box, batch=1)
        rows, columns = (
            (torch.arange(side, device=images.device) + 0.5) / side for side in (height, width)
        )  # pixel centres
        row = (rows >= corner[0]) & (rows < corner[0] + self.box)
        column = (columns >= corner[1]) & (columns < corner[1] + self.box)
        return row.unsqueeze(2) & column.unsqueeze(1)
