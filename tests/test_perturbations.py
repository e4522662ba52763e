"""W, S and F: what they do to images, and what they leave alone."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from cmems import geometry
from cmems.models.perturbations import (
    ChannelDropout,
    ColorJitter,
    Compose,
    GaussianBlur,
    RandomRotateFlip,
    Sharpness,
)
from cmems.seeding import Draws, Stream, _mix, derive_key, keyed_stream


def images(n=4, size=32, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def one(value, n=4):
    return torch.full((n,), float(value))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_a_quarter_turn_and_a_flip_only_move_pixels(turns, flip):
    x = images()
    labels = (x[:, 0] * 4).to(torch.uint8)
    matrices = geometry.affine_matrices(one(turns * math.pi / 2), flip=torch.full((4,), flip))
    moved, moved_labels = RandomRotateFlip().apply(x, matrices, labels)
    expected = torch.rot90(torch.flip(x, [-1]) if flip else x, -turns, (-2, -1))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)
    expected = torch.rot90(torch.flip(labels, [-1]) if flip else labels, -turns, (-2, -1))
    assert torch.equal(moved_labels, expected)


def test_labels_move_with_their_images():
    mask = torch.zeros(6, 64, 64, dtype=torch.uint8)
    mask[:, 20:40, 12:30] = 1
    weak = RandomRotateFlip(degrees=20)
    moved, labels = weak.apply(mask[:, None].float(), labels=mask, **weak.draw(Draws(0, 0).stream("w"), 6))
    assert ((moved[:, 0] > 0.5) != (labels > 0)).float().mean() < 0.002
    assert not torch.equal(labels[0], labels[1])  # every sample has its own parameters


def test_an_affine_map_agrees_with_scipy():
    x = torch.from_numpy(ndimage.gaussian_filter(images(1)[0, 0].numpy(), 2))[None, None]
    angle, scale, shift = 0.4, 1.2, (0.2, -0.1)
    matrix = geometry.affine_matrices(one(angle, 1), one(scale, 1), torch.tensor([shift]))
    ours = geometry.warp_images(x, geometry.grid(matrix, (32, 32)))[0, 0].numpy()
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # on (x, y)
    inverse = np.linalg.inv(scale * rotation)[::-1, ::-1]  # on (row, column)
    center = np.full(2, 15.5)
    landing = center + np.array(shift[::-1]) * 16
    theirs = ndimage.affine_transform(x[0, 0].numpy(), inverse, center - inverse @ landing, order=1)
    np.testing.assert_allclose(ours[4:-4, 4:-4], theirs[4:-4, 4:-4], atol=2e-5)


def test_content_is_mirrored_grown_and_turned_about_a_centre_and_then_shifted():
    """Points where each picture's content is, by hand: the sampling matrix leads back to where it was."""
    angle, scale = torch.tensor([math.pi / 2, 0.0, math.pi]), torch.tensor([2.0, 0.5, 1.0])
    flip, center = torch.tensor([True, False, True]), torch.tensor([[0.1, 0.2], [-0.3, 0.4], [0.0, -0.5]])
    shift = torch.tensor([[0.0, 0.3], [0.2, -0.1], [0.4, 0.0]])
    was = torch.tensor([[0.4, 0.3], [0.1, 0.0], [0.3, 0.1]])
    # Of the first, (0.3, 0.1) from its centre: mirrored (-0.3, 0.1), grown (-0.6, 0.2), turned (-0.2, -0.6).
    moved = center + shift + torch.tensor([[-0.2, -0.6], [0.2, -0.2], [0.3, -0.6]])
    matrices = geometry.affine_matrices(angle, scale, shift, flip, center)
    torch.testing.assert_close((matrices[:, :, :2] @ moved[..., None])[..., 0] + matrices[:, :, 2], was)
    back = geometry.invert(matrices)
    torch.testing.assert_close((back[:, :, :2] @ was[..., None])[..., 0] + back[:, :, 2], moved)
    one = geometry.affine_matrices(angle, scale, shift, flip, center[0])
    torch.testing.assert_close(one[:1], matrices[:1])
    assert geometry.grid(matrices, (5, 7)).shape == (3, 5, 7, 2)


