"""Objectives: what each network sees and what it answers to. A method is a list of them."""

from torch import nn

from cmems.errors import InputError
from cmems.registry import CONSISTENCY_LOSSES, LOSSES

# The paper's names of its two terms; any other pair is named after what it does.
_NAMES = {("strong", "cross"): "loss_cmip", ("feature", "cross"): "loss_cmfp"}


@LOSSES.register_module()
class Supervised(nn.Module):
    """Each network answers to the label of its own weak view (Eq. 9: L_e, L_s), summed over the networks.

    Args:
        source (str): ``exemplar``, ``synthetic`` or another source that serves labels.
        weight (float): Factor of the term.
        loss (dict): Pixel loss.
        name (str | None): Key in the log. Default ``loss_<source>``.
    """

    def __init__(self, source, weight=1.0, loss=None, name=None):
        super().__init__()
        self.source, self.weight = source, weight
        self.name = name or f"loss_{source}"
        self.loss = LOSSES.build(loss or dict(type="CrossEntropyDice"))

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        return _missing(self, self.source, sources)

    def forward(self, step):
        """Return ``{name: 0-d loss}`` of a :class:`cmems.models.learners.views.StepViews`."""
        total = sum(
            self.loss(step.logits(m, self.source, "weak", owner=m), step.labels(self.source, owner=m))
            for m in range(step.num_networks)
        )
        return {self.name: self.weight * total}


@CONSISTENCY_LOSSES.register_module()
class Consistency(nn.Module):
    """Each network, on a perturbed view of its teacher's image, answers to its teacher's pseudo-label.

    ``student="strong", teacher="cross"`` is L_cmip (Eq. 4-5): the network sees the *other* network's weak view,
    strongly perturbed. ``student="feature", teacher="cross"`` is L_cmfp (Eq. 7-8): it encodes the other's weak view
    and decodes perturbed features. Of more than two networks, m learns from m+1, the last from the first.

    Args:
        student (str): ``weak``, ``strong`` or ``feature``: the view the student sees.
        teacher (str): ``cross``: the other network; ``self``: the same network.
        weight (float): λ.
        source (str): Where the images come from.
        loss (dict): Pixel loss.
        name (str | None): Key in the log. Default ``loss_cmip``, ``loss_cmfp``, or ``loss_<student>_<teacher>``.
    """

    def __init__(self, student, teacher, weight=1.0, source="unlabeled", loss=None, name=None):
        super().__init__()
        for key, value, known in (
            ("student", student, ("weak", "strong", "feature")),
            ("teacher", teacher, ("cross", "self")),
        ):
            if value not in known:
                raise InputError(f"Consistency: {key}: expected one of {', '.join(known)}, got {value!r}")
        self.student, self.teacher, self.weight, self.source = student, teacher, weight, source
        self.name = name or _NAMES.get((student, teacher), f"loss_{student}_{teacher}")
        self.loss = LOSSES.build(loss or dict(type="CrossEntropyDice"))

    def check(self, learner, sources):
        """Return what keeps this objective from running, one line per problem."""
        problems = _missing(self, self.source, sources)
        if self.teacher == "cross" and learner.num_networks < 2:
            problems.append(
                "Consistency: teacher='cross' needs num_networks of 2 or more; with one, use teacher='self'"
            )
        if self.student != "weak" and getattr(learner, self.student) is None:
            problems.append(f"Consistency: student='{self.student}' needs the learner's '{self.student}' perturbation")
        return problems

    def forward(self, step):
        """Return ``{name: 0-d loss}`` of a :class:`cmems.models.learners.views.StepViews`."""
        total = 0
        for m in range(step.num_networks):
            owner = (m + 1) % step.num_networks if self.teacher == "cross" else m
            target = step.pseudo_label(owner, self.source)
            logits = step.logits(m, self.source, self.student, owner)
            total = total + self.loss(logits, target.labels, target.weight)
        return {self.name: self.weight * total}


def _missing(objective, source, sources):
    if source in sources:
        return []
    kind = type(objective).__name__
    return [f"{kind}: source '{source}' is not in train_dataloader, which has: {', '.join(sources) or 'none'}"]
