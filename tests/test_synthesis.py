"""The parts of Ω, and what they leave unknown."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d, uniform_filter

from cmems import geometry
from cmems.datasets.orientation import StackOrientation
from cmems.datasets.synthesis import (
    AmplitudeMix,
    BodyFit,
    ClassGain,
    ExemplarPaste,
    MatchQuantiles,
    OrganJitter,
    PaintClasses,
    RadialShape,
    RandomAffine,
    RandomGammaGain,
    Trabeculae,
    WallShape,
    WarpedExemplar,
)
from cmems.datasets.synthesis.geometric import centroid, mean_distance
from cmems.errors import InputError
from cmems.geometry import warp_labels, warp_outlines
from cmems.labels import check_labels
from cmems.registry import SYNTHESIZERS
from cmems.seeding import Stream, keyed_stream

STILL = dict(type="RandomAffine", degrees=0, scale=(1, 1), shift=0, flip=0)
SAME = dict(type="RandomGammaGain", gamma=(1, 1), gain=(1, 1))
SIZE = 64


def discs(*radii, size=SIZE, center=(0.0, 0.0)):
    """Concentric discs, the innermost last: label k within ``radii[k-1]``, the side being 2."""
    axis = (torch.arange(size) * 2 + 1) / size - 1
    distance = torch.hypot(axis[None] - center[0], axis[:, None] - center[1])
    label = torch.zeros(size, size, dtype=torch.uint8)
    for k, radius in enumerate(radii, 1):
        label[distance < radius] = k
    return label


def unmoved(n):
    part = RandomAffine(0, (1, 1), 0, 0)
    return part.grid(part.draw(Stream(0), n), (SIZE, SIZE))


def test_a_mask_has_its_centroid_and_mean_distance():
    masks = torch.stack([discs(0.5, center=(0.2, -0.1)) == 1, torch.zeros(SIZE, SIZE, dtype=torch.bool)])
    centers = centroid(masks)
    torch.testing.assert_close(centers, torch.tensor([[0.2, -0.1], [0.0, 0.0]]), atol=0.01, rtol=0)
    # The mean distance of a disc from its centre is two thirds of its radius.
    torch.testing.assert_close(mean_distance(masks, centers), torch.tensor([1 / 3, 0.0]), atol=0.01, rtol=0)
    pixel = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    pixel[0, 3, 5] = True
    away = centroid(pixel) + torch.tensor([0.3, 0.4])
    torch.testing.assert_close(mean_distance(pixel, away), torch.tensor([0.5]))


def test_place_size_and_bend_are_drawn_within_their_ranges():
    place = dict(degrees=10, scale=(0.5, 2.0), shift=0.1)
    drawn = RandomAffine(**place, flip=0.3, elastic=0.02, control_points=3).draw(Stream(1), 4000)
    jitter = OrganJitter(classes=(1,), **place).draw(Stream(1), 4000)
    for name, low, high in (("angle", -math.pi / 18, math.pi / 18), ("scale", 0.5, 2.0), ("shift", -0.2, 0.2)):
        reach = high - low
        for found in (drawn[name].double(), jitter[name].double()):
            assert low <= found.min() < low + 0.01 * reach
            assert high - 0.01 * reach < found.max() <= high
            middle = found.log().mean() if name == "scale" else found.mean()  # as often half as large as twice
            assert abs(middle) < 0.02
    assert drawn["flip"].float().mean() == pytest.approx(0.3, abs=0.03)
    bend = drawn["displacement"]
    assert bend.shape == (4000, 2, 3, 3)
    assert (bend.mean(), bend.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(0.04, abs=1e-3))  # the side being 2
    # The outer control points lie on the border of the image.
    still = geometry.grid(geometry.affine_matrices(torch.zeros(1)), (9, 9))
    moved = geometry.grid(geometry.affine_matrices(torch.zeros(1)), (9, 9), bend[:1])
    torch.testing.assert_close((moved - still)[:, ::4, ::4].permute(0, 3, 1, 2), bend[:1])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_a_radial_shape_moves_a_border_by_its_power_law(exponent):
    """What lies at R (ρ/R)^g appears at ρ: a border at a appears at R (a/R)^(1/g); beyond R nothing moves."""
    label = discs(0.8, 0.3)[None]
    part = RadialShape(classes=(2,), reach=3.0)
    which = torch.zeros(1, dtype=torch.int64)
    still = unmoved(1)
    parameters = dict(choice=torch.zeros(1), factor=torch.tensor([1.2]), exponent=torch.tensor([exponent]))
    moved = warp_labels(label, part.bend(still, parameters, label, which))
    reach = 1.2 * 3.0 * float(mean_distance(label == 2, centroid(label == 2)))
    expected = reach * (0.3 / reach) ** (1 / exponent)
    area = (moved == 2).sum() * (2 / SIZE) ** 2
    assert math.sqrt(area / math.pi) == pytest.approx(expected, abs=0.02)
    assert torch.equal(moved > 0, label > 0)  # the outer border lies beyond R


def test_a_radial_shape_bends_about_the_organs_own_centre():
    label, still = discs(0.2, center=(0.45, -0.3))[None], unmoved(1)
    part = RadialShape(classes=(1,), reach=2.0)
    parameters = dict(choice=torch.zeros(1), factor=torch.ones(1), exponent=torch.tensor([2.0]))
    moved = part.bend(still, parameters, label, torch.zeros(1, dtype=torch.int64))
    center = torch.tensor([0.45, -0.3])
    before, after = ((each[0] - center).norm(dim=-1) for each in (still, moved))
    reach = 2.0 * float(mean_distance(label == 1, centroid(label == 1)))
    inside, beyond = before < reach - 0.01, before > reach + 0.01
    torch.testing.assert_close(after[beyond], before[beyond])
    torch.testing.assert_close(after[inside], before[inside].square() / reach, atol=0.02, rtol=0)


def test_each_sample_has_its_own_radial_shape():
    labels = torch.stack([discs(0.3, center=(0.2, 0.1)), 2 * discs(0.4, center=(-0.3, 0.2))])
    which, exponent, factor = torch.tensor([1, 0, 1]), torch.tensor([0.5, 2.0, 1.5]), torch.tensor([1.0, 1.2, 0.8])
    part = RadialShape(classes=(1, 2), reach=2.5)
    still = unmoved(3)
    moved = part.bend(still, dict(choice=torch.zeros(3), factor=factor, exponent=exponent), labels, which)
    center, radius = torch.tensor([[0.2, 0.1], [-0.3, 0.2]])[which], torch.tensor([0.2, 0.8 / 3])[which]
    far, found = ((each - center[:, None, None]).norm(dim=-1) for each in (still, moved))
    reach = (2.5 * factor * radius)[:, None, None]
    wanted = torch.where(far < reach, reach * (far / reach) ** exponent[:, None, None], far)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)


def test_a_radial_shape_passes_over_classes_that_an_exemplar_lacks():
    labels = torch.stack([discs(0.8, 0.3), discs(0.5, center=(0.3, 0.0))])
    part, which = RadialShape(classes=(1, 2), probability=1.0), torch.tensor([0, 1] * 16)
    moved = warp_labels(labels[which], part.bend(unmoved(32), part.draw(Stream(3), 32), labels, which))
    assert set(moved[1::2].unique().tolist()) == {0, 1}
    assert (moved[0::2] == 2).sum((1, 2)).float().std() > 20  # the inner border moves about either centre


def test_a_radial_shape_draws_among_the_classes_that_are_there_and_leaves_some_alone():
    label = (discs(0.25, center=(-0.5, 0.0)) + 3 * discs(0.25, center=(0.5, 0.0)))[None]  # no class 2
    part, which = RadialShape(classes=(1, 2, 3), reach=2.5), torch.zeros(2, dtype=torch.int64)
    parameters = dict(choice=torch.tensor([0.2, 0.8]), factor=torch.ones(2), exponent=torch.full((2,), 2.0))
    moved = warp_labels(label[which], part.bend(unmoved(2), parameters, label, which))
    grew = [[int((m == k).sum() - (label == k).sum()) > 50 for k in (1, 3)] for m in moved]
    assert grew == [[True, False], [False, True]]
    assert (RadialShape((1,), probability=0.0).draw(Stream(0), 50)["exponent"] == 1).all()
    low, high = RadialShape((1,), exponent=(0.5, 2.0)).draw(Stream(0), 500)["exponent"].aminmax()
    assert 0.5 <= low < 0.55
    assert 1.9 < high <= 2


@pytest.mark.parametrize(("ratio", "size"), [(0.2, 1.0), (0.85, 0.8), (0.5, 1.2)])
def test_a_wall_lies_between_the_radii_that_were_drawn(ratio, size):
    """Discs of radii 0.3 and 0.5: afterwards the outer one is 0.5 size, the inner that times the ratio."""
    label = torch.where(discs(0.5) == 1, 1, 0).to(torch.uint8)
    label[discs(0.3) == 1] = 2
    label[discs(0.1, center=(0.8, 0.8)) == 1] = 3  # far out, where nothing moves
    part = WallShape(cavity=2, wall=1)
    parameters = dict(ratio=torch.tensor([ratio]), size=torch.tensor([size]), changed=torch.tensor([True]))
    sampling = part.bend(unmoved(1), parameters, label[None], torch.zeros(1, dtype=torch.int64))
    moved = warp_outlines(label[None], sampling, (1, 2))
    inner, outer = ((moved == 2).sum(), ((moved == 1) | (moved == 2)).sum())
    radius = [math.sqrt(float(area) * (2 / SIZE) ** 2 / math.pi) for area in (inner, outer)]
    assert radius == pytest.approx([0.5 * size * ratio, 0.5 * size], abs=0.02)
    assert torch.equal(moved == 3, label[None] == 3)
    # Along the ray to the right, positions grow without a fold.
    ray = sampling[0, SIZE // 2, SIZE // 2 :, 0]
    assert (ray.diff() > 0).all()


def test_radii_are_measured_by_angle_and_smoothed_along_it():
    size = 256
    axis = (torch.arange(size) * 2 + 1) / size - 1
    angle = torch.atan2(axis[:, None].expand(size, size), axis.expand(size, size))
    distance = torch.hypot(axis[None], axis[:, None])
    half = math.pi / 4 + math.pi / 96  # between two of the angles that are measured
    quarter = (angle.abs() < half) | (angle.abs() > math.pi - half)  # wider to both sides: the centre stays
    label = (distance < torch.where(quarter, 0.7, 0.4)).to(torch.uint8)
    label[distance < 0.2] = 2
    center, inner, outer = WallShape(cavity=2, wall=1).radii(label[None])
    torch.testing.assert_close(center, torch.zeros(1, 2), atol=5e-3, rtol=0)
    torch.testing.assert_close(inner, torch.full_like(inner, 0.2), atol=0.01, rtol=0)
    turn = torch.arange(96) * (2 * math.pi / 96)
    wide = (turn.cos().abs() > math.cos(half)).double().numpy()
    smooth = gaussian_filter1d(0.4 + 0.3 * wide, 1.5, mode="wrap", radius=4)
    np.testing.assert_allclose(outer[0], smooth, atol=0.035)


def test_radii_of_waves_are_those_of_a_gaussian_along_them_and_of_discs_exact():
    size, turn = 256, np.arange(96) * (2 * math.pi / 96)
    axis = (torch.arange(size) * 2 + 1) / size - 1
    angle = torch.atan2(axis[:, None] + 0.1, axis - 0.2)
    distance = torch.hypot(axis - 0.2, axis[:, None] + 0.1)
    label = (distance < 0.5 + 0.1 * (7 * angle).cos()).to(torch.uint8)  # unlike on opposite sides
    label[distance < 0.2] = 2
    label[0, 0] = 255
    other = discs(0.6, 0.3, size=size)
    center, inner, outer = WallShape(cavity=2, wall=1).radii(torch.stack([label, other]))
    torch.testing.assert_close(center, torch.tensor([[0.2, -0.1], [0.0, 0.0]]), atol=1e-3, rtol=0)
    wave = gaussian_filter1d(0.5 + 0.1 * np.cos(7 * turn), 1.5, mode="wrap", radius=4)
    for found, wanted in ((outer[0], wave), (inner[0], 0.2), (outer[1], 0.6), (inner[1], 0.3)):
        np.testing.assert_allclose(found, np.broadcast_to(wanted, 96), atol=4e-3)


def test_between_two_angles_a_radius_is_their_mean_and_beyond_the_wall_movement_decays():
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    across, down = axis[None] - 0.2, axis[:, None] + 0.1
    label = (torch.hypot(across / 0.5, down / 0.3) < 1).to(torch.uint8)
    label[torch.hypot((across - 0.05) / 0.3, down / 0.2) < 1] = 2
    part = WallShape(cavity=2, wall=1, reach=1.5)
    drawn = dict(ratio=torch.tensor([0.6, 0.4]), size=torch.tensor([0.8, 1.2]), changed=torch.tensor([True, True]))
    center, inner, outer = (each[0].double().numpy() for each in part.radii(label[None]))
    turn = (np.arange(96) + 0.5) * (2 * math.pi / 96)
    ray = np.stack([np.cos(turn), np.sin(turn)], 1)

    def between(table):
        return (table + np.roll(table, -1)) / 2

    a, b = between(inner), between(outer)
    for k, (ratio, size) in enumerate(((0.6, 0.8), (0.4, 1.2))):
        share = inner / outer
        new_a, new_b = between(size * outer * share * ratio / share.mean()), size * b
        end = 1.5 * np.maximum(b, new_b)
        for new, old in (
            (new_a / 4, a / 4),
            (new_a, a),
            ((3 * new_a + new_b) / 4, (3 * a + b) / 4),  # stretched linearly
            ((3 * new_b + end) / 4, (3 * new_b + end) / 4 + (b - new_b) * 0.75),
            ((new_b + 3 * end) / 4, (new_b + 3 * end) / 4 + (b - new_b) * 0.25),
            (1.1 * end, 1.1 * end),
        ):
            place = torch.from_numpy(center + new[:, None] * ray).float().expand(2, 1, -1, -1)
            found = part.bend(place, drawn, label[None], torch.zeros(2, dtype=torch.int64))[k, 0]
            np.testing.assert_allclose(found, center + old[:, None] * ray, atol=2e-4)


def test_a_cavity_to_one_side_leaves_some_wall_on_every_ray():
    label = discs(0.5)
    label[discs(0.35, center=(0.12, 0.0)) == 1] = 2  # to the right the wall is thinnest, from 0.47 to 0.5
    drawn = dict(ratio=torch.tensor([0.88]), size=torch.ones(1), changed=torch.tensor([True]))
    ray = torch.stack([torch.linspace(0.3, 0.55, 251), torch.zeros(251)], 1)[None, None]
    bent = WallShape(cavity=2, wall=1).bend(ray, drawn, label[None], torch.zeros(1, dtype=torch.int64))
    found = bent[0, 0, :, 0]
    assert (found.diff() > 0).all()
    assert 0.46 < found[190] < 0.5  # what lies at 0.49 is wall


def test_a_wall_at_the_ratio_that_it_has_stays_whatever_its_outline():
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    label = (torch.hypot(axis[None] / 0.7, axis[:, None] / 0.45) < 1).to(torch.uint8)
    label[torch.hypot((axis[None] - 0.1) / 0.3, (axis[:, None] + 0.1) / 0.2) < 1] = 2  # to one side: no two rays alike
    part = WallShape(cavity=2, wall=1)
    _, inner, outer = part.radii(label[None])
    parameters = dict(ratio=(inner / outer).mean(1), size=torch.ones(1), changed=torch.tensor([True]))
    sampling = part.bend(unmoved(1), parameters, label[None], torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(sampling, unmoved(1), atol=1e-4, rtol=0)
    # Along each ray that is measured, what lies where the borders are wanted comes from where they are.
    parameters = dict(ratio=torch.tensor([0.5]), size=torch.tensor([1.1]), changed=torch.tensor([True]))
    center, inner, outer = part.radii(label[None])
    share = inner / outer
    new_outer = 1.1 * outer
    turn = torch.arange(96) * (2 * math.pi / 96)
    ray = torch.stack([turn.cos(), turn.sin()], 1)
    for new, old in ((new_outer, outer), (new_outer * share * 0.5 / share.mean(), inner)):
        place = (center + new[0][:, None] * ray)[None, None]
        found = part.bend(place, parameters, label[None], torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close((found - center)[0, 0].norm(dim=1), old[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("ratio", "rim"), [(0.3, 0.08), (0.8, 0.08), (0.1, 0.03)])
def test_the_rim_of_a_cavity_keeps_its_width(ratio, rim):
    """Discs of radii 0.3 and 0.5: a rim of 0.08, but at most 0.6 of the new radius, is moved and not stretched."""
    size = 256
    label = torch.where(discs(0.5, size=size) == 1, 1, 0).to(torch.uint8)
    label[discs(0.3, size=size) == 1] = 2
    part = WallShape(cavity=2, wall=1, rim=0.04)
    parameters = dict(ratio=torch.tensor([ratio]), size=torch.ones(1), changed=torch.tensor([True]))
    far = torch.linspace(0.001, 0.499, 200)
    place = torch.stack([far, torch.zeros_like(far)], 1)[None, None]
    source = part.bend(place, parameters, label[None], torch.zeros(1, dtype=torch.int64))[0, 0, :, 0]
    new, middle = 0.5 * ratio, far < 0.5 * ratio - rim
    rest = far[middle] * (0.3 - rim) / (new - rim)
    torch.testing.assert_close(source[middle], rest, atol=6e-3, rtol=0)
    within = ~middle & (far < new)
    torch.testing.assert_close(source[within], far[within] + 0.3 - new, atol=6e-3, rtol=0)
    assert (source.diff() > 0).all()


def test_contrast_is_a_power_and_a_factor_within_the_range_of_grey():
    part = RandomGammaGain(gamma=(0.5, 2), gain=(0.5, 2))
    grey = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(2, 1, 1, 4)
    changed = part.apply(grey, torch.tensor([2.0, 0.5]), torch.tensor([0.8, 1.5])).flatten(1)
    expected = [[0, 0.05, 0.2, 0.8], [0, 0.75, 1, 1]]
    torch.testing.assert_close(changed, torch.tensor(expected))


def test_walls_of_all_ratios_are_drawn_and_some_stay():
    label = torch.where(discs(0.5) == 1, 1, 0).to(torch.uint8)
    label[discs(0.4) == 1] = 2
    part, n = WallShape(cavity=2, wall=1, ratio=(0.2, 0.9), size=(1, 1)), 200
    which = torch.zeros(n, dtype=torch.int64)
    sampling = part.bend(unmoved(n), part.draw(Stream(3), n), label[None], which)
    moved = warp_outlines(label.expand(n, -1, -1), sampling, (1, 2))
    ratios = ((moved == 2).sum((1, 2)) / (moved > 0).sum((1, 2))).sqrt()
    plain = (ratios - 0.8).abs() < 0.01
    assert 0.1 < plain.float().mean() < 0.35
    assert ratios.min() < 0.25
    assert ratios.max() > 0.87
    drawn = part.draw(Stream(3), 2000)["ratio"]
    assert 0.2 <= float(drawn.min()) < 0.25
    assert 0.89 < float(drawn.max()) <= 0.9
    empty = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    assert part.bend(unmoved(n), part.draw(Stream(3), n), empty, which).isfinite().all()


def test_enlarged_outlines_are_smooth_and_other_labels_are_at_their_nearest_pixel():
    small = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    small[discs(0.16)[None] == 1] = 1
    small[:, :2] = 255
    sampling = unmoved(1) / 5
    smooth, stairs = (warp_outlines(small, sampling, classes) for classes in ((1,), (2,)))
    assert torch.equal(stairs, warp_labels(small, sampling))
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    distance = torch.hypot(axis[None], axis[:, None])
    rough = []
    for each in (smooth, stairs):
        inside = (each == 1).float()
        border = (inside[0] == 1) & (torch.nn.functional.avg_pool2d(inside, 3, 1, 1)[0] < 1)
        rough.append(float(distance[border].std()))
    assert rough[0] < 0.6 * rough[1]
    assert torch.equal(warp_outlines(small, unmoved(1), (1,)) == 255, small == 255)


def test_organs_of_few_pixels_keep_about_their_area_with_smooth_outlines():
    for shape in ((slice(30, 31), slice(30, 31)), (slice(30, 32), slice(30, 32)), (slice(30, 31), slice(10, 50))):
        label = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
        label[0, 4:20, 4:20] = 2
        label[(0, *shape)] = 1
        for sampling in (unmoved(1), unmoved(1) / 1.4):
            found, nearest = (
                f.eq(1).sum().item() for f in (warp_outlines(label, sampling, (1, 2)), warp_labels(label, sampling))
            )
            assert nearest / 4 <= found <= 1.7 * nearest


@pytest.mark.parametrize("around", [0, 2, 255])
def test_a_smooth_outline_that_draws_back_leaves_what_it_bordered_on(around):
    label = torch.where(discs(0.4)[None] == 1, 1, around).to(torch.uint8)
    moved = warp_outlines(label, unmoved(1) / 1.4, (1,))
    assert set(moved.unique().tolist()) == {1, around}


def test_painted_classes_have_their_median_and_change_where_labels_do():
    label = torch.where(discs(0.5) == 1, 1, 0).to(torch.uint8)
    label[discs(0.3) == 1] = 2
    image = torch.where(label == 2, 0.8, torch.where(label == 1, 0.3, 0.1))[None, None]
    image = torch.where((discs(0.5) == 1) & (discs(0.46) == 0), 0.7, image)  # an outline that takes in too much
    full = dict(probability=1.0, share=(1, 1), texture=(0, 0))
    painted = PaintClasses((1, 2), **full)(image, label[None], image, Stream(1))
    several = PaintClasses((1, 2), **full)(image.expand(3, -1, -1, -1), label.expand(3, -1, -1), image, Stream(1))
    torch.testing.assert_close(several[0], painted[0])  # each image has a median of its own
    inside = (discs(0.43) == 1) & (discs(0.37) == 0)
    assert painted[0, 0][inside].sub(0.3).abs().max() < 1e-6
    assert painted[0, 0][discs(0.23) == 1].sub(0.8).abs().max() < 1e-6
    assert painted[0, 0][(discs(0.495) == 1) & (discs(0.46) == 0)].max() < 0.35  # not 0.7
    assert torch.equal(painted[0, 0][discs(0.56) == 0], image[0, 0][discs(0.56) == 0])
    for part in (PaintClasses((1, 2), probability=0.0), PaintClasses((7,), **full)):
        torch.testing.assert_close(part(image, label[None], image, Stream(1)), image)
    noisy = 0.5 + 0.05 * torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(1, SIZE, SIZE, dtype=torch.uint8)
    grain = PaintClasses((1,), probability=1.0, share=(1, 1), texture=(1, 1))(noisy, whole, noisy, Stream(2))
    assert 0.01 < float(grain.std()) < 0.055
    for nearly in (noisy * 0.1, noisy + 0.45):  # grain beyond white and black
        grain = PaintClasses((1,), probability=1.0, share=(1, 1), texture=(9, 9))(nearly, whole, nearly, Stream(2))
        assert 0 <= float(grain.min()) <= float(grain.max()) <= 1


def test_paint_has_grain_of_the_classes_own_spread_and_blurs_by_a_third_to_all_of_three_pixels():
    """Two classes side by side, whose grey levels scatter by 0.04 and 0.01 about 0.3 and 0.7."""
    n, size = 40, 90
    label = torch.ones(n, size, size, dtype=torch.uint8)
    label[..., size // 2 :] = 2
    scatter = torch.tensor([-1.0, 0.0, 1.0, 1.0, -1.0]).repeat(size * size // 5).view(size, size)
    image = torch.where(label == 1, 0.3 + 0.04 * scatter, 0.7 + 0.01 * scatter).unsqueeze(1)

    def paint(share, texture):
        found = PaintClasses((1, 2), probability=1.0, share=share, texture=texture)(image, label, image, Stream(7))
        assert found.shape == image.shape
        return found[:, 0, 3:-3]

    plain = paint((1, 1), (0, 0))
    edge = plain[..., size // 2 - 2 : size // 2 + 2]
    torch.testing.assert_close(edge[..., [0, 3]], torch.tensor([0.3, 0.7]).expand_as(edge[..., :2]))
    blur = (edge[..., 1] - 0.3) / (0.4 / 3)  # the neighbour is a third of three pixels' mean: how much of it is taken
    torch.testing.assert_close((0.7 - edge[..., 2]) / (0.4 / 3), blur, atol=1e-4, rtol=0)
    torch.testing.assert_close(blur, blur[:, :1].expand_as(blur), atol=1e-4, rtol=0)
    assert 0.3 <= blur.min() < 0.36
    assert 0.94 < blur.max() <= 1
    torch.testing.assert_close(paint((0.5, 0.5), (0, 0)), (plain + image[:, 0, 3:-3]) / 2)
    # White noise of deviation 1 once averaged over three by three, and by so much once more.
    across = np.array([1, 2, 3, 2, 1]) / 9
    twice, mixed = (across**2).sum() ** 2 * 9, (across[1:4].sum() / 3) ** 2 * 9
    wanted = ((1 - blur) ** 2 + 2 * blur * (1 - blur) * mixed + blur**2 * twice).sqrt()[:, 0]
    for texture in ((1.0, 1.0), (0.2, 0.8)):
        grain = paint((1, 1), texture) - plain
        sides = ((slice(3, size // 2 - 3), 0.04), (slice(size // 2 + 3, -3), 0.01))
        found = [grain[..., columns].std((1, 2)) / (1.4826 * spread * wanted) for columns, spread in sides]
        drawn = torch.stack(found).mean(0)
        assert abs(float(drawn.mean()) - sum(texture) / 2) < 0.06
        assert texture[0] - 0.09 < drawn.min() < texture[0] + 0.1
        assert texture[1] - 0.1 < drawn.max() < texture[1] + 0.09


def strands(labels, **settings):
    """Return what strands follow, less its threshold, in cavities, 2, of level 0 in walls of level 1; soft by 1/4."""
    images = torch.where(labels == 2, 0.0, 1.0).unsqueeze(1)
    part = Trabeculae((2,), wall=1, probability=1.0, depth=(1, 1), **settings)
    found = part(images, labels, images, Stream(5))
    assert found.shape == images.shape
    return found.squeeze(1).double().clamp(1e-5, 1 - 1e-5).logit() / 4


def test_strands_follow_noise_of_two_sizes_and_of_deviation_one():
    size, n, cells = 24, 100, (3, 8)
    labels = torch.full((n, size, size), 2, dtype=torch.uint8)
    labels[:, 0, 0] = 1
    found = strands(labels, amount=(0.5, 0.5), border=0.0, cells=cells).flatten(1)[:, 1:]
    assert abs(float(found.median(1).values.mean())) < 0.02
    assert found.std(1).sub(1).abs().max() < 0.06
    parts = [torch.eye(k * k).view(-1, 1, k, k) for k in cells]
    kinds = dict(size=(size, size), mode="bicubic", align_corners=True)
    basis = torch.cat([torch.nn.functional.interpolate(part, **kinds).flatten(1) for part in parts])[:, 1:].double()
    coarse, fine = np.split(np.linalg.lstsq(basis.T.numpy(), found.T.numpy(), rcond=1e-6)[0], [cells[0] ** 2])
    share = fine.std(0) / (fine.std(0) + coarse.std(0))
    assert abs(share.mean() - 0.5) < 0.08
    assert 0.1 < share.min() < 0.3  # neither alone
    assert 0.7 < share.max() < 0.9


@pytest.mark.parametrize(("size", "reach"), [(64, 2), (24, 1)])
def test_outlines_add_to_what_strands_follow_and_all_of_a_cavity_can_be_covered(size, reach):
    labels = discs(0.95, 0.7, size=size).expand(60, -1, -1).clone()
    cavity, settings = labels[0] == 2, dict(amount=(0.3, 0.3), cells=(3, 5))
    near = 1 - uniform_filter(cavity.double().numpy(), 2 * reach + 1)
    plain, added = (strands(labels, border=border, **settings)[:, cavity] for border in (0.0, 1.5))
    near, soft = torch.from_numpy(near)[cavity], (torch.maximum(plain.abs(), added.abs()) < 2.5)
    assert (added == plain)[:, near < 1e-9].all()
    draws = ((added - plain) * near * soft).sum(1) / (near.square() * soft).sum(1)
    torch.testing.assert_close((added - plain) * soft, draws[:, None] * near * soft, atol=0.02, rtol=0)
    assert 0 <= draws.min() < 0.15
    assert 1.35 < draws.max() <= 1.5
    whole = strands(labels, border=0.0, **{**settings, "amount": (1, 1)})[:, cavity]
    assert (whole >= 0).all()


def test_strands_cover_their_share_of_a_cavity_in_the_walls_grey_and_nothing_else():
    labels = discs(0.9, 0.7).expand(64, -1, -1).clone()  # a wall, 1, around a cavity, 2
    images = torch.where(labels == 2, 0.8, torch.where(labels == 1, 0.3, 0.1)).unsqueeze(1)
    cavity, full = labels == 2, dict(probability=1.0, depth=(1.0, 1.0))

    def covered(where, **settings):
        found = Trabeculae((2,), wall=1, **full, **settings)(images, labels, images, Stream(3)).squeeze(1)
        assert torch.equal(found[~cavity], images.squeeze(1)[~cavity])
        assert 0.3 - 1e-6 <= float(found[cavity].min()) <= float(found[cavity].max()) <= 0.8 + 1e-6
        return float((found[where.expand_as(cavity)] < 0.55).float().mean())

    found = Trabeculae((2,), wall=1, **full, amount=(0.3, 0.3), border=0.0)(images, labels, images, Stream(3))
    assert 0.6 < float(((found.squeeze(1)[cavity] - 0.55).abs() > 0.15).float().mean()) < 0.95  # their edges are soft
    middle, rim = discs(0.4) == 1, (discs(0.7) == 1) & (discs(0.6) == 0)
    for amount in (0.1, 0.4):
        assert abs(covered(cavity, amount=(amount, amount), border=0.0) - amount) < 0.04
        assert abs(covered(rim, amount=(amount, amount), border=0.0) - amount) < 0.04
    more = dict(amount=(0.2, 0.2), border=3.0)
    assert covered(rim, **more) > covered(middle, **more) + 0.08
    drawn = Trabeculae((2,), wall=1, probability=0.5)(images, labels, images, Stream(3))
    assert 20 < int((drawn != images).flatten(1).any(1).sum()) < 44
    for part in (Trabeculae((2,), wall=1, probability=0.0), Trabeculae((7,), wall=1), Trabeculae((2,), wall=7)):
        assert torch.equal(part(images, labels, images, Stream(3)), images)


def test_in_pictures_of_unequal_sides_organs_turn_about_their_centre_and_unknown_is_none():
    label = torch.zeros(2, 20, 40, dtype=torch.uint8)
    label[0, 4:8, 10:14] = 1
    label[1, 8:16, 30:34] = 2
    label[:, :, :2] = 255
    centers = torch.tensor([[24 / 40 - 1, 12 / 20 - 1], [64 / 40 - 1, 24 / 20 - 1]])
    torch.testing.assert_close(centroid((label > 0) & (label < 255)), centers)
    corner = torch.tensor([[1 / 40 - 1, 3 / 20 - 1]])  # of a pixel in the first column, second row
    distance = mean_distance((label == 1)[:1] * 0 + (torch.arange(800).view(20, 40) == 40), centers[:1])
    torch.testing.assert_close(distance, (corner - centers[:1]).norm(dim=1))
    which, part = torch.tensor([1, 0, 1]), RandomAffine(0, (2, 2), 0, 0)
    drawn = part.draw(Stream(0), 3) | dict(angle=torch.tensor([0.0, 0.3, 0.5]))
    found = part.grid(drawn, (20, 40), label, which, torch.tensor([0.2, -0.4]))
    expected = geometry.affine_matrices(torch.tensor([-0.4, 0.5, 0.1]), torch.full((3,), 2.0), center=centers[which])
    torch.testing.assert_close(found, geometry.grid(expected, (20, 40)))


def a_body(left, right, top, bottom, level=0.5):
    image = torch.zeros(1, 1, SIZE, SIZE)
    image[..., top:bottom, left:right] = level
    return image


def test_a_body_is_laid_upon_another_and_what_lies_in_it_lands_in_the_same_part_of_it():
    own, other, none = a_body(8, 40, 16, 56), a_body(4, 20, 20, 60, level=0.2), torch.zeros(1, 1, SIZE, SIZE)
    fit = BodyFit()(torch.cat([own, own, none]), torch.cat([other, none, other]))

    def place(column, row):
        """Return where a pixel's upper left corner is, the side being 2."""
        return torch.tensor([2 * column / SIZE - 1, 2 * row / SIZE - 1])

    corners = torch.stack([place(4, 20), place(20, 60), place(12, 40)]).expand(3, 1, 3, 2)
    found = fit(corners)
    torch.testing.assert_close(found[0, 0, 2], place(24, 36), atol=1e-5, rtol=0)
    # Pixels' centres spread by (n² - 1) / 12, so edges are met to a tenth of a pixel.
    torch.testing.assert_close(found[0, 0, :2], torch.stack([place(8, 16), place(40, 56)]), atol=0.2 / SIZE, rtol=0)
    torch.testing.assert_close(found[1:], corners[1:])
    squeezed = BodyFit(limit=1.5)(own, other)(corners[:1])
    torch.testing.assert_close(squeezed[0, 0, 2], place(24, 36), atol=1e-5, rtol=0)
    torch.testing.assert_close(squeezed[0, 0, 0, 0], place(12, 0)[0], atol=1e-5, rtol=0)  # 8 columns times 1.5, not 2
    assert torch.equal(BodyFit(level=0.3)(own, other)(corners[:1]), corners[:1])
    back = BodyFit()(other, own)(fit(corners)[:1])
    torch.testing.assert_close(back, corners[:1], atol=1e-4, rtol=0)
    widened = BodyFit(limit=1.5)(other, own)(torch.stack([place(24, 36), place(12, 36)]).view(1, 1, 2, 2))
    wanted = torch.stack([place(12, 40), place(4, 40)])  # 12 columns by 1.5, not 2
    torch.testing.assert_close(widened[0, 0], wanted, atol=1e-5, rtol=0)
    dim = a_body(2, 62, 2, 62, level=0.25) + own
    torch.testing.assert_close(BodyFit(level=0.25)(dim, own)(corners[:1]), corners[:1])  # as bright is not brighter


