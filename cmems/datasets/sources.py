"""The three streams a training step draws from (Algorithm 1): exemplar, synthetic, unlabeled.

A source answers ``source(draws)`` with a batch on the device, a function of (seed, step, rank) alone.
"""

import numpy as np
import torch

from cmems.datasets.masks import read_static_labels
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.store import SliceStore
from cmems.datasets.synthesis.paste import choose
from cmems.errors import InputError, warn_once
from cmems.labels import UNKNOWN, check_labels
from cmems.models.perturbations.base import check_draws
from cmems.registry import DATASETS, ORIENTATIONS, PROPAGATIONS, SYNTHESIZERS
from cmems.seeding import keyed_stream


class TrainData:
    """The sources of a ``train_dataloader`` over one prepared data set.

    Args:
        data_root (str): A prepared data set.
        exemplar_slice (dict | None): ``dict(case=..., slice=...)``, the one labelled slice. Pixels labelled 255 are
            unknown.
        exemplar_slices (Sequence[dict]): Further labelled slices, each named once.
        labeled_cases (Sequence[str]): Training cases all of whose slices are exemplars.
        propagation (dict | None): What carries the labels of these to further slices, of ``PROPAGATIONS``; they are
            exemplars then too. Only images are read for it.
        orientation (dict | None): What tells how exemplars must be turned to lie as the other scans do, of
            ``ORIENTATIONS``; what draws them anew turns them by it. Only images are read for it.
        device (torch.device | str): Where batches are made.
        wanted (collection[str] | None): Sources to open; the others stay closed. Default: all.
        sources (dict): Configs of sources by name: ``exemplar``, ``synthetic``, ``unlabeled``, as the method needs.

    Raises:
        InputError: The data set or the exemplar is unusable.
    """

    def __init__(
        self,
        data_root,
        exemplar_slice=None,
        exemplar_slices=(),
        labeled_cases=(),
        propagation=None,
        orientation=None,
        device="cpu",
        wanted=None,
        **sources,
    ):
        self.prepared = PreparedDataset(data_root)
        self.metainfo = dict(name=self.prepared.name, classes=list(self.prepared.classes))
        self.device = device
        self.store = SliceStore(self.prepared.train_images(), device)
        one = "dict(case=..., slice=...)"
        slices = _whole_list("exemplar_slices", exemplar_slices, one, _is_slice)
        if exemplar_slice:
            if not _is_slice(exemplar_slice):
                raise InputError(f"train_dataloader.exemplar_slice: expected {one}, got {exemplar_slice!r}")
            slices.insert(0, exemplar_slice)
        self.exemplar_rows = []
        for each in slices:
            if (row := self.prepared.row(**each)) in self.exemplar_rows:
                where = f"case={each['case']} slice={each['slice']}"
                raise InputError(f"train_dataloader.exemplar_slices: {where}: named twice, exemplar_slice included")
            self.exemplar_rows.append(row)
        for case in _whole_list("labeled_cases", labeled_cases, "cases", lambda each: isinstance(each, str)):
            more = {row: dict(case=case, slice=k) for k, row in enumerate(self.prepared.rows(case))}
            more = {row: each for row, each in more.items() if row not in self.exemplar_rows}
            self.exemplar_rows += more
            slices += more.values()
        self.exemplars = load_exemplars(self.prepared, slices, device) if slices else None
        self.given = len(slices)
        if propagation and slices:
            self._propagate(PROPAGATIONS.build(propagation))
        self.turns = None
        if orientation and slices:
            find = ORIENTATIONS.build(orientation)
            found = find(self.prepared.train_images(), self._stacks(), self.exemplar_rows, self.exemplars[1])
            self.turns = found.to(device)
        self.names = tuple(sources)
        kinds = [str(cfg.get("type")).removeprefix("cmems.") for cfg in sources.values()]
        # Of several of one type, each after the first draws by its name: what was drawn alike would be one source.
        self._apart = {name for k, name in enumerate(sources) if kinds[k] in kinds[:k]}
        self.sources = {
            name: DATASETS.build(cfg, default_args=dict(data=self))
            for name, cfg in sources.items()
            if wanted is None or name in wanted
        }

    def __call__(self, draws):
        """Return ``{source: dict(images=(B, 1, S, S) float32[, labels=(B, S, S) uint8])}``.

        Where labels may hold 255, unknown, the entry has ``partial=True``.
        """
        batches = {name: source(self._draws(name, draws)) for name, source in self.sources.items()}
        for name, source in self.sources.items():
            if getattr(source, "partial", False):
                batches[name]["partial"] = True
        return batches

    def _draws(self, name, draws):
        return draws.of(name) if name in self._apart else draws

    def _stacks(self):
        return [self.prepared.rows(case) for case in self.prepared.cases("train")]

    def _propagate(self, carry):
        labels = dict(zip(self.exemplar_rows, self.exemplars[1].cpu().numpy(), strict=True))
        carried = carry(self.prepared.train_images(), self._stacks(), labels)
        if not carried:
            warn_once(
                "train_dataloader.propagation: labels are carried to no slice; none looks enough like a labelled one"
            )
        else:
            self.exemplar_rows += carried
            labels = torch.from_numpy(np.stack(list(carried.values()))).to(self.device)
            images = self.store[torch.tensor(list(carried))]
            self.exemplars = tuple(map(torch.cat, zip(self.exemplars, (images, labels), strict=True)))

    def near_exemplars(self, levels):
        """Return the ``(n,)`` rows whose place in their stack is at most ``levels`` from that of an exemplar."""
        place = torch.empty(len(self.store), dtype=torch.float64)
        for case in self.prepared.cases("train"):
            rows = self.prepared.rows(case)
            place[rows.start : rows.stop] = (torch.arange(len(rows)) + 0.5) / len(rows)
        distance = (place[:, None] - place[self.exemplar_rows]).abs().min(1).values
        return (distance <= levels + 1e-9).nonzero().squeeze(1)

    def cases(self, draws):
        """Name what the sources draw at a step: ``{source: ["case slice", ...]}``; sources that cannot tell are out."""
        bounds = [(name, *self.prepared.case(name)["slices"]) for name in self.prepared.cases("train")]
        return {
            source: [f"{c} {row - start}" for row in made.drawn(self._draws(source, draws)).tolist()
                     for c, start, end in bounds if start <= row < end]
            for source, made in self.sources.items() if hasattr(made, "drawn")
        }  # fmt: skip


