"""The three streams a training step draws from (Algorithm 1): exemplar, synthetic, unlabeled.

A source answers ``source(draws)`` with a batch on the device, a function of (seed, step, rank) alone.
"""

import numpy as np
import torch

from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.store import SliceStore
from cmems.errors import InputError
from cmems.registry import DATASETS, SYNTHESIZERS
from cmems.seeding import keyed_stream


class TrainData:
    """The sources of a ``train_dataloader`` over one prepared data set.

    Args:
        data_root (str): A prepared data set.
        exemplar_slice (dict | None): ``dict(case=..., slice=...)``, the one labelled slice.
        device (torch.device | str): Where batches are made.
        wanted (collection[str] | None): Sources to open; the others stay closed. Default: all.
        sources (dict): Configs of sources by name: ``exemplar``, ``synthetic``, ``unlabeled``, as the method needs.

    Raises:
        InputError: The data set or the exemplar is unusable.
    """

    def __init__(self, data_root, exemplar_slice=None, device="cpu", wanted=None, **sources):
        self.prepared = PreparedDataset(data_root)
        self.metainfo = dict(name=self.prepared.name, classes=list(self.prepared.classes))
        self.device = device
        self.store = SliceStore(self.prepared.train_images(), device)
        self.exemplar = (
            None if exemplar_slice is None else load_exemplar(self.prepared, device=device, **exemplar_slice)
        )
        self.sources = {
            name: DATASETS.build(cfg, default_args=dict(data=self))
            for name, cfg in sources.items()
            if wanted is None or name in wanted
        }

    def __call__(self, draws):
        """Return ``{source: dict(images=(B, 1, S, S) float32[, labels=(B, S, S) uint8])}``."""
        return {name: source(draws) for name, source in self.sources.items()}

    def cases(self, draws):
        """Name what the sources draw at a step: ``{source: ["case slice", ...]}``; sources that cannot tell are out."""
        bounds = [(name, *self.prepared.case(name)["slices"]) for name in self.prepared.cases("train")]
        return {
            source: [f"{c} {row - start}" for row in made.drawn(draws).tolist() for c, start, end in bounds
                     if start <= row < end]
            for source, made in self.sources.items() if hasattr(made, "drawn")
        }  # fmt: skip


def load_exemplar(prepared, case, slice, device="cpu"):
    """Read the labelled slice, and nothing else of the labels.

    Returns:
        tuple[Tensor, Tensor]: Image ``(1, S, S)`` float32 in [0, 1] and label ``(S, S)`` uint8.

    Raises:
        InputError: The slice does not exist, has no label, or lacks a class.
    """
    row = prepared.row(case, slice)
    label = np.array(prepared.train_labels()[row])
    where = f"exemplar case={case} slice={slice} of {prepared.root}"
    if (label == 255).all():
        raise InputError(f"{where}: expected a labelled slice, but this case has no label")
    missing = [name for k, name in enumerate(prepared.classes, 1) if not (label == k).any()]
    if missing:
        complete = ", ".join(f"case={c} slice={s}" for c, s in prepared.eligible_exemplars(limit=5))
        raise InputError(
            f"{where}: expected every class, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} absent; slices that hold all: {complete or 'none here'}"
        )
    image = torch.from_numpy(np.array(prepared.train_images()[row])).float()[None]
    return image.to(device), torch.from_numpy(label).to(device)


class _Source:
    """A stream of batches.

    Args:
        data (TrainData): What the stream is drawn from.
        batch_size (int): Images per step and process.
    """

    def __init__(self, data, batch_size):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"{type(self).__name__}: batch_size: expected a positive integer, got {batch_size!r}")
        self.data, self.batch_size = data, batch_size

    def rows(self, draws, count):
        """Draw row indices below ``count``, with replacement."""
        return draws.stream("rows", type(self).__name__).integers(self.batch_size, count)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the slices that the step shows."""
        return self.rows(draws, len(self.data.store))


@DATASETS.register_module()
class ExemplarSource(_Source):
    """D_E: the one labelled slice, once per batch position; the weak perturbation makes the copies differ."""

    def __init__(self, data, batch_size):
        super().__init__(data, batch_size)
        _need_exemplar(self)

    def drawn(self, draws):
        """Return no rows: it is one slice, which the config names."""
        return torch.empty(0, dtype=torch.int64)

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        image, label = self.data.exemplar
        n = self.batch_size
        return dict(images=image.expand(n, -1, -1, -1), labels=label.expand(n, -1, -1))


@DATASETS.register_module()
class SyntheticSource(_Source):
    """D_S: images made by Ω on the fly.

    Args:
        data, batch_size: As every source.
        synthesizer (dict): Ω.
        per_background (int | None): Synthetic images per unlabelled slice (paper: 15 on ACDC, 10 on Synapse). The set
            is then finite and fixed by the seed: image j of background b looks the same whenever it is drawn, on any
            rank, though it is never stored. None draws new images for ever.
    """

    def __init__(self, data, batch_size, synthesizer, per_background=None):
        super().__init__(data, batch_size)
        _need_exemplar(self)
        self.synthesizer = SYNTHESIZERS.build(synthesizer)
        self.per_background = per_background

    def __len__(self):
        return len(self.data.store) * (self.per_background or 1)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the backgrounds."""
        return self.rows(draws, len(self)) // (self.per_background or 1)

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        ids = self.rows(draws, len(self))
        if self.per_background is None:
            return self.make(ids, draws.stream("synthesis"))
        return self.make(ids // self.per_background, keyed_stream(draws.fixed("synthesis"), ids))

    def make(self, backgrounds, stream):
        """Synthesise on the given background rows ``(B,)``."""
        images, labels = self.synthesizer(*self.data.exemplar, self.data.store[backgrounds], stream)
        return dict(images=images, labels=labels)


@DATASETS.register_module()
class UnlabeledSource(_Source):
    """D_U: slices without labels."""

    def __call__(self, draws):
        """Return the ``images`` of one step."""
        return dict(images=self.data.store[self.rows(draws, len(self.data.store))])


@DATASETS.register_module()
class LabeledSource(_Source):
    """Every training slice with its label: full supervision, the upper bound the paper compares with."""

    def __init__(self, data, batch_size):
        super().__init__(data, batch_size)
        labels = data.prepared.train_labels()
        cases = [c for c in data.prepared.cases("train") if not data.prepared.case(c)["labelled"]]
        if cases:
            raise InputError(
                f"{data.prepared.root}: full supervision needs every train case labelled; without: {', '.join(cases)}"
            )
        self.labels = torch.from_numpy(np.array(labels)).to(data.device)

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        rows = self.rows(draws, len(self.data.store))
        return dict(images=self.data.store[rows], labels=self.labels[rows])


def _need_exemplar(source):
    if source.data.exemplar is None:
        raise InputError(
            f"{type(source).__name__}: train_dataloader.exemplar_slice: expected dict(case=..., slice=...), got None"
        )