def test_organs_are_pasted_where_the_body_is():
    images, labels = a_body(8, 56, 8, 56), torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    images[..., 12:24, 12:24], labels[:, 12:24, 12:24] = 1.0, 1
    backgrounds = a_body(32, 56, 30, 54)
    for fit, expected in ((None, (18.0, 18.0, 144)), (dict(type="BodyFit"), (37.0, 35.0, 36))):
        paste = ExemplarPaste(STILL, SAME, fit=fit)
        found, label = paste(images, labels, backgrounds, Stream(1))
        rows, columns = torch.nonzero(label[0] == 1, as_tuple=True)
        center = (columns.float().mean() + 0.5, rows.float().mean() + 0.5)
        assert (*map(float, center), len(rows)) == pytest.approx(expected, abs=0.6), fit
        assert (found.squeeze(1)[label == 1] > 0.7).all()  # half a pixel of the border is the body's


def test_a_body_that_lies_upside_down_is_turned_before_it_is_laid_upon_another():
    images, labels = a_body(8, 56, 8, 56), torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    images[..., 12:24, 12:24], labels[:, 12:24, 12:24] = 1.0, 1
    backgrounds, paste = a_body(20, 56, 30, 54), ExemplarPaste(STILL, SAME, fit=dict(type="BodyFit"))
    upright = paste(images, labels, backgrounds, Stream(1))
    turned = (each.flip(-1, -2) for each in (images, labels))
    found = paste(*turned, backgrounds, Stream(1), turns=torch.tensor([math.pi]))
    assert (found[1] == upright[1]).float().mean() > 0.99
    assert (upright[1] == 1).any()


