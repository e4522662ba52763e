"""What holds whatever the input: geometry, resizing, axes, losses, scores, pseudo-labels, random numbers."""

from itertools import permutations, product

import medpy.metric.binary as medpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from cmems import geometry
from cmems.datasets.readers.geometry import lay_on, turned_array
from cmems.datasets.readers.nifti import Volume
from cmems.evaluation.conventions import PRESETS
from cmems.evaluation.scores import score_volume
from cmems.models.losses.segmentation import CrossEntropyDice, SoftmaxMSE
from cmems.models.pseudo_labelers import ConfidenceThreshold
from cmems.resize import Frame
from cmems.seeding import Draws, Stream, derive_key, keyed_stream

settings.register_profile("cmems", max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile("cmems")
ORDERS = [
    "".join(letters)
    for pairs in permutations(("LR", "PA", "SI"))
    for letters in product(*pairs)
]  # fmt: skip
SEEDS, SIDES = st.integers(0, 2**32 - 1), st.integers(1, 17)
FLOATS = st.floats(-1, 1, width=32)


def tensor(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).random(shape, np.float32))


def labels(seed, classes, *shape):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8))


# Geometry


@given(SEEDS, st.integers(2, 17), st.integers(2, 17))
def test_no_movement_moves_nothing(seed, height, width):
    still = geometry.grid(geometry.affine_matrices(torch.zeros(2)), (height, width))
    images, marks = tensor(seed, 2, 3, height, width), labels(seed, 5, 2, height, width)
    torch.testing.assert_close(geometry.warp_images(images, still), images, atol=1e-5, rtol=0)
    assert torch.equal(geometry.warp_labels(marks, still), marks)


@given(FLOATS, st.floats(0.5, 2, width=32), FLOATS, FLOATS, st.booleans(), FLOATS)
def test_a_movement_and_its_inverse_are_none(turn, scale, x, y, flip, center):
    one = torch.ones(1, dtype=torch.float64)
    there = geometry.affine_matrices(
        3 * turn * one,
        scale * one,
        torch.tensor([[x, y]]).double(),
        torch.tensor([flip]),
        torch.full((2,), center).double(),
    )
    back = geometry.invert(there)
    points = tensor(0, 3, 5).double()
    points[2] = 1
    landed = torch.cat([there[0] @ points, torch.ones(1, 5)])
    torch.testing.assert_close(back[0] @ landed, points[:2], atol=1e-9, rtol=0)


@given(SEEDS, SIDES, SIDES, st.sampled_from([0, 255]))
def test_moved_labels_are_labels_that_were_there(seed, height, width, outside):
    marks, r = labels(seed, 4, 1, height, width), np.random.default_rng(seed)
    grid = torch.from_numpy(r.uniform(-1.5, 1.5, (1, height, width, 2)).astype(np.float32))
    moved = geometry.warp_labels(marks, grid, outside)
    assert set(moved.unique().tolist()) <= {*marks.unique().tolist(), outside}
    images = tensor(seed, 1, 1, height, width)
    assert 0 <= geometry.warp_images(images, grid).min() <= geometry.warp_images(images, grid).max() <= 1 + 1e-6


# Resizing


@given(SEEDS, SIDES, SIDES, st.integers(17, 24), st.floats(0.1, 5))
def test_a_frame_of_the_slices_own_pixels_gives_them_back(seed, height, width, size, mm):
    frame, marks, images = Frame(size, mm), labels(seed, 5, 2, height, width), tensor(seed, 2, height, width)
    square = frame.labels(marks, (mm, mm))
    assert square.shape == (2, size, size)
    assert torch.equal(frame.labels_back(square, (height, width), (mm, mm)), marks)
    assert frame.images(images, (mm, mm)).sum().item() == pytest.approx(images.sum().item(), rel=1e-5)


@given(SEEDS, SIDES, SIDES, st.integers(1, 20), st.sampled_from([None, 0.7, 1.5]), st.floats(0.3, 3), st.floats(0.3, 3))
def test_whatever_the_frame_labels_stay_labels_and_probabilities_sum_to_one(
    seed, height, width, size, pixel, row, column
):
    frame, shape, spacing = Frame(size, pixel), (height, width), (row, column)
    marks, images = labels(seed, 3, 2, *shape), tensor(seed, 2, *shape)
    square = frame.labels(marks, spacing)
    back = frame.labels_back(square, shape, spacing)
    assert back.shape == marks.shape
    assert set(back.unique().tolist()) <= {0, *marks.unique().tolist()}
    scaled = frame.images(images, spacing)
    assert scaled.shape == square.shape == (2, size, size)
    assert -1e-6 <= scaled.min() <= scaled.max() <= 1 + 1e-6
    spread = frame.probabilities_back(tensor(seed, 2, 4, size, size).softmax(1), shape, spacing)
    assert spread.shape == (2, 4, *shape)
    torch.testing.assert_close(spread.sum(1), torch.ones(2, *shape))


