"""Everything that one step's objectives may ask for, each computed once and only when asked."""

import torch

from cmems import geometry


class StepViews:
    """The views of one step's images and the networks' answers to them.

    A *weak view* belongs to a network, its owner: ``W(I)_m`` in Algorithm 1. Where ``shared_weak`` names a source,
    every owner's view of it is the same (Table 4). Every forward runs by
    itself, so that BatchNorm sees one view at a time.

    Args:
        learner (MutualLearner): Networks, perturbations and pseudo-labeller.
        batch (dict): ``{source: dict(images=(B, 1, H, W) float32[, labels=(B, H, W) uint8])}``.
        draws (Draws): The step's random numbers.
    """

    def __init__(self, learner, batch, draws):
        self.learner, self.batch, self.draws = learner, batch, draws
        self.num_networks = learner.num_networks
        self._known = {}

    def _once(self, key, make):
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _owner(self, source, owner):
        return 0 if source in self.learner.shared_weak else owner

    def matrices(self, source, owner):
        """Return the parameters of the owner's weak perturbation."""
        owner = self._owner(source, owner)
        return self._once(
            ("weak parameters", source, owner),
            lambda: self.learner.weak.draw(self.draws.stream("weak", source, owner), len(self.batch[source]["images"])),
        )

    def _weak(self, source, owner):
        owner = self._owner(source, owner)

        def make():
            moved = self.learner.weak.apply(**self.batch[source], **self.matrices(source, owner))
            return moved if isinstance(moved, tuple) else (moved, None)

        return self._once(("weak", source, owner), make)

    def images(self, source, view, owner):
        """Return ``(B, 1, H, W)`` float32 images of the owner's ``weak`` or ``strong`` view."""
        owner = self._owner(source, owner)
        weak = self._weak(source, owner)[0]
        if view != "strong":
            return weak
        return self._once(
            ("strong", source, owner),
            lambda: self.learner.strong(weak, self.draws.stream("strong", source, owner)),
        )

    def labels(self, source, owner):
        """Return the ``(B, H, W)`` uint8 labels of the owner's weak view."""
        return self._weak(source, owner)[1]

    def logits(self, network, source, view, owner):
        """Return the ``(B, K, H, W)`` logits of ``network`` on the owner's ``weak``, ``strong`` or ``feature`` view."""
        owner = self._owner(source, owner)
        return self._once(("logits", network, source, view, owner), lambda: self._run(network, source, view, owner))

    def pseudo_label(self, network, source):
        """Return the :class:`PseudoLabel` of ``network`` on its own weak view (Eq. 2-3); no gradient flows from it."""
        return self._once(("pseudo-label", network, source), lambda: self._pseudo_label(network, source))

    def _pseudo_label(self, network, source):
        net = self.learner.networks[network]
        training = net.training
        if self.learner.pseudo_label_mode == "eval":
            net.eval()
        with torch.no_grad():
            logits = self._run(network, source, "weak", self._owner(source, network), "teacher")
        net.train(training)
        return self.learner.pseudo_labeler(logits)

    def _run(self, network, source, view, owner, role="student"):
        net, images = self.learner.networks[network], self.images(source, view, owner)
        # Dropout inside the network draws from torch's generator: set it, so that no other forward moves it.
        key = self.draws.key("dropout", network, source, view, owner, role)
        if not torch.is_tensor(key):
            torch.manual_seed(key % (1 << 63))
        images = images.contiguous(memory_format=self.learner.memory_format)
        if view != "feature":
            return net(images)
        stream = self.draws.stream("feature", network, source, owner)
        return net.decode(self.learner.feature(net.encode(images), stream))

    @torch.no_grad()
    def monitors(self, class_names):
        """Return what warns of a collapse, as 0-d tensors.

        ``share_confident``: share of pixels at or above τ. ``agreement``: share of pixels that the networks label
        alike, compared on the unperturbed grid. ``share_<class>``: share of the pseudo-label's pixels.
        """
        found = {key[1:]: value for key, value in self._known.items() if key[0] == "pseudo-label"}
        if not found:
            return {}
        targets = list(found.values())
        logs = dict(share_confident=torch.stack([t.confident.float().mean() for t in targets]).mean())
        for k, name in enumerate(class_names):
            logs[f"share_{name}"] = torch.stack([(t.labels == k).float().mean() for t in targets]).mean()
        for source in dict.fromkeys(source for _, source in found):
            at_home = [self._at_home(m, source, t) for (m, s), t in found.items() if s == source]
            if len(at_home) > 1:
                first, seen = at_home[0], torch.stack([a < 255 for a in at_home]).all(0)
                alike = torch.stack([a == first for a in at_home[1:]]).all(0)
                logs["agreement"] = (alike & seen).sum() / seen.sum().clamp(min=1)
        return logs

    def _at_home(self, network, source, target):
        """Move a pseudo-label back onto the grid of the images; 255 where the weak view did not reach."""
        matrices = geometry.invert(self.matrices(source, network)["matrices"])
        return geometry.warp_labels(target.labels, geometry.grid(matrices, target.labels.shape[-2:]), outside=255)