def test_each_class_has_a_gain_of_its_own_and_the_background_none():
    labels = discs(0.8, 0.3).expand(6, -1, -1)
    images = torch.full((6, 1, SIZE, SIZE), 0.4)
    found = ClassGain(width=0.5)(images, labels, images, Stream(1)).squeeze(1)
    assert torch.equal(found[labels == 0], images.squeeze(1)[labels == 0])
    pairs = list(zip(found, labels, strict=True))
    gains = torch.stack([torch.stack([f[label == k].unique()[0] for k in (1, 2)]) for f, label in pairs])
    assert all(len(f[label == 2].unique()) == 1 for f, label in pairs)
    assert ((gains / 0.4).log().abs() <= 0.5 + 1e-5).all()
    assert gains.std(0).min() > 0.02
    labels = torch.tensor([0, 255, 1, 254], dtype=torch.uint8).repeat(300, 1, 1)
    found = ClassGain(width=0.5)(torch.full((300, 1, 1, 4), 0.9), labels, None, Stream(1))[:, 0, 0]
    assert (found[:, :2] == 0.9).all()  # unknown stays too
    low, high = found[:, 2:].aminmax(dim=0)
    assert (high == 1).all()  # as bright as can be
    torch.testing.assert_close(low, torch.full((2,), 0.9 * math.exp(-0.5)), atol=0.01, rtol=0)


