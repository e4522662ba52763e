"""The same step as semi-supervised peers write it: float32, NCHW, per-sample scipy augmentation in DataLoader workers.

Used by step.py; every forward of the CMEMS step is made, one per view, and losses are read with ``.item()`` every step.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from cmems import ops
from cmems.models.layers import Dropout, MaxPool2x, Upsample2x
from cmems.registry import BACKBONES


class PeerSamples(Dataset):
    """One index is one sample of each source: exemplar, synthetic, unlabelled; two weak views of each, and jitter."""

    def __init__(self, images, exemplar, label, length):
        self.images, self.exemplar, self.label, self.length = images, exemplar, label, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        background = self.images[random.integers(len(self.images))].astype(np.float32)
        pasted, mask = paste(random, self.exemplar, self.label, background)
        unlabeled = self.images[random.integers(len(self.images))].astype(np.float32)
        sample = {}
        for m in range(2):
            sample[f"exemplar{m}"], sample[f"exemplar_label{m}"] = weak(random, self.exemplar, self.label)
            sample[f"synthetic{m}"], sample[f"synthetic_label{m}"] = weak(random, pasted, mask)
            sample[f"weak{m}"], _ = weak(random, unlabeled, self.label)
            sample[f"strong{m}"] = jitter(random, sample[f"weak{m}"])
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in sample.items()}


def weak(random, image, label):
    """Quarter turns, flip and ±20° of one slice and its label."""
    turns = random.integers(4)
    image, label = np.rot90(image, turns), np.rot90(label, turns)
    if random.random() < 0.5:
        image, label = np.fliplr(image), np.fliplr(label)
    angle = random.uniform(-20, 20)
    image = ndimage.rotate(image, angle, order=1, reshape=False)
    return image.astype(np.float32), ndimage.rotate(label, angle, order=0, reshape=False)


def jitter(random, image):
    """Brightness and contrast of one slice."""
    image = np.clip(image * random.uniform(0, 2), 0, 1)
    contrast, mean = random.uniform(0, 2), image.mean()
    return np.clip(image * contrast + (1 - contrast) * mean, 0, 1).astype(np.float32)


def paste(random, exemplar, label, background):
    """One synthetic slice."""
    angle, scale = random.uniform(-np.pi, np.pi), random.uniform(0.7, 1.4)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = np.array(exemplar.shape) / 2
    offset = middle - matrix @ (middle + random.uniform(-0.15, 0.15, 2) * exemplar.shape)
    changed = np.clip(exemplar ** random.uniform(0.7, 1.5) * random.uniform(0.7, 1.3), 0, 1)
    organs = ndimage.affine_transform(changed, matrix, offset, order=1)
    mask = ndimage.affine_transform(label, matrix, offset, order=0)
    background = ndimage.rotate(background, random.uniform(-180, 180), order=1, reshape=False)
    return np.where(mask > 0, organs, background).astype(np.float32), mask


class PeerStep:
    """The plain loop; call it once per step. It switches the compiled kernels off in its process.

    Args:
        images (np.ndarray): ``(N, S, S)`` training slices in [0, 1].
        exemplar, label (np.ndarray): The labelled slice.
        num_classes (int): K.
        batch_size (int): Images of each source.
        workers (int): DataLoader workers.
    """

    def __init__(self, images, exemplar, label, num_classes, batch_size, workers):
        ops.enable(False)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.nets = [plain(BACKBONES.build(dict(type="UNet", num_classes=num_classes))) for _ in range(2)]
        self.nets = [net.to(self.device).train() for net in self.nets]
        self.optimizer = torch.optim.Adam([p for n in self.nets for p in n.parameters()], 3e-4, weight_decay=1e-4)
        samples = PeerSamples(images, exemplar, label, batch_size * 10000)
        self.batches = iter(DataLoader(samples, batch_size, num_workers=workers))

    def __call__(self):
        """Make one step; return the losses as floats."""
        batch = next(self.batches)
        batch = {key: value.to(self.device) for key, value in batch.items()}
        view = lambda name: batch[name].unsqueeze(1)  # noqa: E731
        targets = []
        for m, net in enumerate(self.nets):
            with torch.no_grad():
                confidence, label = net(view(f"weak{m}")).softmax(1).max(1)
            targets.append(label * (confidence >= 0.8))
        losses = [torch.zeros((), device=self.device) for _ in range(4)]
        for m, net in enumerate(self.nets):
            other = 1 - m
            losses[0] = losses[0] + ce_dice(net(view(f"exemplar{m}")), batch[f"exemplar_label{m}"])
            losses[1] = losses[1] + ce_dice(net(view(f"synthetic{m}")), batch[f"synthetic_label{m}"])
            losses[2] = losses[2] + ce_dice(net(view(f"strong{other}")), targets[other])
            features = [F.dropout2d(f, 0.5) for f in net.encode(view(f"weak{other}"))]
            losses[3] = losses[3] + ce_dice(net.decode(features), targets[other])
        total = losses[0] + losses[1] + losses[2] + 0.09 * losses[3]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return [loss.item() for loss in losses]


def plain(net):
    """Give a UNet torch's own layers."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
            elif isinstance(child, Upsample2x):
                setattr(module, name, Upsample())
            elif isinstance(child, MaxPool2x):
                setattr(module, name, nn.MaxPool2d(2))
    return net


class Upsample(nn.Upsample):
    """torch's upsampling, then torch's concatenation."""

    def __init__(self):
        super().__init__(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x, skip):
        """Upsample and join."""
        return torch.cat([skip, super().forward(x)], dim=1)


def ce_dice(logits, labels):
    """Half cross-entropy, half Dice, a class at a time."""
    labels = labels.long()
    loss, p = F.cross_entropy(logits, labels), logits.softmax(1)
    dice = 0
    for k in range(logits.shape[1]):
        target = (labels == k).float()
        dice = dice + 1 - (2 * (p[:, k] * target).sum() + 1e-5) / ((p[:, k] ** 2).sum() + (target**2).sum() + 1e-5)
    return 0.5 * loss + 0.5 * dice / logits.shape[1]
