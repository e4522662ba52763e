"""Everything that one step's objectives may ask for, each computed once and only when asked."""

import torch

from cmems import geometry
from cmems.models.layers import views_in_one_batch
from cmems.precision import without_autocast


class StepViews:
    """The views of one step's images and the networks' answers to them.

    A *weak view* belongs to a network, its owner: ``W(I)_m`` in Algorithm 1. Where ``shared_weak`` names a source,
    every owner's view of it is the same (Table 4). BatchNorm sees one view at a time: each runs by itself, or, with the
    learner's ``batch_views``, in a batch in which statistics and dropout stay apart.

    Args:
        learner (MutualLearner): Networks, perturbations and pseudo-labeller.
        batch (dict): ``{source: dict(images=(B, 1, H, W) float32[, labels=(B, H, W) uint8][, partial=True])}``.
        draws (Draws): The step's random numbers.
        objectives (sequence[Objective]): Those that take part in this step.
    """

    def __init__(self, learner, batch, draws, objectives=()):
        self.learner, self.batch, self.draws, self.objectives = learner, batch, draws, objectives
        self.num_networks, self.num_classes = learner.num_networks, learner.networks[0].num_classes
        self.index = draws.step
        self._known = {}

    def _once(self, key, make):
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def owner(self, source, owner):
        """Return whose view of ``source`` the owner's is: its own, or the first network's where it is shared."""
        return 0 if source in self.learner.shared_weak else owner

    def matrices(self, source, owner):
        """Return the parameters of the owner's weak perturbation."""
        owner = self.owner(source, owner)
        return self._once(
            ("weak parameters", source, owner),
            lambda: self.learner.weak.draw(self.draws.stream("weak", source, owner), len(self.batch[source]["images"])),
        )

    @without_autocast
    def _weak(self, source, owner):
        owner = self.owner(source, owner)

        def make():
            given = {key: self.batch[source][key] for key in ("images", "labels") if key in self.batch[source]}
            moved = self.learner.weak.apply(**given, **self.matrices(source, owner))
            return moved if isinstance(moved, tuple) else (moved, None)

        return self._once(("weak", source, owner), make)

    @without_autocast
    def images(self, source, view, owner):
        """Return ``(B, 1, H, W)`` float32 images of the owner's ``weak``, ``strong`` or ``strong2`` view."""
        owner = self.owner(source, owner)
        weak = self._weak(source, owner)[0]
        if not view.startswith("strong"):
            return weak
        return self._once(
            (view, source, owner),
            lambda: self.learner.strong(weak, self.draws.stream(view, source, owner)),
        )

    def labels(self, source, owner):
        """Return the ``(B, H, W)`` uint8 labels of the owner's weak view; 255 is unknown."""
        return self._weak(source, owner)[1]

    def unknown(self, source, owner):
        """Return where the labels of the owner's weak view are unknown, ``(B, H, W)`` bool; None: nowhere."""
        return self.labels(source, owner) == 255 if self.batch[source].get("partial") else None

    def logits(self, network, source, view, owner):
        """Return the ``(B, K, H, W)`` logits of ``network`` on the owner's view, see :meth:`images`, or ``feature``."""
        return self._answer(network, source, view, owner)[0]

    def levels(self, network, source, view, owner, frozen=False):
        """Return the decoder's feature maps of the same forward, coarse to fine; or those of a ``frozen`` encoder."""
        if not frozen:
            return self._answer(network, source, view, owner)[1]
        owner = self.owner(source, owner)
        net, key = self.learner.networks[network], (network, source, view, owner, "student")
        return self._once(
            ("frozen", *key), lambda: self._forward(net, self.images(source, view, owner), key, frozen=True)[1]
        )

    def _answer(self, network, source, view, owner):
        owner = self.owner(source, owner)

        def make():
            images = self.images(source, view, owner)
            stream = self.draws.stream("feature", network, source, owner) if view == "feature" else None
            net, key = self.learner.networks[network], (network, source, view, owner, "student")
            return self._forward(net, images, key, stream)

        if self.learner.batch_views and view != "feature":
            self._answer_together(network)
        return self._once(("answer", network, source, view, owner), make)

    def _answer_together(self, network):
        """Run, in one batch, the whole forwards of a network that the step's objectives will ask for."""
        net = self.learner.networks[network]
        if not net.takes_views_together or torch.is_tensor(self.index):
            return
        asked = [ask for o in self.objectives for ask in o.asks(network, self.num_networks)]
        asked = dict.fromkeys((network, s, view, self.owner(s, owner)) for s, view, owner in asked)
        asked = [key for key in asked if ("answer", *key) not in self._known]
        keys = [self.draws.key("dropout", *key, "student") for key in asked]
        images = [self.images(*key[1:]) for key in asked]
        if len(asked) < 2 or not images[0].is_cpu:
            return
        sizes = [len(each) for each in images]
        generators = [torch.Generator().manual_seed(key % (1 << 63)) for key in keys]
        with views_in_one_batch(sizes, generators):
            logits, levels = self._forward(net, torch.cat(images), (network, "together"))
        levels = zip(*(level.split(sizes) for level in levels), strict=True) if levels else [None] * len(sizes)
        answers = zip(logits.split(sizes), levels, strict=True)
        self._known.update((("answer", *key), answer) for key, answer in zip(asked, answers, strict=True))

    def run(self, network, images, *purpose):
        """Return the logits of ``network`` on ``(B, 1, H, W)`` images that are no view; ``purpose`` keys dropout."""
        return self._forward(self.learner.networks[network], images, (network, *purpose))[0]

    def pseudo_label(self, network, source, teacher="self"):
        """Return a :class:`PseudoLabel` for the weak view of ``network`` (Eq. 2-3); no gradient flows from it.

        Args:
            network (int): Whose view, and whose weights.
            source (str): Where the images come from.
            teacher (str): ``self`` or ``cross``: the network itself; ``ema``: the average of its past weights;
                ``static``: the network as it was.
        """
        teacher = "self" if teacher == "cross" else teacher
        return self._once(("pseudo-label", network, source, teacher), lambda: self._label(network, source, teacher))

    @torch.no_grad()
    def _label(self, network, source, teacher):
        learner, owner = self.learner, self.owner(source, network)
        net = learner.networks[network] if teacher == "self" else learner.teachers[teacher][network]
        key = (network, source, "weak", owner, "teacher" if teacher == "self" else teacher)
        training = net.training
        if learner.pseudo_label_mode == "eval" or teacher == "static":
            net.eval()
        images = self.batch[source]["images"] if teacher == "static" else self.images(source, "weak", owner)
        logits = self._forward(net, images, key)[0]
        net.train(training)
        if teacher == "static":  # what lies outside the moved image is background
            logits = _moved(logits.float(), self.matrices(source, owner)["matrices"])
        return learner.pseudo_labeler(logits)

    def _forward(self, net, images, key, features=None, frozen=False):
        """Return logits and decoder levels; ``features`` is the stream of a feature perturbation, or None.

        Of a ``frozen`` encoder no weight takes a gradient.
        """
        # Dropout inside the network draws from torch's generator: set it, so that no other forward moves it.
        key = self.draws.key("dropout", *key)
        if not torch.is_tensor(key):
            torch.manual_seed(key % (1 << 63))
        images = images.contiguous(memory_format=self.learner.memory_format)
        if features is None and not self.learner.needs_levels:
            return net(images), None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            maps = net.encode(images)
        if features is not None:
            maps = self.learner.feature(maps, features)
        if not self.learner.needs_levels:
            return net.decode(maps), None
        levels = net.decode_levels(maps)
        return net.head(levels[-1]), levels

    @torch.no_grad()
    def monitors(self, class_names):
        """Return what warns of a collapse, as 0-d tensors.

        Of the pseudo-labels of images without labels: ``share_confident``, share of pixels at or above τ;
        ``share_<class>``, share of pixels that count as the class; ``agreement``, of the pixels that any network
        calls an organ, the share that all label alike, compared on the unperturbed grid; ``agreement_<class>``, the
        Dice of the networks' labels of an organ there. Both are 0 where no network finds any: agreeing on background
        alone says nothing.
        """
        found = {key[1:3]: value for key, value in self._known.items() if key[0] == "pseudo-label"}
        found = {key: value for key, value in found.items() if "labels" not in self.batch[key[1]]}
        if not found:
            return {}
        targets = list(found.values())
        logs = dict(share_confident=torch.stack([t.confident.float().mean() for t in targets]).mean())
        for k, name in enumerate(class_names):
            logs[f"share_{name}"] = torch.stack([_share(t, k) for t in targets]).mean()
        for source in dict.fromkeys(source for _, source in found):
            if "matrices" not in self.matrices(source, 0):  # a W of one's own, which nothing here can undo
                continue
            at_home = [self._at_home(m, source, t) for (m, s), t in found.items() if s == source]
            if len(at_home) > 1:
                first, seen = at_home[0], torch.stack([a < 255 for a in at_home]).all(0)
                alike = torch.stack([a == first for a in at_home[1:]]).all(0)
                organ = torch.stack([a > 0 for a in at_home]).any(0) & seen
                logs["agreement"] = (alike & organ).sum() / organ.sum().clamp(min=1)
                for k, name in list(enumerate(class_names))[1:]:
                    organs = [(a == k) & seen for a in at_home]
                    both = torch.stack(organs).all(0).sum()
                    mean = torch.stack(organs).float().mean(0).sum()
                    logs[f"agreement_{name}"] = both / mean.clamp(min=0.5)
        return logs

    @without_autocast
    def _at_home(self, network, source, target):
        """Move a pseudo-label back onto the grid of the images; 255 where the weak view did not reach."""
        matrices = geometry.invert(self.matrices(source, network)["matrices"])
        return geometry.warp_labels(target.labels, geometry.grid(matrices, target.labels.shape[-2:]), outside=255)


@without_autocast
def _moved(values, matrices):
    """Move ``(B, C, H, W)`` values as an affine weak perturbation moves images."""
    return geometry.warp_images(values, geometry.grid(matrices, values.shape[-2:]))


def _share(target, k):
    """Return the share of a pseudo-label's pixels that count as class ``k``."""
    counts = target.labels == k
    return (counts if target.weight is None else counts * target.weight).float().mean()