# Axes


@given(SEEDS, st.sampled_from(ORDERS), st.sampled_from(ORDERS))
def test_turning_there_and_back_is_none(seed, one, other):
    voxels = np.random.default_rng(seed).random((2, 3, 4))
    there = turned_array(voxels, one, other)
    assert np.array_equal(turned_array(there, other, one), voxels)
    assert np.array_equal(turned_array(turned_array(voxels, one, "LPS"), "LPS", other), there)


@pytest.mark.parametrize("codes", ORDERS)
def test_labels_of_every_order_of_axes_land_on_their_scan(codes):
    marks, affine = np.arange(24).reshape(2, 3, 4), np.diag([1.5, 2.0, 8.0, 1.0])
    affine[:3, 3] = 5, -7, 11
    scan = Volume(marks, (8, 2, 1.5), affine, (affine,))
    turned = _stored(scan, codes)
    assert np.array_equal(lay_on(turned, scan, None, None).voxels, marks)


def _stored(scan, codes):
    """Return a volume as a file holds it whose axes grow as ``codes``, where the scan's grow as RAS."""
    order = [next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair) for letter in codes]
    voxels, step = scan.voxels.transpose(2, 1, 0), np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (letter, source) in enumerate(zip(codes, order, strict=True)):
        forward = letter in "RAS"
        step[source, axis] = 1 if forward else -1
        step[source, 3] = 0 if forward else voxels.shape[source] - 1
    flips = tuple(slice(None, None, 1 if codes[order.index(i)] in "RAS" else -1) for i in range(3))
    affine = scan.affine @ step
    return Volume(voxels[flips].transpose(order).transpose(2, 1, 0), scan.spacing, affine, (affine,))


# Losses


@given(SEEDS, st.integers(1, 3), st.integers(2, 5), st.integers(1, 6), st.floats(0.01, 50), st.booleans())
def test_losses_are_those_of_float64(seed, batch, classes, side, scale, weighted):
    r, shape = np.random.default_rng(seed), (batch, classes, side, side)
    logits = (scale * r.standard_normal(shape)).astype(np.float32)
    target = r.integers(0, classes, (batch, side, side))
    weight = r.random((batch, side, side)).astype(np.float32) if weighted else np.ones((batch, side, side), np.float32)
    log_p = log_softmax(logits.astype(np.float64), 1)
    hot = (target[:, None] == np.arange(classes)[None, :, None, None]) * weight[:, None].astype(np.float64)
    p, count = np.exp(log_p) * weight[:, None], max(1.0, weight.astype(np.float64).sum())
    dice = 1 - (2 * (p * hot).sum((0, 2, 3)) + 1e-5) / ((p**2).sum((0, 2, 3)) + (hot**2).sum((0, 2, 3)) + 1e-5)
    wanted = -0.5 * (log_p * hot).sum() / count + 0.5 * dice.mean()
    given_weight = torch.from_numpy(weight) if weighted else None
    found = CrossEntropyDice()(torch.from_numpy(logits), torch.from_numpy(target), given_weight)
    assert found.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    teacher = r.dirichlet(np.ones(classes), (batch, side, side)).transpose(0, 3, 1, 2)
    squares = (np.exp(log_p) - teacher) ** 2
    wanted = (squares.mean(1) * weight).sum() / count
    found = SoftmaxMSE()(torch.from_numpy(logits), torch.from_numpy(teacher).float(), given_weight)
    assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)


# Scores


@given(SEEDS, st.integers(1, 4), SIDES, SIDES, st.floats(0.02, 0.98), st.floats(0.3, 5))
def test_scores_are_medpys(seed, depth, height, width, share, mm):
    r, shape, spacing = np.random.default_rng(seed), (depth, height, width), (mm, 1.0, 0.7)
    masks = [(r.random(shape) < share).astype(np.uint8) for _ in range(2)]
    (row,) = score_volume(masks[0], {"m": masks[1]}, 2, spacing, PRESETS["nan"], PRESETS["nan"])
    (turned,) = score_volume(masks[1], {"m": masks[0]}, 2, spacing, PRESETS["nan"], PRESETS["nan"])
    assert (row["status"] == "ok") == all(mask.any() for mask in masks)
    if row["status"] == "ok":
        assert row["dsc"] == pytest.approx(medpy.dc(*masks))
        assert row["hd95"] == pytest.approx(medpy.hd95(*masks, voxelspacing=spacing))
        assert (turned["dsc"], turned["hd95"]) == pytest.approx((row["dsc"], row["hd95"]))


# Pseudo-labels