def test_matched_quantiles_are_the_backgrounds_and_share_zero_changes_nothing():
    torch.manual_seed(0)
    images, backgrounds = torch.rand(3, 1, 32, 32) * 0.5, torch.rand(3, 1, 32, 32) ** 2
    labels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    matched = MatchQuantiles(share=(1, 1), quantiles=65)(images, labels, backgrounds, Stream(1))
    points = torch.linspace(0.05, 0.95, 7)
    expected, found = (torch.quantile(each.flatten(1), points, dim=1) for each in (backgrounds, matched))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    for ends in (torch.amin, torch.amax):
        torch.testing.assert_close(ends(matched, (1, 2, 3)), ends(backgrounds, (1, 2, 3)))
    points, halfway = np.linspace(0, 1, 5), MatchQuantiles(share=(0.5, 0.5), quantiles=5)
    levels = [[np.quantile(each, points) for each in pair] for pair in zip(images, backgrounds, strict=True)]
    mapped = np.stack([np.interp(x, *pair) for x, pair in zip(images.numpy(), levels, strict=True)])
    half = halfway(images, labels, backgrounds, Stream(1))
    np.testing.assert_allclose(half, (images.numpy() + mapped) / 2, atol=1e-5)
    kept = MatchQuantiles(share=(0, 0))(images, labels, backgrounds, Stream(1))
    torch.testing.assert_close(kept, images)
    constant = MatchQuantiles(share=(1, 1))(torch.full_like(images, 0.3), labels, backgrounds, Stream(1))
    assert constant.isfinite().all()