def test_outlines_are_those_of_softened_classes_as_scipy_has_them():
    r, classes = np.random.default_rng(0), (3, 1)
    labels = np.kron(r.integers(0, 5, (2, 4, 6)), np.ones((1, 4, 3), int)).astype(np.uint8)  # 16 x 18
    labels[labels == 4] = 255
    place = r.uniform(-1.1, 1.1, (2, 30, 20, 2)).astype(np.float32)
    found = geometry.warp_outlines(torch.from_numpy(labels), torch.from_numpy(place), classes).numpy()
    for label, (x, y), made in zip(labels, np.moveaxis(place, -1, 1), found, strict=True):
        at = np.stack([(y + 1) * 8 - 0.5, (x + 1) * 9 - 0.5])  # rows and columns
        masks = np.stack([label == k for k in classes]).astype(float)
        soft = np.stack([ndimage.uniform_filter(m, 3, mode="nearest") for m in masks])
        theirs = masks.any(0)
        few = (np.stack([ndimage.uniform_filter(m, 7, mode="nearest") for m in masks]) * masks).sum(0) < 12.5 / 49
        gone = theirs & few & ((soft * masks).sum(0) < np.maximum(soft.max(0), 1 - soft.sum(0)) - 1e-9)
        kept = np.where(gone, masks, soft)  # what the blur would give to others stays whole
        first, second = (ndimage.map_coordinates(m, at, order=1, mode="grid-constant") for m in kept)
        around = ndimage.maximum_filter(np.where(theirs, 0, label), 3, mode="constant")
        rest, beside = (ndimage.map_coordinates(m, np.rint(at), order=0, mode="grid-constant") for m in (label, around))
        zero = ndimage.uniform_filter((label == 0).astype(float), 3, mode="nearest")
        none = 1 - first - second
        empty = ndimage.map_coordinates(zero, at, order=1, mode="grid-constant") >= none / 2
        rest = np.where(np.isin(rest, classes), np.where(empty, 0, beside), rest)
        _, next_one, largest = np.sort([first, second, none], axis=0)
        sure = largest - next_one > 1e-4
        wanted = np.where(np.maximum(first, second) < none, rest, np.where(first > second, 3, 1))
        assert np.array_equal(made[sure], wanted[sure])
        assert sure.mean() > 0.9
        assert set(np.unique(made)) == {0, 1, 2, 3, 255}


def test_an_inverted_map_brings_labels_home():
    mask = torch.zeros(3, 64, 64, dtype=torch.uint8)
    mask[:, 24:40, 20:40] = 2
    matrices = RandomRotateFlip().draw(Draws(0, 1).stream("w"), 3)["matrices"]
    there = geometry.warp_labels(mask, geometry.grid(matrices, (64, 64)))
    back = geometry.warp_labels(there, geometry.grid(geometry.invert(matrices), (64, 64)), outside=255)
    assert ((back != mask) & (back != 255)).float().mean() < 0.02


def test_jitter_of_strength_zero_and_neutral_factors_change_nothing():
    x = images()
    assert torch.equal(ColorJitter(0.0)(x, Draws(0, 0).stream("s")), x)
    assert torch.equal(ColorJitter(1.0, probability=0)(x, Draws(0, 0).stream("s")), x)


def test_jitter_is_brightness_then_contrast_or_the_reverse_by_hand():
    x = torch.tensor([[0.2, 0.4], [0.6, 1.0]]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    first = torch.tensor([False, True])
    out = ColorJitter(1.0).apply(x, one(1.5, 2), one(0.5, 2), first)
    # brightness first: .3 .6 .9 1 (clamped), mean .7, then halfway to it
    np.testing.assert_allclose(out[0].flatten(), [0.5, 0.65, 0.8, 0.85], atol=1e-6)
    # contrast first: mean .55, halfway .375 .475 .575 .775, then times 1.5, clamped
    np.testing.assert_allclose(out[1].flatten(), [0.5625, 0.7125, 0.8625, 1.0], atol=1e-6)


def test_jitter_of_strength_one_may_draw_black_and_stays_in_range():
    factors = ColorJitter(1.0).draw(Draws(0, 0).stream("s"), 4000)
    assert factors["brightness"].min() < 0.01
    assert factors["brightness"].max() > 1.99
    out = ColorJitter(1.0)(images(64), Draws(0, 0).stream("s"))
    assert out.min() >= 0
    assert out.max() <= 1


def test_blur_agrees_with_scipy_for_each_sample():
    x, sigma = images(3), torch.tensor([0.0, 0.8, 1.7])
    out = GaussianBlur(sigma=(0.1, 2.0)).apply(x, sigma)
    assert torch.equal(out[0], x[0])
    for i in (1, 2):
        expected = ndimage.gaussian_filter(x[i, 0].numpy(), float(sigma[i]), mode="mirror", radius=6)
        np.testing.assert_allclose(out[i, 0], expected, atol=1e-5)


def test_a_blur_wider_than_the_image_mirrors_it_once():
    x = images(2, size=8)
    out = GaussianBlur(sigma=(0.1, 40.0)).apply(x, torch.tensor([0.8, 40.0]))
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 0.8, mode="mirror", radius=7)
    np.testing.assert_allclose(out[0, 0], expected, atol=1e-5)
    assert (out[1] - x[1].mean()).abs().max() < 0.15