def _is_slice(each):
    return isinstance(each, dict) and set(each) == {"case", "slice"}


def _whole_list(name, value, of, fits):
    """Return a setting of ``train_dataloader`` as a list; raises InputError where it is none, or not of what fits."""
    if not isinstance(value or [], (list, tuple)) or not all(map(fits, value or [])):
        raise InputError(f"train_dataloader.{name}: expected a list of {of}, got {value!r}")
    return list(value or [])


def load_exemplars(prepared, slices, device="cpu"):
    """Read the labelled slices, and nothing else of the labels.

    Args:
        prepared (PreparedDataset): Where they are.
        slices (list[dict]): ``case`` and ``slice`` of each.
        device (torch.device | str): Where to put them.

    Returns:
        tuple[Tensor, Tensor]: Images ``(E, 1, S, S)`` float32 in [0, 1] and labels ``(E, S, S)`` uint8, 255 unknown.

    Raises:
        InputError: A slice does not exist, has no label or is of one value; or all of them lack a class.
    """
    rows = [prepared.row(**each) for each in slices]
    labels = np.stack([prepared.train_label(row) for row in rows])
    for each, label in zip(slices, labels, strict=True):
        if (label == UNKNOWN).all():
            known = ((k, prepared.train_label(row)) for k, row in enumerate(prepared.rows(each["case"])))
            painted = [str(k) for k, other in known if (other != UNKNOWN).any()]
            raise InputError(
                f"exemplar case={each['case']} slice={each['slice']} of {prepared.root}: expected a labelled slice, "
                + (
                    f"but of this case only {', '.join(painted)} is painted"
                    if painted
                    else "but this case has no label"
                )
            )
    missing = [name for k, name in enumerate(prepared.classes, 1) if not (labels == k).any()]
    if missing:
        more = f" and {len(slices) - 1} more" * (len(slices) > 1)
        where = f"case={slices[0]['case']} slice={slices[0]['slice']}{more}"
        complete = ", ".join(f"case={c} slice={s}" for c, s in prepared.eligible_exemplars(limit=5))
        raise InputError(
            f"exemplar {where} of {prepared.root}: expected every class, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} absent; slices that hold all: {complete or 'none here'}"
        )
    images = torch.from_numpy(np.stack([prepared.train_images()[row] for row in rows])).float()
    for each, image in zip(slices, images, strict=True):
        if image.min() == image.max():
            raise InputError(
                f"exemplar case={each['case']} slice={each['slice']} of {prepared.root}: expected an image, but all "
                f"its pixels are {image.min():g}: there is nothing to learn from"
            )
    return images.unsqueeze(1).to(device), torch.from_numpy(labels).to(device)