def test_amplitude_mixing_takes_the_backgrounds_low_frequencies_and_the_exemplars_rest():
    torch.manual_seed(0)
    images, backgrounds = 0.4 + 0.1 * torch.rand(2, 1, 32, 32), 0.6 + 0.1 * torch.rand(2, 1, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    part = AmplitudeMix(window=0.0, strength=(1, 1), probability=1.0)  # the mean alone
    found = part(images, labels, backgrounds, Stream(1))
    means = backgrounds.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, images - images.mean((1, 2, 3), keepdim=True) + means, atol=1e-5, rtol=0)
    never = AmplitudeMix(probability=0.0)(images, labels, backgrounds, Stream(1))
    torch.testing.assert_close(never, images, atol=1e-5, rtol=0)
    assert AmplitudeMix(0.5, (1, 1), 1.0)(images, labels, 2 * backgrounds, Stream(1)).max() == 1  # as bright as can be


def test_amplitudes_mix_by_half_in_a_square_of_frequencies_and_phases_stay():
    ours, theirs = (
        a + 0.2 * torch.rand(2, 1, 20, 40, generator=torch.Generator().manual_seed(k)) for k, a in ((0, 0.2), (1, 0.5))
    )
    labels = torch.zeros(2, 20, 40, dtype=torch.uint8)
    found = AmplitudeMix(window=0.1, strength=(0.5, 0.5), probability=1.0)(ours, labels, theirs, Stream(1))
    ours, theirs, found = (np.fft.fft2(each.double().numpy()) for each in (ours, theirs, found))
    np.testing.assert_allclose(np.angle(found / ours), 0, atol=1e-3)
    wanted = np.abs(ours)
    for rows in (slice(0, 3), slice(-2, None)):  # up to 2 of 20 and 4 of 40 periods
        for columns in (slice(0, 5), slice(-4, None)):
            wanted[..., rows, columns] = (np.abs(ours) + np.abs(theirs))[..., rows, columns] / 2
    np.testing.assert_allclose(np.abs(found), wanted, atol=1e-3)


def paste(**change):
    make = ExemplarPaste(**{**dict(geometric=STILL, intensity=SAME), **change})
    label = discs(0.5)[None]
    return label[0], *make(label.float()[None], label, torch.zeros(3, 1, SIZE, SIZE), keyed_stream(5, torch.arange(3)))


