"""From networks to a volume's labels on its own grid."""

import numpy as np
import torch
from scipy import ndimage

from cmems import geometry, ops
from cmems.errors import InputError
from cmems.labels import UNKNOWN, check_labels
from cmems.models.doubt import Doubt, entropy, mean_softmax, overlaps
from cmems.precision import computes_bfloat16
from cmems.registry import POST_PROCESSORS

_CHUNK = 8  # slices whose probabilities are brought to the scan's grid at once


class Prediction:
    """How networks label volumes; the learner's ``prediction`` config.

    Args:
        batch (int): Slices per forward, up to 4096, as many times fewer as there are scales.
        views (int): Mirror images and quarter turns whose probabilities are averaged: 1, none; 4, the mirror images;
            8, all of the square's. What W does not hold, the networks have not seen.
        scales (sequence[float]): Enlargements about the middle, 0.5 to 4, each seen in all of these views; their
            probabilities are averaged. What lies beyond an enlarged slice's border is as the largest has it that shows
            everything, so one is 1 or less.
        resize (str): What is brought back to the scan's grid: ``"labels"``, each pixel the nearest label, as TransUNet
            and SSL4MIS do; or ``"probabilities"``, bilinearly, before the arg max: no staircase at the borders.
        averaged (bool): Predict with the exponential moving average of the weights instead of the last ones.
        clean (sequence[dict]): Post-processors, in their order. Their result is ``cleaned``, made of the ensemble, or
            of network 1 where it is alone; the networks' own labels stay beside it. A part that they take from a class
            goes to the next most probable ones, unless that is background in half of it or more, and they look once
            more: a kidney taken for spleen is one then.
        bfloat16 (bool): Predict in bfloat16 where the machine computes in it.
        unknown_below (float): In masks that a further round learns from, what the networks call background with a
            probability below this is unknown, 255: organs are missed far more often than they are invented, and what a
            round learns as background it misses again. What the clean-up makes background is that, so that the round
            learns not to invent it.
    """

    def __init__(
        self,
        batch=64,
        views=1,
        scales=(1,),
        resize="labels",
        averaged=False,
        clean=(),
        bfloat16=True,
        unknown_below=0.0,
    ):
        if type(batch) is not int or not 1 <= batch <= 4096:
            raise InputError(f"model.prediction.batch: expected an integer of 1 to 4096, got {batch!r}")
        if type(views) is not int or views not in (1, 4, 8):
            raise InputError(f"model.prediction.views: expected 1, 4 or 8, got {views!r}")
        if (
            not isinstance(scales, (list, tuple))
            or not 1 <= len(scales) <= 8
            or not all(type(each) in (int, float) and 0.5 <= each <= 4 for each in scales)
            or min(scales) > 1
        ):
            raise InputError(
                "model.prediction.scales: expected 1 to 8 numbers of 0.5 to 4, one of them 1 or less, got "
                f"{scales!r:.100}"
            )
        if resize not in ("labels", "probabilities"):
            raise InputError(f"model.prediction.resize: expected 'labels' or 'probabilities', got {resize!r}")
        for name, value in (("averaged", averaged), ("bfloat16", bfloat16)):
            if not isinstance(value, bool):
                raise InputError(f"model.prediction.{name}: expected True or False, got {value!r}")
        if not isinstance(clean, (list, tuple)):
            raise InputError(f"model.prediction.clean: expected a list of dicts, each with a type, got {clean!r}")
        if (
            isinstance(unknown_below, bool)
            or not isinstance(unknown_below, (int, float))
            or not 0 <= unknown_below <= 1
        ):
            raise InputError(f"model.prediction.unknown_below: expected a probability, 0 to 1, got {unknown_below!r}")
        self.unknown_below = unknown_below
        self.batch, self.resize, self.averaged, self.bfloat16 = batch, resize, averaged, bfloat16
        self.views, self.scales = views, sorted({*scales})
        self.clean = [POST_PROCESSORS.build(step) for step in clean]

    def check(self, num_classes):
        """Raise InputError where the clean-up is of labels that networks of ``num_classes`` (None: any) do not give."""
        for step in self.clean if num_classes else ():
            check_labels(step, num_classes, "model.prediction.clean")

    def names(self, num_networks):
        """Name the label maps of each volume, in their order."""
        names = [f"network_{m + 1}" for m in range(num_networks)]
        return names + ["ensemble"] * (num_networks > 1) + ["cleaned"] * bool(self.clean)

    def probabilities(self, networks, images):
        """Predict ``(B, 1, S, S)`` slices: ``(M, B, K, S, S)`` float32, each network's mean softmax over the views."""
        return self._mean(self._logits(networks, images))

    def in_one_view(self, networks, images, number):
        """Run networks on ``(B, 1, S, S)`` slices, for what it leaves in them, in the view of that number, modulo.

        At their own scale: statistics of enlarged slices lost what they were to find (docs/accuracy.md).
        """
        self._logits(networks, images, [(1, *self._turns[number % self.views])])

    def mean_of_views(self, network, images):
        """Predict ``(B, 1, S, S)`` slices by one network, view after view: ``(B, K, S, S)`` float32 mean softmax."""
        maps = (network(_turn(images, view)).softmax(1) for view in self._list)
        return sum(self._turned_back(maps)) / len(self._list)

    @torch.no_grad()
    def segment(self, networks, volumes):
        """Label volumes slice by slice; what one gets does not depend on the others.

        Args:
            networks (sequence[nn.Module]): In evaluation mode, on one device.
            volumes (list[dict]): ``image`` ``(D, H, W)`` in [0, 1]; ``spacing`` (slice, row, column) mm; ``frame``, the
                :class:`cmems.resize.Frame` of the prepared data set, of one size for all. With ``shape``, the scan's
                (D, H, W), ``image`` is in the frame already, ``(D, S, S)``.

        Returns:
            list[dict[str, np.ndarray]]: By :meth:`names`: ``(D, H, W)`` uint8 on the volume's own grid.
        """
        return self._segment(networks, volumes)

    @torch.no_grad()
    def segment_with_doubt(self, networks, volumes, maps=False, probabilities=False):
        """Label volumes as :meth:`segment` does, and say of each what speaks against its labels.

        Args:
            networks, volumes: See :meth:`segment`.
            maps (bool): Bring the entropy to the volumes' grids too.
            probabilities (bool): Bring the mean probabilities to the volumes' grids too.

        Returns:
            tuple[list[dict], list[Doubt]]: What :meth:`segment` returns, and a :class:`cmems.models.doubt.Doubt` each.
        """
        heard = []
        labels = self._segment(networks, volumes, heard)
        depths = [len(v["image"]) for v in volumes]
        overlaps = torch.cat([each for each, _ in heard]).split(depths)
        soft = torch.cat([each for _, each in heard]).split(depths)
        doubts = []
        for volume, shared, p in zip(volumes, overlaps, soft, strict=True):
            entropies = self._entropies(p, volume) if maps else None
            whole = self._whole(p, volume) if probabilities else None
            doubts.append(Doubt(shared.sum(0).cpu().numpy(), len(networks), mean_softmax(p), entropies, whole))
        return labels, doubts

    @torch.no_grad()
    def segment_to_learn(self, networks, volume):
        """Label a volume for a further round of training: the last of :meth:`names`, 255 where that is not known.

        Args:
            networks, volume: See :meth:`segment`; one volume.

        Returns:
            np.ndarray: ``(D, H, W)`` uint8 on the volume's own grid; background beyond the networks' square.
        """
        heard = [] if self.unknown_below else None
        labels = self._segment(networks, [volume], heard)[0][self.names(len(networks))[-1]]
        if heard:
            best = self._softened(torch.cat([best for _, best in heard]))
            unsure = self._whole(best[:, :1], volume)[0] < self.unknown_below * 65535
            if self.clean:
                unsure &= self._to_grid(best, volume) == 0
            labels[unsure & (labels == 0)] = UNKNOWN
        return labels

    def _segment(self, networks, volumes, heard=None):
        """Label volumes; ``heard`` collects, by batch, the members' overlaps and the best probabilities."""
        device = next(networks[0].parameters()).device
        device = "cpu" if device.type == "mps" else device  # which has no float64, and no antialiased resizing
        soft = self.resize == "probabilities" or self.clean
        depths, answers = [len(v["image"]) for v in volumes], []
        # A forward of other images beside one's own rounds otherwise: no volume shares any.
        each = (_square(volume, device).unsqueeze(1) for volume in volumes)
        for part in (part for slices in each for part in slices.split(max(1, self.batch // len(self.scales)))):
            logits = self._logits(networks, part)
            answers.append(self._soft(logits) if soft else self._label(logits))
            if heard is not None:
                best = answers[-1][-1] if soft else self._soft(logits)[-1]
                heard.append((overlaps(list(self._by_view(logits))), best))
        finish = self._finish_soft if soft else self._finish_labels
        names = self.names(len(networks))
        return [
            dict(zip(names, finish(mine, volume), strict=True))
            for mine, volume in zip(torch.cat(answers, 1).split(depths, 1), volumes, strict=True)
        ]

    def _entropies(self, probabilities, volume):
        shape, spacing, back = _shape(volume)[1:], volume["spacing"][1:], volume["frame"].probabilities_back
        return torch.cat([entropy(back(p, shape, spacing)) for p in probabilities.split(_CHUNK)]).cpu().numpy()

    def _whole(self, probabilities, volume):
        """Bring ``(D, K, S, S)`` probabilities to the volume's grid: ``(K, D, H, W)`` uint16, 65,535 for 1."""
        (depth, *shape), back = _shape(volume), volume["frame"].probabilities_back
        found = np.empty((probabilities.shape[1], depth, *shape), np.uint16)
        for k, p in enumerate(probabilities.split(_CHUNK)):
            p = back(p, shape, volume["spacing"][1:]).transpose(0, 1)
            found[:, k * _CHUNK : (k + 1) * _CHUNK] = np.rint(p.cpu().numpy() * 65535)
        return found

    @property
    def _turns(self):
        """List the views as (quarter turns, mirrored first)."""
        turns = {1: [0], 4: [0, 2], 8: [0, 1, 2, 3]}[self.views]
        return [(k, mirrored) for k in turns for mirrored in ((0, 1) if self.views > 1 else (0,))]

    @property
    def _list(self):
        """List the views at every scale as (scale, quarter turns, mirrored first), the smallest scale first."""
        return [(scale, *turned) for scale in self.scales for turned in self._turns]

    def _logits(self, networks, images, views=None):
        """Return each network's logits of every view of the images, one view after the other."""
        batch = torch.cat([_turn(images, view) for view in views or self._list])
        # As the weights lie, which is how convolutions are fast.
        first = next(p for p in networks[0].parameters() if p.dim() == 4)
        channels_last = first.is_contiguous(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        home, device = images.device, first.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16 and computes_bfloat16(device.type)):
            return [net(batch.to(device)).to(home) for net in networks]

    def _by_view(self, logits):
        """Yield the networks' ``(M, B, K, S, S)`` softmax of each view, turned back."""
        p = torch.stack([each.float().softmax(1) for each in logits])
        return self._turned_back(p.chunk(len(self._list), 1))

    def _turned_back(self, maps):
        """Yield the views' ``(..., K, S, S)`` softmax as the slices lie, what one does not show from one that does."""
        whole = {}
        for view, p in zip(self._list, maps, strict=True):
            scale, turned = view[0], view[1:]
            p = _undo(p, view)
            if scale <= 1:
                whole[turned] = p
            yield p if scale <= 1 else p + (1 - p.sum(-3, keepdim=True)) * whole[turned]

    def _mean(self, logits):
        return sum(self._by_view(logits)) / len(self._list)

    def _soft(self, logits):
        """Return each network's probabilities, and the ensemble's behind those of M > 1."""
        p = self._mean(logits)
        return torch.cat([p, p.mean(0, keepdim=True)]) if len(logits) > 1 else p

    def _label(self, logits):
        """Label a batch's slices: ``(M, B, S, S)`` uint8, and the ensemble's labels behind those of M > 1."""
        if self._list == [(1, 0, 0)] and ops.usable(*logits, multiple=1):
            return ops.label(logits)
        return _arg_max(self._soft(logits))

    def _finish_labels(self, labels, volume):
        shape, spacing = _shape(volume), volume["spacing"][1:]
        grown = volume["frame"].labels_back(labels.flatten(0, 1), shape[1:], spacing)
        return list(grown.view(len(labels), *shape).cpu().numpy())

    def _finish_soft(self, probabilities, volume):
        found = [self._to_grid(p, volume) for p in probabilities]
        if self.clean:
            found.append(self._cleaned(self._softened(probabilities[-1]), volume))
        return found

    def _cleaned(self, probabilities, volume):
        """Label ``(D, K, S, S)`` probabilities on the volume's grid, cleaned up."""
        called = self._to_grid(probabilities, volume)
        labels = self._run_steps(called.copy(), volume)
        gone = (called > 0) & (labels == 0)
        slices = np.flatnonzero(gone.any((1, 2)))
        if len(slices):
            next_best = self._to_grid(probabilities[slices], volume, _next_best)
            part, next_best = ndimage.label(gone)[0][gone], next_best[gone[slices]]
            other = np.bincount(part, next_best > 0) > np.bincount(part) / 2
            if other.any():
                called[gone] = np.where(other[part], next_best, called[gone])
                labels = self._run_steps(called, volume)
        return labels

    def _run_steps(self, labels, volume):
        for step in self.clean:
            labels = step(labels, volume["spacing"]) if callable(step) else labels
        return labels

    def _softened(self, probabilities):
        """Change ``(D, K, S, S)`` probabilities as the clean-up does before labels are taken."""
        for step in self.clean:
            probabilities = step.soften(probabilities) if hasattr(step, "soften") else probabilities
        return probabilities

    def _to_grid(self, probabilities, volume, choose=None):
        """Bring ``(D, K, S, S)`` probabilities to ``(D, H, W)`` labels of the volume's grid, the most probable ones."""
        shape, spacing, frame = _shape(volume)[1:], volume["spacing"][1:], volume["frame"]
        choose = choose or _arg_max
        if self.resize == "labels":
            return frame.labels_back(choose(probabilities), shape, spacing).cpu().numpy()
        parts = probabilities.split(_CHUNK)  # a scan's whole probabilities may be gigabytes
        return torch.cat([choose(frame.probabilities_back(p, shape, spacing)) for p in parts]).cpu().numpy()


def _shape(volume):
    return tuple(volume.get("shape", volume["image"].shape))


def _square(volume, device):
    """Return a volume's ``(D, S, S)`` float32 slices as the networks take them."""
    image = torch.from_numpy(volume["image"]).to(device, torch.float32)
    image = image if "shape" in volume else volume["frame"].images(image, volume["spacing"][1:])
    return image.clamp(0, 1)


def _turn(images, view):
    """Make a view of ``(B, 1, S, S)`` images."""
    scale, turns, mirrored = view
    turned = torch.rot90(images.flip(3) if mirrored else images, turns, (2, 3))
    return turned if scale == 1 else _enlarge(turned, scale)


def _undo(maps, view):
    """Turn ``(..., K, S, S)`` maps of a view back; zero where it shows nothing."""
    scale, turns, mirrored = view
    turned = torch.rot90(maps, -turns, (-2, -1)) if turns else maps
    turned = turned.flip(-1) if mirrored else turned
    return turned if scale == 1 else _enlarge(turned.flatten(0, -4), 1 / scale).view(maps.shape)


def _enlarge(images, scale):
    """Enlarge ``(B, C, S, S)`` images about their middle, bilinearly; zero beyond their border."""
    matrices = geometry.affine_matrices(images.new_zeros(1), images.new_full((1,), scale))
    count = images.shape[0]  # len() would fix it in an exported graph
    return geometry.warp_images(images, geometry.grid(matrices, images.shape[-2:]).expand(count, -1, -1, -1))


def _arg_max(probabilities):
    return probabilities.max(-3).indices.to(torch.uint8)  # several times faster than argmax on CPUs


def _next_best(probabilities):
    best = probabilities.max(-3, keepdim=True).indices
    return _arg_max(probabilities.scatter(-3, best, -1))