def test_sharpness_agrees_with_its_3x3_kernel():
    x = images(3)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    out = Sharpness().apply(x, torch.tensor([0.0, 1.0, 2.0]))
    smooth = ndimage.convolve(x[0, 0].numpy(), kernel)
    np.testing.assert_allclose(out[0, 0, 1:-1, 1:-1], smooth[1:-1, 1:-1], atol=1e-6)
    torch.testing.assert_close(out[1], x[1])
    smooth = ndimage.convolve(x[2, 0].numpy(), kernel)
    expected = np.clip(2 * x[2, 0].numpy() - smooth, 0, 1)
    np.testing.assert_allclose(out[2, 0, 1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-6)


def test_a_list_of_perturbations_acts_in_order():
    x = images()
    both = Compose([dict(type="ColorJitter", strength=0.5), dict(type="Sharpness", probability=1.0)])
    stream = Draws(0, 0).stream("s")
    expected = Sharpness(probability=1.0)(ColorJitter(0.5)(x, stream), stream)
    assert torch.equal(both(x, Draws(0, 0).stream("s")), expected)


def test_channel_dropout_drops_whole_channels_and_keeps_the_mean():
    features = [torch.ones(40, 64, 4, 4), torch.ones(40, 32, 2, 2)]
    assert all((f == 0).all() for f in ChannelDropout(1)(features, Draws(0, 0).stream("f")))
    out = ChannelDropout(0.5)(features, Draws(0, 0).stream("f"))
    for before, after in zip(features, out, strict=True):
        assert set(after.unique().tolist()) == {0.0, 2.0}
        assert torch.equal(after.amin((2, 3)), after.amax((2, 3)))
        assert after.mean() == pytest.approx(before.mean().item(), abs=0.1)
    assert not torch.equal(out[0][0, :32, 0, 0], out[1][0, :, 0, 0])


def test_random_numbers_are_uniform_independent_and_functions_of_their_key():
    draws = Draws(seed=5, step=9)
    u = draws.stream("a").uniform(200_000)
    assert torch.equal(u, Draws(5, 9).stream("a").uniform(200_000))
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 50, 0, 1)
    assert ((counts - 4000) ** 2 / 4000).sum() < 100  # chi-square, 49 degrees of freedom
    logs = draws.stream("a").log_uniform(200_000, 0.5, 4.0).log2()
    torch.testing.assert_close(logs, 3 * u - 1, atol=1e-5, rtol=0)
    for other in (
        Draws(5, 10).stream("a"),
        Draws(6, 9).stream("a"),
        Draws(5, 9, rank=1, processes=2).stream("a"),
        draws.stream("b"),
    ):
        assert abs(torch.corrcoef(torch.stack([u, other.uniform(200_000)]))[0, 1]) < 0.01
    stream = draws.stream("a")
    stream.uniform(200_000)
    assert abs(torch.corrcoef(torch.stack([u, stream.uniform(200_000)]))[0, 1]) < 0.01


def test_a_step_in_a_tensor_draws_what_a_step_in_an_int_draws():
    a, b = Draws(1, 77).stream("x"), Draws(1, torch.tensor(77)).stream("x")
    assert torch.equal(a.bits((3, 5)), b.bits((3, 5)))


def test_splitmix64_is_the_published_generator():
    """The first outputs of SplitMix64 seeded with 1234567, as its reference implementation gives them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = [(1234567 + (i + 1) * 0x9E3779B97F4A7C15) % 2**64 for i in range(4)]
    assert [_mix(s) % 2**64 for s in state] == expected


def test_integers_reach_every_value_alike_and_rows_of_a_keyed_stream_stand_alone():
    counts = torch.bincount(Stream(derive_key("i")).integers(60_000, 6))
    assert len(counts) == 6
    assert (counts - 10_000).abs().max() < 400
    ids = torch.arange(50)
    assert torch.equal(keyed_stream(3, ids).uniform((50, 2))[20:30], keyed_stream(3, ids[20:30]).uniform((10, 2)))