class _Source:
    """A stream of batches.

    Args:
        data (TrainData): What the stream is drawn from.
        batch_size (int): Images per step and process.

    Attributes:
        serves_labels (bool): It serves labels beside images.
        partial (bool): They may hold 255, unknown.
        serves_scans (bool): Its images are unlabelled training slices as they are: what prediction will meet.
    """

    serves_labels = True
    partial = False
    serves_scans = False

    def __init__(self, data, batch_size):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"{type(self).__name__}: batch_size: expected a positive integer, got {batch_size!r}")
        self.data, self.batch_size = data, batch_size
        # Only where an orientation is asked for, so that a synthesizer need not know of it.
        self.turns = {} if data.turns is None else dict(turns=data.turns)

    def rows(self, draws, count):
        """Draw row indices below ``count``, with replacement."""
        return draws.stream("rows", type(self).__name__).integers(self.batch_size, count)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the slices that the step shows."""
        return self.rows(draws, len(self.data.store))


@DATASETS.register_module()
class ExemplarSource(_Source):
    """D_E: the one labelled slice, once per batch position; the weak perturbation makes the copies differ.

    Of several labelled slices each position draws one.

    Args:
        data, batch_size: As every source.
        copies (dict | None): What changes the copies before, e.g. ``WarpedExemplar``.
    """

    def __init__(self, data, batch_size, copies=None):
        super().__init__(data, batch_size)
        _need_exemplar(self)
        self.copies = None
        if copies is not None:
            self.copies = SYNTHESIZERS.build_for("copies", "train_dataloader: ExemplarSource: copies", copies)
        check_labels(self.copies, data.prepared.num_classes, f"train_dataloader: {type(self).__name__}: copies")
        self.partial = _partly_known(data)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the exemplars, of several; one is named by the config, and gives no rows."""
        rows = torch.tensor(self.data.exemplar_rows)
        return rows[self._which(draws).cpu()] if len(rows) > 1 else rows[:0]

    def _which(self, draws):
        return choose(draws.stream("exemplars"), self.batch_size, len(self.data.exemplar_rows))

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        images, labels = self.data.exemplars
        which = self._which(draws)
        if self.copies:
            images, labels = self.copies(images, labels, which, draws.stream("copies"), **self.turns)
            return dict(images=images, labels=labels)
        return dict(images=images[which], labels=labels[which])