def test_a_margin_is_pasted_along_but_labelled_background():
    label = discs(0.5)[None]
    make = ExemplarPaste(geometric=STILL, intensity=SAME, margin=3)
    images, labels = make(torch.full((1, 1, SIZE, SIZE), 0.7), label, torch.zeros(1, 1, SIZE, SIZE), Stream(1))
    assert torch.equal(labels, label)
    pasted = images[0, 0] > 0.5
    assert (pasted & (label[0] == 0)).sum() > 150
    assert pasted[SIZE // 2].sum() == (label[0, SIZE // 2] > 0).sum() + 6


@pytest.mark.parametrize(("edge", "side"), [(0.3, 3), (1.0, 3), (2.0, 5), (3.0, 7)])
def test_an_edge_blends_what_is_pasted_with_the_background(edge, side):
    label = discs(0.5, center=(0.7, -0.2))[None]  # it goes on beyond the picture
    make = ExemplarPaste(geometric=STILL, intensity=SAME, edge=edge)
    backgrounds = torch.full((1, 1, SIZE, SIZE), 0.2)
    images, labels = make(torch.full_like(backgrounds, 0.8), label, backgrounds, Stream(1))
    assert torch.equal(labels, label)
    share, all_of_it = (
        uniform_filter(mask.astype(float), side, mode="constant")
        for mask in ((label[0] > 0).numpy(), np.ones((SIZE, SIZE)))
    )
    np.testing.assert_allclose(images[0, 0], 0.2 + 0.6 * share / all_of_it, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        dict(drop={2: 1.0}),
        dict(drop={2: 1.0}, edge=2),
        dict(apart=dict(type="OrganJitter", classes=(1, 2), degrees=0, scale=(0.7, 0.7), shift=0)),
        dict(apart=dict(type="OrganJitter", classes=(1, 2), degrees=0, scale=(1, 1), shift=0.05)),
        dict(apart=dict(type="OrganJitter", classes=(1,), degrees=0, scale=(1, 1), shift=0)),
    ],
)
def test_a_margin_brings_no_organ_along_that_is_left_out_or_has_moved_away(settings):
    labels = discs(0.4)[None].to(torch.uint8)
    labels[:, :, SIZE // 2 :] *= 2  # two halves, side by side
    exemplars = torch.where(labels > 0, 0.9, 0.1)[:, None]
    made = ExemplarPaste(STILL, SAME, margin=6, **settings)
    images, known = made(exemplars, labels, torch.full((4, 1, SIZE, SIZE), 0.1), Stream(0))
    assert (known == 1).any()
    assert not ((images[:, 0] > 0.5) & (known == 0)).any()


@pytest.mark.parametrize("change", [dict(scale=(1.4, 1.4)), dict(scale=(0.7, 0.7)), dict(degrees=180)])
def test_organs_of_a_body_laid_upon_another_turn_and_grow_about_where_they_are_laid(change):
    body, other = (discs(0.5, center=(at, 0.0)).float()[None, None] * 0.4 for at in (-0.25, 0.25))
    labels = discs(0.12, center=(-0.25, -0.2))[None].to(torch.uint8)
    fit = dict(type="BodyFit")
    at = []
    for affine in (STILL, {**STILL, **change}):
        made = ExemplarPaste(affine, SAME, background_geometric=STILL, fit=fit)
        _, known = made(body, labels, other.expand(6, -1, -1, -1), Stream(5))
        at.append(centroid(known == 1))
    torch.testing.assert_close(at[1], at[0], atol=1.5 / SIZE, rtol=0)


@pytest.mark.parametrize("present", [(3,), (2,), ()])
def test_a_wall_or_a_cavity_alone_keeps_its_shape(present):
    label = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    for k, radius in ((2, 0.5), (3, 0.3)):
        if k in present:
            label[discs(radius) == 1] = k
    part, which = WallShape(3, 2, probability=1.0), torch.tensor([0, 1, 0])
    both = torch.stack([label, torch.where(discs(0.3) == 1, 3, 2 * discs(0.5)).to(torch.uint8)])
    found = part.bend(unmoved(3), part.draw(Stream(3), 3), both, which)
    assert torch.equal(found[[0, 2]], unmoved(2))
    assert not torch.equal(found[1:2], unmoved(1))


def test_an_organ_is_left_out_of_a_share_of_the_images():
    label = discs(0.6, 0.3)[None]
    make = ExemplarPaste(geometric=STILL, intensity=SAME, drop={1: 0.5})
    images, labels = make((label > 0).float()[None], label, torch.zeros(40, 1, SIZE, SIZE), Stream(3))
    there = (labels == 1).flatten(1).any(1)
    assert 10 < there.sum() < 30
    assert (labels == 2).flatten(1).any(1).all()
    assert torch.equal(images[:, 0] > 0.5, labels > 0)


@pytest.mark.parametrize("probability", [1.5, -0.1, "half"])
def test_an_organ_is_left_out_with_a_probability(probability):
    with pytest.raises(InputError, match=f"drop: expected a probability, 0 to 1, of 2, got {probability!r}"):
        ExemplarPaste(geometric=STILL, intensity=SAME, drop={1: 0.5, 2: probability})
    label = two_organs()
    make = ExemplarPaste(geometric=STILL, intensity=SAME, drop={1: 1, 2: 0})
    _, labels = make((label > 0).float()[None], label, torch.zeros(8, 1, SIZE, SIZE), Stream(3))
    assert torch.equal(labels, torch.where(label == 2, label, 0).expand(8, -1, -1))


def two_organs():
    left, right = discs(0.3, center=(-0.5, 0.0)), discs(0.2, center=(0.5, 0.0))
    return (left + 2 * right)[None]


def test_organs_grow_and_turn_about_their_own_centroids_each_by_itself():
    label = two_organs().expand(16, -1, -1)
    images = torch.where(label > 0, label * 0.4, 0.1).unsqueeze(1)
    jitter = OrganJitter(classes=(1, 2), degrees=30, scale=(0.6, 1.6), shift=0.0)
    moved, labels = jitter(images, label, unmoved(16), Stream(4))
    for k in (1, 2):
        torch.testing.assert_close(centroid(labels == k), centroid(label == k), atol=0.02, rtol=0)
        inside = moved[:, 0][labels == k]
        assert (inside - 0.4 * k).abs().median() < 1e-3
    factors = torch.stack([(labels == k).sum((1, 2)) / (label == k).sum((1, 2)) for k in (1, 2)])
    assert factors.min() > 0.6**2 * 0.9
    assert factors.max() < 1.6**2 * 1.1


def test_organs_that_do_not_move_by_themselves_are_pasted_as_they_are_and_the_last_lies_on_top():
    label = two_organs()
    still = dict(type="OrganJitter", classes=(2, 1), degrees=0, scale=(1, 1), shift=0)
    backgrounds = torch.rand(2, 1, SIZE, SIZE)
    image = torch.rand(1, 1, SIZE, SIZE)
    plain, apart = (
        ExemplarPaste(geometric=STILL, intensity=SAME, apart=part)(image, label, backgrounds, Stream(2))
        for part in (None, still)
    )
    torch.testing.assert_close(apart, plain)
    options = dict(geometric=STILL, intensity=SAME, margin=3, drop={1: 1.0})
    moved = dict(type="OrganJitter", classes=(1, 2), degrees=0, scale=(1, 1), shift=0.15)
    near = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    near[:, 12:18, 10:15], near[:, 12:18, 18:24] = 1, 2
    grey = torch.tensor([0.1, 0.9, 0.3])[near.long()].unsqueeze(1)
    images, found = ExemplarPaste(**options, apart=moved)(grey, near, torch.zeros(64, 1, SIZE, SIZE), Stream(1))
    assert images.max() < 0.5  # nothing of what was left out, wherever it went
    assert (found == 2).any((1, 2)).all()
    large = OrganJitter(classes=(2, 1), degrees=0, scale=(4, 4), shift=0)(image, label, unmoved(1), Stream(0))[1]
    assert (large == 1).sum() > (large == 2).sum() > 0
    whole = discs(1.2, center=(-0.5, 0.0)) == 1
    assert ((large == 1)[0] != whole).float().mean() < 0.03  # a border four times as coarse


def test_beyond_the_ring_the_background_is_unknown():
    label, _, labels = paste(background="unknown", ring=4)
    assert torch.equal(labels[0] == 1, label == 1)
    row = labels[0, SIZE // 2]
    assert (row == 0).sum() == 8  # four pixels on each side
    assert (row == 255).sum() == SIZE - 8 - (row == 1).sum()
    assert (paste()[2] < 2).all()  # Eq. 1 read literally knows every pixel


def test_copies_of_the_exemplar_move_with_their_labels_and_some_stay_plain():
    label = discs(0.5, center=(0.2, 0.0))[None]
    image = (label > 0).float()[None]
    make = WarpedExemplar(geometric=dict(type="RandomAffine", degrees=90, scale=(0.6, 1.5)), intensity=SAME, plain=0.5)
    images, labels = make(image, label, torch.zeros(40, dtype=torch.int64), Stream(2))
    assert ((images[:, 0] > 0.5) != (labels > 0)).float().mean() < 0.01
    plain = (labels == label).flatten(1).all(1).float().mean()
    assert 0.3 < plain < 0.7


def test_of_several_exemplars_each_background_draws_one():
    labels = torch.stack([discs(0.5), 2 * discs(0.3)])
    images = torch.stack([torch.full((1, SIZE, SIZE), 0.9), torch.full((1, SIZE, SIZE), 0.5)])
    make = ExemplarPaste(geometric=STILL, intensity=SAME)
    found, drawn = make(images, labels, torch.zeros(20, 1, SIZE, SIZE), Stream(4))
    first = (drawn == 1).flatten(1).any(1)
    assert 4 < first.sum() < 16
    assert (found.amax((1, 2, 3))[first] == 0.9).all()
    assert (found.amax((1, 2, 3))[~first] == 0.5).all()


# How the exemplar lies


def lying(angles, places=5, size=32):
    """Stacks of slices whose two organs of unlike size and brightness lie turned by ``angles``, degrees clockwise."""
    images = []
    for angle, z in ((angle, z) for angle in angles for z in range(places)):
        place = torch.tensor(math.radians(angle))
        across, down = 0.4 * place.cos(), 0.4 * place.sin()
        image = 0.2 + 0.5 * (discs(0.3 + 0.02 * z, size=size, center=(across, down)) > 0)
        image += 0.3 * (discs(0.2, size=size, center=(-down * 0.8, across * 0.8)) > 0)
        images.append(image)
    stacks = [range(k * places, (k + 1) * places) for k in range(len(angles))]
    return torch.stack(images).numpy(), stacks


@pytest.mark.parametrize("angle", [0, 50, -75, 170])
def test_the_exemplar_is_turned_to_how_the_other_scans_lie(angle):
    others = [-20, 0, 10, 30, -10]
    images, stacks = lying([angle, *others])
    label = discs(0.5, size=32)[None]
    (turn,) = StackOrientation(reach=0.1)(images, stacks, [2], label).rad2deg()
    assert abs((turn + angle - np.mean(others) + 180) % 360 - 180) < 8
    # As affine_matrices takes it: turned by it, the exemplar's slice is near one that lies as the others do.
    sampling = geometry.grid(geometry.affine_matrices(turn.deg2rad()[None]), (32, 32))
    turned = geometry.warp_images(torch.from_numpy(images[2])[None, None], sampling)[0, 0].numpy()
    wanted, inside = lying([np.mean(others)])[0][2], discs(0.8, size=32).numpy() > 0
    assert np.corrcoef(turned[inside], wanted[inside])[0, 1] > 0.95


def test_scans_that_do_not_agree_leave_the_exemplar_as_it_is():
    label = discs(0.5, size=32)[None]
    images, stacks = lying([40, 0, 90, 180, 270])
    assert StackOrientation()(images, stacks, [2], label).tolist() == [0]
    assert StackOrientation()(images[:5], stacks[:1], [2], label).tolist() == [0]  # there is no other
    assert StackOrientation(width=16)(images, stacks, [2], label).tolist() == [0]
    plain = np.full_like(images, 0.5)
    assert StackOrientation()(plain, stacks, [2], label).isfinite().all()


def test_slices_at_evenly_spaced_places_tell_how_scans_lie():
    images, (here, other) = lying([0, 90])
    images[[z for z in other if z != other[len(other) // 2]]] = 0.5  # it shows something in its middle alone
    label = discs(0.5, size=32)[None]
    (turn,) = StackOrientation(slices=1, reach=0.1)(images, [here, other], [here[2]], label).rad2deg()
    assert abs(turn - 90) < 8


def test_scans_that_show_nothing_have_no_vote():
    images, stacks = lying([0, 90, 0, 0, 0])
    for stack in stacks[2:]:
        images[list(stack)] = 0
    label = discs(0.5, size=32)[None]
    (turn,) = StackOrientation(reach=0.1)(images, stacks, [stacks[0][2]], label).rad2deg()
    assert abs(turn - 90) < 8


def noise(seed, side=12):
    return torch.rand(side, side, generator=torch.Generator().manual_seed(seed))


def like(blob, share, seed, turns):
    """Another scan's picture of a blob: so much of it and of noise, turned clockwise by so many right angles."""
    return torch.rot90(share * blob + (1 - share) * noise(seed, len(blob)), -turns, (0, 1))


def quarters(exemplar, others, label_at=(14, 33), **settings):
    """Return by how many right angles an exemplar is turned.

    Each scan is a list of slices, each of them a list of ``(row, column, blob)``, centres in 48 x 48 pixels of 0.2.
    """
    slices = torch.full((sum(map(len, (exemplar, *others))), 48, 48), 0.2)
    for image, blobs in zip(slices, (blobs for scan in (exemplar, *others) for blobs in scan), strict=True):
        for row, column, blob in blobs:
            low = len(blob) // 2
            image[row - low : row - low + len(blob), column - low : column - low + len(blob)] = blob
    ends = np.cumsum([0, *map(len, (exemplar, *others))]).tolist()
    stacks = [range(low, high) for low, high in zip(ends, ends[1:], strict=False)]
    label = torch.zeros(1, 48, 48, dtype=torch.uint8)
    label[0, label_at[0] - 2 : label_at[0] + 2, label_at[1] - 3 : label_at[1] + 3] = 1
    label[0, 0] = 255  # what is unknown is no organ
    settings = {**dict(step=90, radius=0.1, slices=1, agreement=1, width=48), **settings}
    (turn,) = StackOrientation(**settings)(slices.numpy(), stacks, [0], label) / (math.pi / 2)
    assert abs(turn - turn.round()) < 1e-5
    return int(turn.round()) % 4


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("down", "across"), [(6, 0), (0, 6)])
def test_organs_are_looked_for_as_far_from_the_centre_as_reach_says(sign, down, across):
    blob = noise(0)
    here = (24 + sign * down, 24 + sign * across, like(blob, 0.9, 1, 3))
    beyond = (24 - sign * 7 * down // 6, 24 - sign * 7 * across // 6, like(blob, 1, 1, 1))  # more alike
    exemplar, other = [[(14, 33, blob)]], [[here, beyond]]
    assert quarters(exemplar, [other], reach=6 / 48) == 3
    assert quarters(exemplar, [other], reach=7 / 48) == 1


def test_discs_are_compared_whatever_lies_around_them_and_however_bright_they_are():
    """A disc's radius is 4.8 pixels: what is alike to 3 pixels, or to 8, is less alike than what is up to there."""
    blob, axis = noise(0, 20), torch.arange(20) - 9.5
    far = (axis.square() + axis.square()[:, None]).sqrt()
    inner = like(torch.where(far < 3, blob, noise(2, 20)), 1, 0, 1)
    outer = like(torch.where((far < 6) | (far > 9), 0.7 * blob + 0.3 * noise(3, 20), blob), 1, 0, 2)
    whole = like(torch.where(far < 6, 0.9 * blob + 0.1 * noise(4, 20), noise(5, 20)), 1, 0, 3)
    exemplar = [[(14, 33, blob)]]
    bids = [(13, 13, inner), (13, 35, outer), (35, 24, 0.65 + 0.2 * whole)]  # pale as it is
    assert quarters(exemplar, [[bids]], reach=0.25) == 3
    assert quarters(exemplar, [[bids[:2]]], reach=0.25) == 2
    # What lies beyond the exemplar's border is not compared.
    assert quarters([[(14, 44, noise(6, 8))]], [[[(24, 24, like(noise(6, 8), 1, 0, 1))]]], (14, 44)) == 1


def test_slices_at_the_same_places_count_alike_and_scans_vote():
    blobs = [noise(k) for k in range(3)]
    home = [[] for _ in range(6)]
    for z, (k, contrast) in {1: (0, 0.1), 3: (1, 0.1), 5: (2, 1)}.items():
        home[z] = [(14, 33, contrast * blobs[k])]
    home[0] = home[2] = home[4] = [(14, 33, noise(9))]  # not looked at

    def scan(*turns):
        """Nine slices, of which those at a sixth, a half and five sixths show the organs turned so."""
        slices = [[(24, 24, like(noise(9), 1, 0, 2))] for _ in range(9)]
        for z, k, turn in zip((1, 4, 7), range(3), turns, strict=True):
            slices[z] = [(24, 24, like(blobs[k], 1, 0, turn))]
        return slices

    assert quarters(home, [scan(1, 1, 3)], slices=3) == 1
    assert quarters(home, [scan(3, 1, 3)], slices=3) == 3
    one, other, third = (scan(k, k, k) for k in (1, 3, 2))
    votes = [one, one, one, other]  # their mean is half as long as one
    assert quarters(home, votes, slices=3, agreement=0.4) == 1
    assert quarters(home, votes, slices=3, agreement=0.6) == 0
    assert quarters(home, [one, third, one, third], slices=3, scans=2) == 1  # evenly chosen


def test_an_exemplar_is_turned_before_it_is_mirrored():
    label = discs(0.3, center=(0.1, 0.0)).to(torch.uint8)
    label[:, SIZE // 2 :] *= 2
    label[: SIZE // 2] = 0  # a quarter of a disc, of two labels
    which, turns = torch.tensor([0]), torch.tensor([math.radians(60)])
    turned, mirrored = (WarpedExemplar({**STILL, "flip": p}, SAME, plain=0.0) for p in (0.0, 1.0))
    _, once = turned(label[None, None] / 2, label[None], which, Stream(0), turns=turns)
    _, expected = mirrored(once[:, None] / 2, once, which, Stream(0))
    _, found = mirrored(label[None, None] / 2, label[None], which, Stream(0), turns=turns)
    shared = ((found == expected) & (found > 0)).sum()
    assert 2 * shared / ((found > 0).sum() + (expected > 0).sum()) > 0.9


def test_omega_turns_each_exemplar_by_its_own_angle_besides():
    labels = torch.stack([discs(0.3, center=(0.4, 0.0)), discs(0.3, center=(0.0, 0.4))])
    labels[:, SIZE // 2, SIZE // 2] = 2  # so that the organs' centroid is not their own centre alone
    exemplars, which = labels[:, None] / 2, torch.tensor([0, 1])
    turns = torch.tensor([0.0, math.pi / 2])
    copies = WarpedExemplar(STILL, SAME, plain=0.0)
    _, plain = copies(exemplars, labels, which, Stream(0))
    _, turned = copies(exemplars, labels, which, Stream(0), turns=turns)
    assert torch.equal(turned[0], plain[0])
    middle = centroid(labels > 0)[1]
    sampling = geometry.grid(geometry.affine_matrices(turns[1:], center=middle), (SIZE, SIZE))
    assert torch.equal(turned[1:], warp_labels(plain[1:], sampling))
    paste = ExemplarPaste(STILL, SAME)
    _, made = paste(exemplars[:1], labels[:1], torch.zeros(2, 1, SIZE, SIZE), Stream(0), turns=turns[1:])
    _, other = copies(exemplars[:1], labels[:1], which * 0, Stream(0), turns=turns[1:])
    assert torch.equal(made, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(geometric=[STILL, dict(type="RadialShape", classes=(1, 4))]), "RadialShape: classes: .* 1 to 3, got 4"),
        (dict(geometric=[STILL, dict(type="WallShape", cavity=3, wall=0)]), "WallShape: wall: .* 1 to 3, got 0"),
        (dict(organs=[dict(type="Trabeculae", classes=("LV",), wall=2)]), "Trabeculae: classes: .*, got 'LV'"),
        (
            dict(geometric=[STILL, dict(type="WallShape", cavity=[3], wall=2)]),
            r"WallShape: cavity: expected a label, .*, got \[3\]",
        ),
        (dict(geometric=[STILL, dict(type="RadialShape", classes=[None])]), "RadialShape: classes: .*, got None"),
        (dict(organs=[dict(type="PaintClasses", classes=(True,))]), "PaintClasses: classes: .*, got True"),
        (
            dict(organs=[dict(type="Trabeculae", classes=(3,), wall=())]),
            r"Trabeculae: wall: expected a label, .*, got \(\)",
        ),
        (dict(drop={9: 0.5}), "ExemplarPaste: drop: .*, got 9"),
        (dict(outlines=(1, 7)), "ExemplarPaste: outlines: .*, got 7"),
        (dict(apart=dict(type="OrganJitter", classes=(7,))), "OrganJitter: classes: .*, got 7"),
    ],
)
def test_labels_that_there_are_not_are_refused_in_every_part_of_omega(settings, message):
    with pytest.raises(InputError, match=f"^synthesizer: {message}$"):
        check_labels(ExemplarPaste(**{"geometric": STILL, "intensity": SAME, **settings}), 4, "synthesizer")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (dict(type="RandomAffine", control_points=1), "control_points: expected an integer of 2 or more, got 1"),
        (dict(type="RandomAffine", control_points=4.0), r"control_points: expected an integer of 2 or more, got 4\.0"),
        (dict(type="RandomAffine", control_points=[4]), r"control_points: expected an integer of 2 or more, got \[4\]"),
        (dict(type="RadialShape", classes=()), "RadialShape: classes: expected labels, got none"),
        (dict(type="RadialShape", classes=(1,), reach=0), "reach: expected a number of more than 0, got 0"),
        (dict(type="WallShape", cavity=3, wall=2, reach=0.0), r"reach: expected a number of more than 0, got 0\.0"),
        (
            dict(type="Trabeculae", classes=(3,), wall=2, cells=(12, 1)),
            r"cells: expected two integers of 2 or more, got",
        ),
        (dict(type="Trabeculae", classes=(3,), wall=2, cells=12), "cells: expected two integers of 2 or more, got 12"),
        (
            dict(type="WallShape", cavity=3, wall=2, reach=1),
            "WallShape: reach: expected a number of more than 1, got 1",
        ),
        (dict(type="RadialShape", classes=1), "RadialShape: classes: expected labels, got 1"),
        (dict(type="OrganJitter", classes=()), "OrganJitter: classes: expected labels, got none"),
        (dict(type="PaintClasses", classes=1), "PaintClasses: classes: expected labels, got 1"),
        (dict(type="Trabeculae", classes=3, wall=2), "Trabeculae: classes: expected labels, got 3"),
        (dict(type="Trabeculae", classes=(3, 2), wall=2), "Trabeculae: wall: expected another label than .*, got 2"),
        (dict(type="WarpedExemplar", geometric=STILL, intensity=SAME, outlines=1), "outlines: expected labels, got 1"),
        (
            dict(type="WarpedExemplar", geometric=[STILL, STILL], intensity=SAME),
            "geometric: its further part: expected RadialShape or WallShape, or the like, got RandomAffine",
        ),
        (
            dict(type="WarpedExemplar", geometric=dict(type="WallShape", cavity=3, wall=2), intensity=SAME),
            "geometric: its first part: expected RandomAffine, or the like, got WallShape",
        ),
        (
            dict(type="ExemplarPaste", geometric=STILL, intensity=SAME, fit=dict(type="OrganJitter", classes=(1,))),
            "ExemplarPaste: fit: expected BodyFit, or the like, got OrganJitter",
        ),
        (
            dict(type="ExemplarPaste", geometric=STILL, intensity=SAME, apart=dict(type="BodyFit")),
            "ExemplarPaste: apart: expected OrganJitter, or the like, got BodyFit",
        ),
        (
            dict(
                type="ExemplarPaste",
                geometric=STILL,
                intensity=SAME,
                apart=dict(type="OrganJitter", classes=(1,)),
                outlines=(1,),
            ),
            "outlines: expected none beside apart",
        ),
        (
            dict(type="ExemplarPaste", geometric=STILL, intensity=dict(type="ClassGain")),
            "ExemplarPaste: intensity: expected RandomGammaGain, or the like, got ClassGain",
        ),
        (
            dict(type="WarpedExemplar", geometric=STILL, intensity=SAME, organs=[SAME]),
            "WarpedExemplar: organs: expected AmplitudeMix or ClassGain or .*, got RandomGammaGain",
        ),
        (dict(type="WallShape", cavity=2, wall=2), "wall: expected another label than the cavity's, got 2"),
        (dict(type="MatchQuantiles", quantiles=1), "quantiles: expected an integer of 2 or more, got 1"),
        (dict(type="BodyFit", limit=0.9), r"limit: expected a number of 1 or more, got 0\.9"),
        (dict(type="BodyFit", level=-0.1), r"level: expected a number from 0 to 1, got -0\.1"),
    ],
)
def test_settings_of_omega_that_nothing_can_be_drawn_by_are_refused(part, message):
    with pytest.raises(InputError, match=message):
        SYNTHESIZERS.build(part)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(drop=[1]), r"ExemplarPaste: drop: expected {label: probability} or None, got \[1\]"),
        (dict(fit=[]), r"synthesizer: expected settings \(a dict with a type\), got \[\]"),
        (dict(apart=[]), r"synthesizer: expected settings \(a dict with a type\), got \[\]"),
        (dict(background_geometric={}), r"synthesizer: expected settings \(a dict with a type\), got {}"),
    ],
)
def test_optional_parts_of_omega_are_settings_or_none(settings, message):
    with pytest.raises(InputError, match=message):
        ExemplarPaste(STILL, SAME, **settings)


def test_settings_of_omega_at_their_limits_are_taken():
    SYNTHESIZERS.build(dict(type="RandomAffine", control_points=2))
    SYNTHESIZERS.build(dict(type="Trabeculae", classes=(3,), wall=2, cells=(2, 2)))
    SYNTHESIZERS.build(dict(type="MatchQuantiles", quantiles=2))
    SYNTHESIZERS.build(dict(type="BodyFit", level=1, limit=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(step=0), "step: expected a number from 1 to 180, got 0"),
        (dict(step=180.5), r"step: expected a number from 1 to 180, got 180\.5"),
        (dict(step=True), "step: expected a number from 1 to 180, got True"),
        (dict(radius=0.05), r"radius: expected a number from 0\.1 to 0\.5, got 0\.05"),
        (dict(radius=0.7), r"radius: expected a number from 0\.1 to 0\.5, got 0\.7"),
        (dict(reach=-0.1), r"reach: expected a number from 0 to 0\.5, got -0\.1"),
        (dict(reach=0.6), r"reach: expected a number from 0 to 0\.5, got 0\.6"),
        (dict(agreement=1.1), r"agreement: expected a number from 0 to 1, got 1\.1"),
        (dict(agreement="all"), "agreement: expected a number from 0 to 1, got 'all'"),
        (dict(slices=0), "slices: expected an integer of 1 or more, got 0"),
        (dict(width=15), "width: expected an integer of 16 or more, got 15"),
        (dict(slices=True), "slices: expected an integer of 1 or more, got True"),
        (dict(scans=0), "scans: expected an integer of 1 or more, got 0"),
        (dict(scans=2.5), r"scans: expected an integer of 1 or more, got 2\.5"),
    ],
)
def test_orientations_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        StackOrientation(**settings)


