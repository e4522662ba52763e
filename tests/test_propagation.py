"""Labels carried by optical flow: against shapes whose true place is known, and as exemplars of a training."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from cmems import geometry
from cmems.apis.config import load_config
from cmems.datasets.propagation import FlowPropagation
from cmems.datasets.sources import TrainData
from cmems.datasets.synthesis.geometric import centroid
from cmems.errors import InputError
from cmems.seeding import Draws
from cmems.visualization.hooks import ExemplarsHook

SIDE = 96
STILL = dict(type="RandomAffine", degrees=0, scale=(1.0, 1.0), shift=0.0, flip=0.0)
SAME = dict(type="RandomGammaGain", gamma=(1.0, 1.0), gain=(1.0, 1.0))


def heart(middle, wall, cavity, texture):
    """Draw a bright wall, 1, about a darker cavity, 2, in a textured surrounding."""
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - middle[0], x - middle[1])
    label = np.where(distance < cavity, 2, np.where(distance < wall, 1, 0)).astype(np.uint8)
    grey = np.choose(label, [0.35 + 0.25 * texture, 0.9, 0.15]) + 0.05 * texture
    return gaussian_filter(grey, 0.7).clip(0, 1).astype(np.float32), label


@pytest.fixture(scope="module")
def scans():
    """Two scans of six slices: hearts that move and shrink along the stack, in one surrounding."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)), 3)
    texture /= np.abs(texture).max()
    drawn = [
        heart((46 + 1.5 * k + 3 * scan, 48 - k), 24 - 1.5 * k - scan, 12 - k, texture)
        for scan in range(2)
        for k in range(6)
    ]
    images, labels = map(np.stack, zip(*drawn, strict=True))
    return images, labels, [range(0, 6), range(6, 12)]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_labels_follow_what_they_name_along_a_stack(scans):
    images, labels, stacks = scans
    carried = FlowPropagation(slices=5, others=0)(images, stacks, {1: labels[1]})
    assert sorted(carried) == [0, 2, 3, 4, 5]
    assert list(carried)[0] in (0, 2)
    for row, found in carried.items():
        known = found != 255
        assert known.mean() > 0.8
        for k in (1, 2):
            true, still = labels[row] == k, labels[1] == k
            assert dice((found == k) & known, true & known) > 0.9
            assert dice((found == k) & known, true & known) > dice(still, true)


def test_labels_reach_other_scans_from_which_they_go_on(scans):
    images, labels, stacks = scans
    carried = FlowPropagation(slices=11)(images, stacks, {2: labels[2]})
    assert sorted(carried) == [row for row in range(12) if row != 2]
    for row, found in carried.items():
        assert dice((found == 1) & (found != 255), (labels[row] == 1) & (found != 255)) > 0.85
    assert not set(FlowPropagation(slices=11, others=0)(images, stacks, {2: labels[2]})) & set(range(6, 12))


def test_the_cheapest_slices_come_first_and_no_more_than_asked(scans):
    images, labels, stacks = scans
    whole = FlowPropagation(slices=11)(images, stacks, {2: labels[2]})
    few = FlowPropagation(slices=3)(images, stacks, {2: labels[2]})
    assert list(few) == list(whole)[:3]
    assert all(np.array_equal(few[row], whole[row]) for row in few)
    assert FlowPropagation(limit=0.1)(images, stacks, {2: labels[2]}) == {}


def test_what_was_not_there_before_is_unknown_and_so_is_what_was_not_known(scans):
    images, labels, stacks = scans
    other = images.copy()
    other[2, 8:24, 8:24] = 1 - other[2, 8:24, 8:24]  # as an organ that begins here
    found = FlowPropagation(slices=2, others=0, unknown=0.05)(other[:3], [range(3)], {1: labels[1]})[2]
    assert (found[10:22, 10:22] == 255).mean() > 0.8
    assert (found[60:, 60:] == 255).mean() < 0.1
    partly = labels[1].copy()
    partly[:, 60:] = 255
    found = FlowPropagation(slices=1, others=0)(images[:3], [range(3)], {1: partly})
    assert all((each[:, 66:] == 255).all() and (each[:, :54] != 255).mean() > 0.9 for each in found.values())