@given(SEEDS, st.integers(2, 6), st.floats(0.1, 30), st.floats(0, 1))
def test_pseudo_labels_are_the_confident_maxima(seed, classes, scale, threshold):
    logits = scale * (tensor(seed, 2, classes, 5, 4) - 0.5)
    background = ConfidenceThreshold(threshold)(logits)
    ignored = ConfidenceThreshold(threshold, "ignore")(logits)
    torch.testing.assert_close(background.probabilities.sum(1), torch.ones(2, 5, 4))
    assert torch.equal(background.confident, ignored.confident)
    assert torch.equal(ignored.weight > 0, ignored.confident)
    assert torch.equal(background.labels, ignored.labels * ignored.confident)
    assert torch.equal(logits.argmax(1)[ignored.confident], ignored.labels[ignored.confident])
    stricter = ConfidenceThreshold(min(1.0, threshold + 0.1))(logits)
    assert not (stricter.confident & ~background.confident).any()


# Random numbers


def test_random_numbers_are_splitmix64s_whatever_the_version():
    """Against unbounded integers; a run that another version began must draw on as it would have."""

    def mix(value):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ value >> shift) * factor % 2**64
        return value ^ value >> 31

    gamma, key = 0x9E3779B97F4A7C15, 1234567
    for call in range(2):
        expected = [mix((mix(((i + (call << 40)) * gamma + key) % 2**64) + gamma) % 2**64) for i in range(6)]
        if not call:
            stream = Stream(key)
        assert [int(value) % 2**64 for value in stream.bits((2, 3)).flatten()] == expected
    assert mix(key + gamma) == 6457827717110365317  # the first number of its published series for this seed
    assert derive_key(3, "a") == -6036419060685799914
    halves = torch.cat([Stream(key, part=part, parts=2).bits((2, 3)) for part in (0, 1)])
    assert torch.equal(halves, Stream(key).bits((4, 3)))
    assert torch.equal(Stream(torch.tensor([5, key])).bits((2, 3))[1:], Stream(key).bits((1, 3)))
    shared = Stream(key, part=1, parts=2).bits((2, 3), batch=None)
    assert torch.equal(shared, Stream(key).bits((2, 3)))
    step_key = mix((derive_key(3, 0, "a") + 5 * gamma) % 2**64)
    whole = Stream(step_key - 2**64 * (step_key >> 63)).bits(8)
    assert torch.equal(Draws(3, 5).stream("a").bits(8), whole)
    # The second of two processes, in the second of the two batches that make update 5.
    draws = Draws(3, 11, 1, processes=2, batches=2)
    assert (draws.update, draws.first, Draws(3, 10, 1, processes=2, batches=2).first) == (5, False, True)
    assert torch.equal(draws.stream("a").bits(2), whole[6:])
    assert draws.key("a") % 2**64 == mix((derive_key(3, 3, "a") + 5 * gamma) % 2**64)
    own = mix((2 * gamma + key) % 2**64)
    row = keyed_stream(key, torch.tensor([2])).bits((1, 3))
    assert torch.equal(row, Stream(own - 2**64 * (own >> 63)).bits((1, 3)))


@given(st.integers(-(2**63), 2**63 - 1), st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(1, 2**31))
def test_random_numbers_keep_their_range_and_their_key(key, low, width, high):
    stream, again = Stream(key), Stream(key)
    drawn = stream.uniform((3, 50), low, low + width)
    assert drawn.dtype == torch.float32
    assert np.float32(low) <= drawn.min()
    assert drawn.max() <= np.nextafter(np.float32(low + width), np.float32(np.inf))
    assert torch.equal(drawn, again.uniform((3, 50), low, low + width))
    whole = stream.integers(200, high)
    assert 0 <= whole.min() <= whole.max() < high
    assert not stream.bernoulli(100, 0.0).any()
    assert stream.bernoulli(100, 1.0).all()


def test_what_has_no_probability_never_happens():
    lowest = Stream(38334403)  # one key of 2^24 draws 0 first
    assert lowest.uniform(1) == 0
    assert not Stream(38334403).bernoulli(1, 0.0)
    assert Stream(38334403).bernoulli(1, 2.0**-24)
    assert Stream(38334403).uniform(1, 0.5, 2.0) == 0.5


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 7))
def test_draws_depend_on_step_rank_and_purpose_alone(seed, step, rank):
    draws, next_rank = Draws(seed, step, rank, processes=9), Draws(seed, step, rank + 1, processes=9)
    assert torch.equal(
        draws.stream("a").bits(9), Draws(seed, torch.tensor(step), rank, processes=9).stream("a").bits(9)
    )
    others = (draws.stream("b"), Draws(seed, step + 1, rank, processes=9).stream("a"), next_rank.stream("a"))
    assert not any(torch.equal(draws.stream("a").bits(9), other.bits(9)) for other in others)
    assert draws.fixed("a") == next_rank.fixed("a") == Draws(seed, step + 1).fixed("a")