def test_orientations_at_the_limits_of_their_settings_are_taken():
    least = StackOrientation(step=1, radius=0.1, reach=0, slices=1, scans=1, agreement=0, width=16)
    most = StackOrientation(step=180, radius=0.5, reach=0.5, agreement=1)
    assert (len(least.angles), len(most.angles)) == (360, 2)


def test_a_part_of_ones_own_has_to_do_what_its_place_asks(monkeypatch):
    class Plain:
        """Of no role."""

        def draw(self, stream, n):
            return {}

        def apply(self, images):
            return images

    monkeypatch.setitem(SYNTHESIZERS.module_dict, "Plain", Plain)
    own, paste = dict(type="Plain"), dict(type="ExemplarPaste", geometric=STILL, intensity=SAME)
    SYNTHESIZERS.build(dict(paste, intensity=own))
    for more, message in (
        (dict(geometric=own), "geometric: its first part: expected RandomAffine"),
        (dict(geometric=[STILL, own]), "geometric: its further part: expected RadialShape or WallShape"),
        (dict(fit=own), "ExemplarPaste: fit: expected BodyFit"),
        (dict(organs=[own]), "ExemplarPaste: organs: expected AmplitudeMix"),
    ):
        with pytest.raises(InputError, match=f"{message}.*, or the like, got Plain"):
            SYNTHESIZERS.build({**paste, **more})