def test_the_order_of_the_stacks_changes_nothing(scans):
    images, labels, stacks = scans
    one, other = (FlowPropagation(slices=8)(images, order, {2: labels[2]}) for order in (stacks, stacks[::-1]))
    assert list(one) == list(other)
    assert all(np.array_equal(one[row], other[row]) for row in one)


def test_the_number_of_threads_changes_nothing_and_stays(scans):
    images, labels, stacks = scans
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(FlowPropagation(slices=3)(images, stacks, {2: labels[2]}))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert list(found[0]) == list(found[1])
    assert all(np.array_equal(found[0][row], found[1][row]) for row in found[0])


@given(seed=st.integers(0, 2**32 - 1), side=st.integers(8, 40), share=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=20, deadline=None)
def test_whatever_the_images_only_slices_without_a_label_get_known_classes(seed, side, share):
    draw = np.random.default_rng(seed)
    images = draw.random((7, side, side)) * draw.integers(0, 2, (7, 1, 1))  # some of one value
    label = np.where(draw.random((side, side)) < share, 255, draw.integers(0, 3, (side, side))).astype(np.uint8)
    carry = FlowPropagation(slices=4, width=32, limit=1e3)
    carried = carry(images.astype(np.float16), [range(0, 3), range(3, 6), range(6, 7)], {1: label})
    assert len(carried) <= 4
    assert 1 not in carried
    for found in carried.values():
        assert (found.shape, found.dtype) == ((side, side), np.uint8)
        assert set(np.unique(found)) <= {*np.unique(label), 0, 255}
    again = carry(images.astype(np.float16), [range(0, 3), range(3, 6), range(6, 7)], {1: label})
    assert all(np.array_equal(carried[row], again[row]) for row in again)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (dict(slices=0), "slices: expected an integer of 1 or more, got 0"),
        (dict(others=-1), "others: expected an integer of 0 or more, got -1"),
        (dict(unknown="a"), "unknown: expected a number of 0 or more, got 'a'"),
        (dict(limit=float("nan")), "limit: expected a number of 0 or more, got nan"),
        (dict(description=dict(type="SmalSlice")), "did you mean SmallSlice"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, words):
    with pytest.raises(InputError, match=words):
        FlowPropagation(**setting)


@pytest.mark.parametrize("value", ["dict(type='FlowPropagation')", dict(slices=3)])
def test_a_config_with_another_thing_in_its_place_is_refused(value):
    for key, wanted, without in (
        ("propagation", "a label propagation", "unet_acdc_cpu"),
        ("orientation", "an orientation", "unet_nifti"),
    ):
        with pytest.raises(InputError, match=f"expected {wanted}"):
            load_config(f"cmems::cmems_plus/{without}", {f"train_dataloader.{key}": value})
    assert load_config("cmems::cmems_plus/unet_nifti", {"train_dataloader.propagation": None}).train_dataloader


# As exemplars


def data_of(root, **options):
    organs = dict(type="RandomAffine"), dict(type="RandomGammaGain")
    return TrainData(
        root,
        dict(case="patient001_frame01", slice=1),
        exemplar=dict(type="ExemplarSource", batch_size=8),
        synthetic=dict(
            type="SyntheticSource",
            batch_size=8,
            synthesizer=dict(type="ExemplarPaste", geometric=organs[0], intensity=organs[1], margin=3),
        ),
        **options,
    )