@DATASETS.register_module()
class SyntheticSource(_Source):
    """D_S: images made by Ω on the fly.

    Args:
        data, batch_size: As every source.
        synthesizer (dict): Ω.
        per_background (int | None): Synthetic images per unlabelled slice (paper: 15 on ACDC, 10 on Synapse). The set
            is then finite and fixed by the seed: image j of background b looks the same whenever it is drawn, on any
            rank, though it is never stored. None draws new images for ever.
        levels (float | None): Take backgrounds from the exemplars' level alone: slices whose place in their stack, 0 to
            1, is at most this far from that of an exemplar. Default: all slices.
    """

    def __init__(self, data, batch_size, synthesizer, per_background=None, levels=None):
        super().__init__(data, batch_size)
        _need_exemplar(self)
        where = f"train_dataloader: {type(self).__name__}: synthesizer"
        self.synthesizer = SYNTHESIZERS.build_for("synthesizer", where, synthesizer)
        check_labels(self.synthesizer, data.prepared.num_classes, where)
        self.partial = getattr(self.synthesizer, "partial", False) or _partly_known(data)
        if per_background is not None and (type(per_background) is not int or per_background < 1):
            raise InputError(
                f"SyntheticSource: per_background: expected a positive integer or None, got {per_background!r}"
            )
        self.per_background, self.levels = per_background, levels
        check_draws(self, probabilities=["levels"] * (levels is not None))
        self.backgrounds = None if levels is None else data.near_exemplars(levels).to(data.device)

    def __len__(self):
        backgrounds = len(self.data.store) if self.backgrounds is None else len(self.backgrounds)
        return backgrounds * (self.per_background or 1)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the backgrounds."""
        return self._store_rows(self.rows(draws, len(self)) // (self.per_background or 1))

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        ids = self.rows(draws, len(self))
        if self.per_background is None:
            return self.make(ids, draws.stream("synthesis"))
        return self.make(ids // self.per_background, keyed_stream(draws.fixed("synthesis"), ids))

    def make(self, backgrounds, stream):
        """Synthesise on the given backgrounds, ``(B,)`` int64."""
        rows = self._store_rows(backgrounds)
        images, labels = self.synthesizer(*self.data.exemplars, self.data.store[rows], stream, **self.turns)
        return dict(images=images, labels=labels)

    def _store_rows(self, backgrounds):
        return backgrounds if self.backgrounds is None else self.backgrounds[backgrounds]


@DATASETS.register_module()
class UnlabeledSource(_Source):
    """D_U: slices without labels."""

    serves_labels = False
    serves_scans = True

    def __call__(self, draws):
        """Return the ``images`` of one step."""
        return dict(images=self.data.store[self.rows(draws, len(self.data.store))])


@DATASETS.register_module()
class StaticLabels(_Source):
    """Training slices with labels read from NIfTI masks: an earlier round's, another model's, a registration's.

    Cases without a mask are left out. Nothing of the prepared labels is read.

    Args:
        data, batch_size: As every source.
        folder (str): ``<case>.nii.gz`` or ``.nii``, laid on the scan as ``cmems prepare`` lays masks; labels 0 … K-1,
            255 for unknown. What is 0 is background, on slices that nobody painted too.

    Raises:
        InputError: No mask belongs to a training case, or some have another grid or other labels.
    """

    serves_scans = True

    def __init__(self, data, batch_size, folder):
        super().__init__(data, batch_size)
        rows, labels = read_static_labels(data.prepared, folder)
        self.partial = bool((labels == UNKNOWN).any())
        self.labelled, self.labels = rows.to(data.device), labels.to(data.device)

    def drawn(self, draws):
        """Return the rows ``(B,)`` of the slices that the step shows."""
        return self.labelled[self.rows(draws, len(self.labelled))]

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        chosen = self.rows(draws, len(self.labelled))
        return dict(images=self.data.store[self.labelled[chosen]], labels=self.labels[chosen])


@DATASETS.register_module()
class LabeledSource(_Source):
    """Every training slice with its label: full supervision, the upper bound the paper compares with."""

    def __init__(self, data, batch_size):
        super().__init__(data, batch_size)
        labels = need_every_label(data.prepared)
        self.labels = torch.from_numpy(np.array(labels)).to(data.device)

    def __call__(self, draws):
        """Return ``images`` and ``labels`` of one step."""
        rows = self.rows(draws, len(self.data.store))
        return dict(images=self.data.store[rows], labels=self.labels[rows])


def need_every_label(prepared):
    """Return the labels ``(N, S, S)`` uint8 of all training slices; raises InputError where some are not annotated."""
    labels = prepared.train_labels()
    cases = [c for c in prepared.cases("train") if not prepared.case(c)["labelled"]]
    if cases:
        raise InputError(
            f"{prepared.root}: full supervision needs every train case labelled; without: {', '.join(cases)}"
        )
    if (labels == UNKNOWN).any():
        raise InputError(f"{prepared.root}: full supervision needs every voxel annotated; some are marked 255")
    return labels


def _need_exemplar(source):
    if source.data.exemplars is None:
        raise InputError(
            f"{type(source).__name__}: train_dataloader.exemplar_slice: expected dict(case=..., slice=...), got None"
        )


def _partly_known(data):
    return bool((data.exemplars[1] == UNKNOWN).any())