def test_what_was_carried_are_exemplars_of_every_source(prepared_acdc):
    plain, data = data_of(prepared_acdc), data_of(prepared_acdc, propagation=dict(type="FlowPropagation", slices=3))
    assert (plain.given, data.given) == (1, 1)
    assert len(data.exemplar_rows) == 4
    assert data.exemplar_rows[0] == plain.exemplar_rows[0]
    images, labels = data.exemplars
    assert images.shape == (4, 1, 32, 32)
    assert torch.equal(images[0], plain.exemplars[0][0])
    assert torch.equal(labels[0], plain.exemplars[1][0])
    assert torch.equal(images, data.store[torch.tensor(data.exemplar_rows)])
    partial = bool((labels == 255).any())
    assert data.sources["exemplar"].partial == data.sources["synthetic"].partial == partial
    seen = {row for step in range(8) for row in data.sources["exemplar"].drawn(Draws(0, step)).tolist()}
    assert seen == set(data.exemplar_rows)
    again = data_of(prepared_acdc, propagation=dict(type="FlowPropagation", slices=3))
    assert torch.equal(again.exemplars[1], labels)


def test_exemplars_are_turned_in_every_source_that_draws_them_anew(prepared_acdc):
    copies = dict(type="WarpedExemplar", geometric=STILL, intensity=SAME, plain=0.0)
    paste = dict(type="ExemplarPaste", geometric=STILL, intensity=SAME)
    sources = dict(
        exemplar=dict(type="ExemplarSource", batch_size=2, copies=copies),
        synthetic=dict(type="SyntheticSource", batch_size=2, synthesizer=paste),
    )
    exemplar = dict(case="patient001_frame01", slice=1)
    data = TrainData(prepared_acdc, exemplar, orientation=dict(type="StackOrientation", agreement=0.0), **sources)
    assert data.turns.shape == (1,)
    assert float(data.turns) != 0
    plain = TrainData(prepared_acdc, exemplar, **sources)
    assert plain.turns is None
    (label,) = plain.exemplars[1]
    center = centroid((label > 0)[None])
    sampling = geometry.grid(geometry.affine_matrices(data.turns, center=center), label.shape)
    turned = geometry.warp_labels(label[None], sampling)
    for name, batch in data(Draws(0, 0)).items():
        assert torch.equal(batch["labels"], turned.expand(2, -1, -1)), name
    for batch in plain(Draws(0, 0)).values():
        assert torch.equal(batch["labels"], label.expand(2, -1, -1))


def test_a_pasted_margin_of_unknown_label_stays_unknown():
    from cmems.datasets.synthesis import ExemplarPaste

    label = torch.zeros(1, 32, 32, dtype=torch.uint8)
    label[:, 12:20, 12:20] = 1
    label[:, :, 20:] = 255
    paste = ExemplarPaste(
        geometric=STILL,
        intensity=SAME,
        margin=2,
    )
    exemplar, background = torch.full((1, 1, 32, 32), 0.7), torch.full((1, 1, 32, 32), 0.2)
    (image,), (made,) = paste(exemplar, label, background, Draws(0, 0).stream("synthesis"))
    assert (made[12:20, 12:20] == 1).all()
    assert (made[10:22, 20:22] == 255).all()  # the margin, whose label nobody knows
    assert (made[10:12, 10:20] == 0).all()
    assert (made[:, 22:] == 0).all()  # background's own
    assert (image[0, 10:22, 10:22] > 0.6).all()


def test_a_run_shows_what_it_learns_from(prepared_acdc, tmp_path):
    class Logger:
        lines = []

        def info(self, line):
            self.lines.append(line)

    class Runner:
        work_dir, logger = str(tmp_path), Logger()

    for carried, options in ((3, dict(propagation=dict(type="FlowPropagation", slices=3))), (0, {})):
        Runner.train_loop = type("Loop", (), dict(data=data_of(prepared_acdc, **options)))
        ExemplarsHook().before_train(Runner)
        sheet = Image.open(tmp_path / "exemplars.png")
        assert sheet.width == (1 + carried) * 294 + 6
        assert np.asarray(sheet).max() > 200
    assert len(Logger.lines) == 1
    assert Logger.lines[0].startswith("labels carried to 3 slices of")


@pytest.mark.parametrize(
    ("settings", "told"), [(dict(unknown=0), "above 0; at 0 every"), (dict(hop=-1), "0 or more, got -1")]
)
def test_numbers_that_carry_nothing_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        FlowPropagation(**settings)
