"""Frames, views and clean-up: from the networks' squares to labels on a scan's own grid."""

import functools
import json
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from cmems.apis import label_training_scans, test, train, train_rounds
from cmems.datasets.prepare import prepare
from cmems.datasets.prepared import PreparedDataset
from cmems.datasets.sources import TrainData, load_exemplars
from cmems.engine.checkpoint import read_meta
from cmems.errors import InputError
from cmems.locks import folder_lock
from cmems.models.postprocessing import CutAtBase, FillHoles, KeepLargest, RemoveSmall, SmoothSlices
from cmems.models.prediction import Prediction
from cmems.registry import BACKBONES, POST_PROCESSORS, READERS
from cmems.resize import Frame, resize_images, resize_labels
from cmems.seeding import Draws

test.__test__ = False  # the command, not a test


def blob(size=(60, 44)):
    y, x = np.mgrid[: size[0], : size[1]]
    return torch.from_numpy((np.hypot(y - 30, x - 20) < 9).astype(np.uint8))[None]


@pytest.mark.parametrize("frame", [Frame(48), Frame(48, 1.5), Frame(48, 1.1), Frame(32, 2.5)])
def test_labels_go_into_the_frame_and_come_back_where_they_were(frame):
    label, spacing = blob(), (1.5, 1.25)
    square = frame.labels(label, spacing)
    assert square.shape == (1, frame.size, frame.size)
    back = frame.labels_back(square, label.shape[1:], spacing)
    soft = torch.nn.functional.one_hot(square.long(), 2).permute(0, 3, 1, 2).float()
    smooth = frame.probabilities_back(soft, label.shape[1:], spacing).argmax(1)
    for found in (back, smooth):
        dice = 2 * ((found == 1) & (label == 1)).sum() / ((found == 1).sum() + (label == 1).sum())
        assert dice > 0.93
        where = [(m == 1).nonzero().float().mean(0) for m in (found, label)]
        assert (where[0] - where[1]).abs().max() < 0.6  # pixels; the nearest of two may lie half of one aside


def test_a_frame_keeps_pixel_size_cuts_the_middle_and_pads_with_black_and_background():
    frame, image = Frame(40, 2.0), torch.ones(1, 60, 20)
    found = frame.images(image, (2.0, 2.0))[0]
    assert found[:, 10:30].min() == 1
    assert found[:, :10].max() == found[:, 30:].max() == 0
    marks = frame.labels(image.to(torch.uint8), (2.0, 2.0))[0]
    assert marks[:, 10:30].min() == 1
    assert marks[:, :10].max() == marks[:, 30:].max() == 0
    outside = frame.probabilities_back(torch.full((1, 3, 40, 40), 1 / 3), (60, 20), (2.0, 2.0))
    assert torch.equal(outside[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))  # beyond the crop


def test_what_is_cut_or_padded_by_odd_numbers_lies_as_near_the_middle_as_can_be():
    rows = torch.arange(1, 9, dtype=torch.float32).expand(3, 8)[None]  # 3 rows of 1 to 8
    frame, spacing = Frame(5, 1.0), (1.0, 1.0)
    for found in (frame.images(rows, spacing), frame.labels(rows.to(torch.uint8), spacing)):
        assert found[0].tolist() == [[0] * 5, *[[2, 3, 4, 5, 6]] * 3, [0] * 5]
    back = frame.labels_back(torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5), (3, 8), spacing)
    assert back[0].tolist() == [[0, n, n + 1, n + 2, n + 3, n + 4, 0, 0] for n in (6, 11, 16)]
    short = frame.images(torch.full((1, 2, 2), 0.5), spacing)
    assert short[0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    shares = torch.stack([torch.full((5, 5), 0.4), torch.full((5, 5), 0.6)])
    whole = frame.probabilities_back(torch.stack([shares, shares.flip(0)]), (6, 4), spacing)
    assert whole.shape == (2, 2, 6, 4)
    assert whole[:, :, 5].tolist() == [[[1] * 4, [0] * 4]] * 2  # a row at the end is beyond the square
    assert (whole[0, :, :5] == shares[:, :, :4]).all()
    assert (whole[1, :, :5] == shares.flip(0)[:, :, :4]).all()


@pytest.mark.parametrize(("size", "pixel", "grid"), [(12, None, (12, 12)), (12, 2.0, (6, 22)), (12, 30.0, (1, 1))])
def test_slices_are_resampled_as_pillow_does_and_labels_to_the_nearest_centre(size, pixel, grid):
    frame, spacing, image = Frame(size, pixel), (0.75, 1.5), np.random.default_rng(0).random((16, 29), np.float32)
    assert frame.grid(image.shape, spacing) == grid
    resized = np.asarray(Image.fromarray(image).resize(grid[::-1], Image.Resampling.BILINEAR))
    where = [np.floor((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, image.shape, strict=True)]
    marks = (image * 250).astype(np.uint8)
    for found, wanted in (
        (frame.images(torch.from_numpy(image)[None], spacing), resized),
        (frame.labels(torch.from_numpy(marks)[None], spacing), marks[np.ix_(*where)]),
    ):
        expected = np.zeros((size, size))
        (cut, put, n), (cut_x, put_x, n_x) = (
            (max(0, (n - size) // 2), max(0, (size - n) // 2), min(n, size)) for n in grid
        )
        expected[put : put + n, put_x : put_x + n_x] = wanted[cut : cut + n, cut_x : cut_x + n_x]
        np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size"), [((48, 48), (37, 1)), ((20, 1), (9, 1)), ((7, 20), (1, 9)), ((20, 7), (40, 1))]
)
def test_slices_of_one_column_or_row_are_averaged_as_all_are(shape, size):
    def weights(n, m):
        """Return the ``(m, n)`` weights of bilinear resizing: a triangle as wide as a pixel of the larger grid."""
        away = (np.arange(n) + 0.5)[None] - (np.arange(m) + 0.5)[:, None] * n / m
        found = np.maximum(0, 1 - abs(away) / max(n / m, 1))
        return found / found.sum(1, keepdims=True)

    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    wanted = weights(shape[0], size[0]) @ images.numpy().astype(float) @ weights(shape[1], size[1]).T
    np.testing.assert_allclose(resize_images(images, size), wanted, atol=1e-5)


def test_slices_are_of_8_to_8192_pixels_once_resampled():
    frame, slices = Frame(32, 2.0), torch.zeros(2, 32, 32)
    assert resize_images(slices, (32, 32)) is slices  # which has that size
    assert resize_labels(slices, [32, 32]) is slices
    for shape in ((16, 2), (2, 16), (16384, 40)):
        assert frame.problem(shape, (1.0, 1.0)) is None
    for shape, grid in (((14, 6), "7 x 3"), ((40, 16386), "20 x 8193")):
        expected = (
            f"slices of {shape[0]} x {shape[1]} voxels of 1 x 1 mm become {grid} pixels of 2 mm; expected 8 to 8192"
        )
        assert frame.problem(shape, (1.0, 1.0)) == expected


def spots():
    labels = np.zeros((3, 20, 20), np.uint8)
    labels[:, 4:10, 4:10] = 1
    labels[:, 10:13, 4:10] = 2  # touches the first
    labels[0, 16, 16] = 2
    labels[1:, 16:18, 0:2] = 1
    return labels


def test_the_largest_part_stays_of_each_class_or_of_all_together():
    labels = spots()
    of_class, of_all = (KeepLargest(of)(labels, (1, 1, 1)) for of in ("class", "foreground"))
    expected = labels.copy()
    expected[0, 16, 16] = expected[1:, 16:18, 0:2] = 0
    assert np.array_equal(of_class, expected)
    assert np.array_equal(of_all, expected)
    assert np.array_equal(KeepLargest(classes=[2])(labels, (1, 1, 1))[1:], labels[1:])
    apart = labels.copy()
    apart[:, 10] = 0  # the classes no longer touch: as a foreground, only the larger stays
    assert (KeepLargest("foreground")(apart, (1, 1, 1)) == 2).sum() == 0
    assert (KeepLargest("class")(apart, (1, 1, 1)) == 2).sum() == 3 * 2 * 6
    assert (KeepLargest()(np.zeros_like(labels), (1, 1, 1)) == 0).all()


def test_the_part_beside_another_class_is_kept_though_a_larger_one_touches_its_tip():
    labels = np.zeros((4, 12, 12), np.uint8)
    labels[:, 2:6, 4:6] = 2  # a wall of 32 voxels
    labels[:, 2:6, 3] = 1  # along it: 16 voxels, all of them beside it
    labels[2:, 6:9, 4:] = 1  # 48 voxels, 4 of them at its end
    kept = KeepLargest(classes=[1], beside=2)(labels, (1, 1, 1))
    assert (kept[:, 2:6, 3] == 1).all()
    assert (kept == 1).sum() == 16
    assert (kept == 2).sum() == 32
    assert (KeepLargest(classes=[1])(labels, (1, 1, 1))[:, 2:6, 3] == 0).all()
    assert ((KeepLargest(beside=2)(labels, (1, 1, 1)) == 2) == (labels == 2)).all()
    apart = np.where(labels == 2, 0, labels)
    assert np.array_equal(KeepLargest(classes=[1], beside=2)(apart, (1, 1, 1)), KeepLargest()(apart, (1, 1, 1)))


def test_a_part_that_a_gap_parts_from_what_it_lies_along_is_kept_for_one_that_touches_its_tip():
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[:, 2:14, 8] = 2
    labels[:, 2:10, 5:7] = 1  # along it, a pixel of 2 mm away but for one
    labels[0, 2, 7] = 1
    labels[2:, 14:, 2:14] = 1  # larger than that is near, and touches the tip
    own = labels[:, :10] == 1
    for within, kept in ((0.0, False), (3.9, False), (4.0, True), (8, True)):
        found = KeepLargest(classes=[1], beside=2, within=within)(labels, (8, 2, 2)) == 1
        assert found[:, :10].sum() == (own.sum() if kept else 0)
    with pytest.raises(InputError, match="within: expected a label of beside too"):
        KeepLargest(within=3)
    with pytest.raises(InputError, match="within: expected a number of 0 or more, in mm, got -1"):
        KeepLargest(beside=2, within=-1)


def test_parts_of_a_share_of_the_largest_stay():
    labels = np.zeros((10, 8, 8), np.uint8)
    for slices in (np.s_[:4], np.s_[5:7], 8):  # 16, 8 and 4 voxels, as a tube with gaps
        labels[slices, 2:4, 2:4] = 1
    labels[:4, 2:4, 6] = 2
    spacing = (1, 1, 1)
    for share, slices in ((1.0, 4), (0.51, 4), (0.5, 6), (0.26, 6), (0.25, 7)):
        assert (KeepLargest(classes=[1], share=share)(labels, spacing) == 1).any((1, 2)).sum() == slices
    labels[:4] = np.where(labels[:4] == 1, 0, labels[:4])
    labels[5:7, 2:4, 4] = labels[8, 2:4, 4:6] = 1  # 12, and 8 of which two are beside 2 below
    labels[8, 2:4, 6] = 2
    kept = KeepLargest(classes=[1], beside=2, share=0.1)(labels, spacing) == 1
    assert np.flatnonzero(kept.any((1, 2))).tolist() == [8]
    even = np.zeros((3, 2, 2), np.uint8)
    even[::2] = 1
    assert KeepLargest()(even, spacing)[:, 0, 0].tolist() == [1, 0, 0]  # one of two alike
    for odd in (0, 1.1, True, "a"):
        with pytest.raises(InputError, match="share: expected a number above 0, to 1, got"):
            KeepLargest(share=odd)


def test_what_hangs_on_an_organ_by_a_neck_is_another_part():
    labels = np.zeros((9, 30, 70), np.uint8)
    liver = np.s_[:, 2:28, 2:30]
    heart = np.s_[:, 5:25, 40:60]
    labels[liver] = labels[heart] = 1
    labels[:, 12:16, 30:40] = 1  # 4 voxels of 2 mm thick; slices of 5 mm, which the scan's ends cut
    labels[4, 28:, 2] = 1  # a tip of the liver, which is no part of its own
    spacing = (5, 2, 2)
    assert np.array_equal(KeepLargest()(labels, spacing), labels)
    assert np.array_equal(KeepLargest(neck=7.9)(labels, spacing), labels)
    kept = KeepLargest(neck=10)(labels, spacing) == 1
    assert kept[liver].all()
    assert kept[4, 28:, 2].all()
    assert not kept[heart].any()
    assert kept[0, 13, 30:40].tolist() == [True] * 5 + [False] * 5  # the neck, to its middle
    # A part without a thick place stays whole, and a second label chooses among what necks part.
    assert np.array_equal(KeepLargest(neck=100)(labels, spacing), labels)
    labels[0, 5:25, 60:] = 2
    beside = KeepLargest(classes=[1], beside=2, neck=10)(labels, spacing) == 1
    assert beside[heart].all()
    assert not beside[liver].any()
    assert (KeepLargest(neck=10)(np.ones((3, 4, 4), np.uint8), spacing) == 1).all()
    with pytest.raises(InputError, match="neck: expected a number of 0 or more, in mm, got inf"):
        KeepLargest(neck=float("inf"))


def test_small_parts_are_measured_in_cubic_millimetres():
    labels = spots()
    assert RemoveSmall(15)(labels, (10, 1, 1.5))[0, 16, 16] == 2  # one voxel of 15 mm³ is not smaller
    assert RemoveSmall(15.1)(labels, (10, 1, 1.5))[0, 16, 16] == 0
    assert (RemoveSmall(15.1)(labels, (10, 1, 1.5)) == 1).sum() == (labels == 1).sum()


def test_holes_are_filled_and_other_classes_within_stay():
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 4:14, 4:14] = 1
    labels[0, 6:10, 6:10] = 2
    labels[0, 7, 7] = labels[0, 12, 12] = 0
    found = FillHoles()(labels, (1, 1, 1))
    assert (found[0, 7, 7], found[0, 12, 12]) == (2, 1)  # 1 encloses both, and 2, within it, the first
    assert (found == 2).sum() == 16
    assert FillHoles(classes=[2])(labels, (1, 1, 1))[0, 7, 7] == 2


def test_what_a_volume_gets_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    network = BACKBONES.build(dict(type="UNet", num_classes=3, channels=(4, 8, 8, 8, 8))).eval()
    seen, forward = [], network.forward
    network.forward = lambda images: seen.append(len(images)) or forward(images)
    volumes = [dict(image=torch.rand(d, 16, 16).numpy(), spacing=(1, 1, 1), frame=Frame(16)) for d in (3, 5, 2)]
    prediction = Prediction(batch=4)
    together = prediction.segment([network], volumes)
    assert seen == [3, 4, 1, 2]
    for labels, each in zip(together, volumes, strict=True):
        assert np.array_equal(labels["network_1"], prediction.segment([network], [each])[0]["network_1"])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        *(
            (dict(type=kind, classes=classes, **more), f"{kind}: classes: expected labels, got {seen}")
            for kind, more in (
                ("KeepLargest", {}),
                ("FillHoles", {}),
                ("RemoveSmall", dict(mm3=1)),
                ("CutAtBase", dict(wall=2)),
            )
            for classes, seen in ((1, "1"), ((), "none"))
        ),
        (
            dict(type="KeepLargest", classes=(1, 2), beside=2),
            "KeepLargest: classes: expected labels other than that of",
        ),
        (
            dict(type="SmoothSlices", neighbor=float("inf")),
            "SmoothSlices: neighbor: expected a number of 0 or more, got inf",
        ),
        (dict(type="SmoothSlices", neighbor="a"), "SmoothSlices: neighbor: expected a number of 0 or more, got 'a'"),
        (dict(type="CutAtBase", classes=(1,), wall=2, share="x"), "CutAtBase: share: expected 0 to 1, got 'x'"),
    ],
)
def test_steps_of_the_clean_up_that_cannot_be_are_refused_before_any_prediction(step, message):
    with pytest.raises(InputError, match=message):
        POST_PROCESSORS.build(step)


def test_what_a_further_round_learns_is_unsure_by_the_probabilities_that_its_labels_come_from():
    volume = dict(image=np.zeros((3, 16, 16), np.float32), spacing=(1, 1, 1), frame=Frame(16))
    network = torch.nn.Conv2d(1, 2, 1)
    settings = dict(bfloat16=False, unknown_below=0.8, clean=[dict(type="SmoothSlices", neighbor=0.5)])
    prediction, p = Prediction(**settings), torch.zeros(1, 3, 2, 16, 16)
    p[0, :, 0], p[0, 1, 0] = 1.0, 0.45
    p[0, :, 1] = 1 - p[0, :, 0]
    prediction._soft = lambda logits: p
    found = prediction.segment_to_learn([network.eval()], volume)  # background smoothed: 0.817, 0.725, 0.817
    assert [set(np.unique(z).tolist()) for z in found] == [{0}, {255}, {0}]
    p[0, 1, 0], p[0, 1, 1] = 0.1, 0.9  # 0.7, 0.55, 0.7
    found = prediction.segment_to_learn([network.eval()], volume)
    assert (found == 255).all()


@pytest.mark.parametrize("resize", ["labels", "probabilities"])
def test_what_the_clean_up_takes_from_a_class_goes_to_the_next_most_probable(resize):
    volume = dict(image=np.zeros((4, 16, 16), np.float32), spacing=(1, 1, 1), frame=Frame(16))
    prediction = Prediction(bfloat16=False, resize=resize, clean=[dict(type="KeepLargest")])
    p = torch.zeros(1, 4, 3, 16, 16)
    p[0, :, 0] = 1
    spleen, kidney = (0.05, 0.9, 0.05), (0.1, 0.5, 0.4)  # a kidney that is called spleen
    for place, each in (
        (np.s_[:, :, :5], spleen),
        (np.s_[1:3, 2:8, 12:], kidney),
        (np.s_[1:3, 14:, 8:12], (0.4, 0.5, 0.1)),  # neither
        (np.s_[:1, 2:8, 7:9], (0.4, 0.5, 0.1)),  # hardly a kidney: its lesser half
        (np.s_[:1, 2:6, 9:11], (0.1, 0.5, 0.4)),
        (np.s_[3:, :2, 14:], (0.1, 0.1, 0.8)),  # a speck of it
    ):
        p[0].movedim(1, -1)[place] = torch.tensor(each)
    prediction._soft = lambda logits: p
    found = prediction.segment([torch.nn.Conv2d(1, 3, 1).eval()], [volume])[0]
    wanted = np.zeros((4, 16, 16), np.uint8)
    wanted[:, :, :5], wanted[1:3, 2:8, 12:] = 1, 2
    assert np.array_equal(found["cleaned"], wanted)
    assert (found["network_1"][1:3, 2:8, 12:] == 1).all()


def test_a_part_of_the_least_volume_stays_whatever_its_spacing_is_rounded_to():
    labels = np.ones((1, 1, 3), np.uint8)
    assert RemoveSmall(1.47)(labels, (1, 0.7, 0.7)).all()
    assert not RemoveSmall(1.48)(labels, (1, 0.7, 0.7)).any()


def test_slices_are_smoothed_by_their_neighbours():
    p = torch.zeros(4, 2, 1, 1)
    p[1, 1] = 1.0
    found = SmoothSlices(0.5).soften(p)[:, 1, 0, 0]
    torch.testing.assert_close(found, torch.tensor([1 / 3, 0.5, 0.25, 0.0]))


def heart(walls, beside):
    """A stack: of each slice, how many pixels of wall, 2, and of what lies beside it, 1."""
    labels = np.zeros((len(walls), 10, 10), np.uint8)
    for plane, wall, other in zip(labels, walls, beside, strict=True):
        plane.ravel()[:wall], plane.ravel()[50 : 50 + other] = 2, 1
    return labels


@pytest.mark.parametrize(
    ("walls", "kept"),
    [
        ([0, 6, 13, 20, 20, 20, 10, 5, 3], [3, 4, 5, 6, 7, 8]),  # two open slices, and one beyond the wall
        ([15, 20, 20, 20, 10, 5, 3, 0, 0], range(9)),  # whole at the base; beyond the apex nothing is cut
        ([2, 2, 2, 2, 20, 20, 20, 20, 4], [3, 4, 5, 6, 7, 8]),  # of four open slices three
        ([0, 20, 20, 20, 0, 0, 0, 0, 0], range(9)),  # too few to tell
    ],
)
def test_the_right_ventricle_ends_where_the_wall_opens_at_the_base(walls, kept):
    beside = [30, 30, 30, 25, 20, 15, 10, 5, 2]  # larger towards the base
    labels = heart(walls, beside)
    cut = CutAtBase((1,), 2)(labels, (8, 1, 1))
    assert np.flatnonzero((cut == 1).any((1, 2))).tolist() == list(kept)
    assert np.array_equal(cut[list(kept)], labels[list(kept)])
    assert np.array_equal(cut == 2, labels == 2)
    assert cut.dtype == np.uint8
    assert np.array_equal(CutAtBase((1,), 2)(labels[::-1], (8, 1, 1)), cut[::-1])  # the base at the other end


@pytest.mark.parametrize(
    "wrong",
    [
        dict(type="KeepLargest", of="organ"),
        dict(type="RemoveSmall", mm3=-1),
        dict(type="CutAtBase", classes=(1,), wall=2, share=2),
        dict(type="CutAtBase", classes=(1,), wall=2, slices=-1),
    ],
)
def test_a_clean_up_that_cannot_be_is_refused(wrong, tiny_config, tmp_path):
    with pytest.raises(InputError, match=wrong["type"]):
        train(tiny_config(extra=f"model['prediction'] = dict(clean=[{wrong}])\n"), str(tmp_path / "w"))


def test_a_step_of_one_s_own_does_one_half_alone(monkeypatch):
    class Half:
        def soften(self, probabilities):
            return probabilities.flip(1)

    network = torch.nn.Conv2d(1, 2, 1)  # which finds background everywhere
    network.bias.data = torch.tensor([1.0, 0.0])
    for name, own in {"Soft": Half, "Hard": lambda: lambda labels, spacing: 1 - labels}.items():
        monkeypatch.setitem(POST_PROCESSORS.module_dict, name, own)
        volume = dict(image=np.zeros((2, 16, 16), np.float32), spacing=(1, 1, 1), frame=Frame(16))
        prediction = Prediction(clean=[dict(type=name)], bfloat16=False)
        (found,) = prediction.segment([network], [volume])
        assert (found["network_1"].max(), found["cleaned"].min()) == (0, 1)


def test_a_validation_and_a_test_show_the_networks_and_what_is_cleaned(tiny_config, tmp_path):
    extra = "model['prediction'] = dict(resize='probabilities', averaged=True, clean=[dict(type='KeepLargest')])\n"
    config = tiny_config(extra=extra)
    runner = train(config, str(tmp_path / "w"))
    metrics = test(config, str(tmp_path / "w" / "last.pth"), split="val")
    assert {"network_1/DSC", "network_2/DSC", "ensemble/DSC", "cleaned/DSC"} <= set(metrics)
    ema = runner.model.teachers["ema"].parameters()
    assert any(not torch.equal(a, b) for a, b in zip(ema, runner.model.networks.parameters(), strict=True))
    assert list(runner.model.predictors.parameters())[0] is next(runner.model.teachers["ema"].parameters())


def test_volumes_keep_their_grid_when_training_slices_are_cut_to_one_pixel_size(raw_acdc, tiny_config, tmp_path):
    data = prepare(READERS.get("acdc")(raw_acdc), tmp_path / "data", size=32, workers=1, pixel=1.5)
    assert data.frame == Frame(32, 1.5)
    whole = prepare(READERS.get("acdc")(raw_acdc), tmp_path / "whole", size=40, workers=1)  # 40 pixels of 1.5 mm
    assert np.array_equal(data.train_images(), whole.train_images()[:, 4:36, 4:36])
    config = tiny_config(data=str(tmp_path / "data"))
    train(config, str(tmp_path / "w"))
    assert 0 <= test(config, str(tmp_path / "w" / "last.pth"), split="val")["ensemble/DSC"] <= 1


STATIC = """
train_dataloader["static"] = dict(type="StaticLabels", batch_size=2, folder={folder!r})
model["objectives"] = [dict(type="Supervised", source="static", view="strong")]
"""


def test_a_second_round_learns_from_the_first_ones_labels_alone(tiny_config, raw_acdc, tmp_path):
    first = tiny_config()
    second = tiny_config(extra=STATIC.format(folder=""), name="second.py")
    checkpoint = train_rounds([first, second], str(tmp_path / "rounds"))
    assert checkpoint == tmp_path / "rounds" / "round_2" / "last.pth"
    masks = sorted(p.name for p in (tmp_path / "rounds" / "labels_1").iterdir())
    assert masks == [f"patient00{p}_frame0{f}.nii.gz" for p in (1, 2) for f in (1, 2)]
    mended = tmp_path / "rounds" / "labels_1" / masks[0]
    mask = nib.load(mended)
    nib.save(nib.Nifti1Image(np.ones(mask.shape, np.uint8), mask.affine), mended)  # by hand
    with pytest.raises(InputError, match=r"round_2.* other data: train_dataloader.static.masks: .* remove it"):
        train_rounds([first, second], str(tmp_path / "rounds"), resume=True)
    shutil.rmtree(tmp_path / "rounds" / "round_2")
    checkpoint.parent.parent.rename(tmp_path / "moved")
    for _ in range(2):  # trained, then found trained
        train_rounds([first, second], str(tmp_path / "moved"), resume=True)
    mended = tmp_path / "moved" / "labels_1" / masks[0]
    assert (np.asarray(nib.load(mended).dataobj) == 1).all()
    shutil.copytree(tmp_path / "moved" / "round_2", tmp_path / "moved" / "round_3")
    train_rounds([first, second], str(tmp_path / "moved"), overwrite=True)
    assert not (np.asarray(nib.load(mended).dataobj) == 1).all()
    assert not (tmp_path / "moved" / "round_3" / "last.pth").exists()  # of weights that are no more


def test_what_an_overwriting_of_rounds_replaces_is_gone_though_it_is_interrupted(tiny_config, tmp_path, monkeypatch):
    configs = [tiny_config(), tiny_config(extra=STATIC.format(folder=""), name="second.py")]
    train_rounds(configs, str(tmp_path))
    mask = tmp_path / "labels_1" / "patient001_frame01.nii.gz"
    kept = mask.read_bytes()
    for name in ("labels_1_mended", "labels_expert"):  # a person's own
        (tmp_path / name).mkdir()
        (tmp_path / name / mask.name).write_bytes(kept)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    wrong = {"model.backbone.channels": 3}
    with pytest.raises(InputError):  # before anything is removed
        train_rounds(configs, str(tmp_path), cfg_options=wrong, overwrite=True)
    assert mask.read_bytes() == kept
    with monkeypatch.context() as patch:
        patch.setattr("cmems.apis.rounds.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_rounds(configs, str(tmp_path), overwrite=True)
    assert not mask.exists()
    assert [(tmp_path / name / mask.name).read_bytes() for name in ("labels_1_mended", "labels_expert")] == [kept] * 2
    assert not (tmp_path / "round_2" / "last.pth").exists()
    assert train_rounds(configs, str(tmp_path), resume=True).is_file()


def test_rounds_go_on_with_the_steps_that_an_option_gave_them(tiny_config, tmp_path, monkeypatch):
    configs = [tiny_config(), tiny_config(extra=STATIC.format(folder=""), name="second.py")]
    with monkeypatch.context() as patch:
        patch.setattr("cmems.apis.rounds.label_training_scans", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_rounds(configs, str(tmp_path), steps=2)
    last = train_rounds(configs, str(tmp_path), resume=True)
    assert read_meta(last)["iter"] == 2


def test_rounds_and_tests_have_the_folders_that_they_fill_to_themselves(tiny_config, tmp_path):
    first, rounds, out = tiny_config(), tmp_path / "rounds", tmp_path / "tables"
    second = tiny_config(extra=STATIC.format(folder=""), name="second.py")
    with (
        folder_lock(rounds, "training"),
        pytest.raises(InputError, match="rounds: another process is training in this"),
    ):
        train_rounds([first, second], str(rounds))
    assert not (rounds / "round_1").exists()
    train(first, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 1})
    with folder_lock(out, "testing"), pytest.raises(InputError, match="tables: another process is testing in this"):
        test(first, str(tmp_path / "w" / "last.pth"), out=str(out))
    assert not (out / "metrics.json").exists()


def test_masks_of_training_scans_have_their_spacing_whatever_the_affine_says(tiny_config, prepared_acdc, tmp_path):
    data = shutil.copytree(prepared_acdc, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    for entry in manifest["cases"].values():  # as in ACDC's files: spacing in pixdim, an sform of 1 mm
        entry["affine"] = np.diag([-1.0, -1.0, 1.0, 1.0]).tolist()
    (data / "manifest.json").write_text(json.dumps(manifest))
    config = tiny_config(data=data)
    train(config, str(tmp_path / "w"), cfg_options={"train_cfg.max_iters": 2})
    masks = label_training_scans(config, str(tmp_path / "w" / "last.pth"), str(tmp_path / "labels"))
    for path in masks.paths.values():
        header = nib.load(path).header
        np.testing.assert_allclose(header.get_zooms(), (1.5, 1.5, 8.0))
        np.testing.assert_allclose(header.get_best_affine(), np.diag([-1, -1, 1, 1]))
        assert header.get_xyzt_units()[0] == "mm"


def test_a_later_round_that_cannot_be_trained_is_refused_before_the_first(tiny_config, prepared_acdc, tmp_path):
    static, first = STATIC.format(folder=""), tiny_config()
    other = shutil.copytree(prepared_acdc, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(dict(manifest, classes=["LV", "Myo", "RV"])))
    second = tiny_config(extra=static, name="second.py")
    (tmp_path / "later" / "round_2").mkdir(parents=True)
    (tmp_path / "later" / "round_2" / "last.pth").touch()
    wrong = {
        "StaticLabels": "",
        "none: no such folder": static + 'train_dataloader["data_root"] = "none"\n',
        "classes of the round before.*RV, Myo, LV in .* and LV, Myo, RV in": static
        + f'train_dataloader["data_root"] = {str(other)!r}\n',
        "none learns from static": static + 'model["objectives"] = [dict(type="Supervised", source="exemplar")]\n',
        "no case 'nobody'": static + 'train_dataloader["exemplar_slice"] = dict(case="nobody", slice=0)\n',
        "network 1: num_classes=3, but": static + 'model["backbone"]["num_classes"] = 3\n',
        "optim_wrapper is not set": static + "optim_wrapper = None\n",
        "wrong.py: StaticLabels: batch_size: expected a positive integer, got 0": static
        + 'train_dataloader["static"]["batch_size"] = 0\n',
        "wrong.py: default_hooks.checkpoint.save_best: ensemble/DCS is not measured": static
        + 'default_hooks = dict(checkpoint=dict(type="LastBestCheckpointHook", save_best="ensemble/DCS"))\n',
        "wrong.py: optim_wrapper: Invalid momentum value: -1": static
        + 'optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1, momentum=-1))\n',
    }
    for message, extra in wrong.items():
        with pytest.raises(InputError, match=message):
            train_rounds([first, tiny_config(extra=extra, name="wrong.py")], str(tmp_path / "new"))
    with pytest.raises(InputError, match="round_2 holds a run"):
        train_rounds([first, second], str(tmp_path / "later"))
    (tmp_path / "later" / "round_2" / "last.pth").unlink()
    (tmp_path / "later" / "labels_1").mkdir()
    (tmp_path / "later" / "labels_1" / "patient001_frame01.nii.gz").touch()
    with pytest.raises(InputError, match="labels_1 holds masks: --resume keeps those mended by hand"):
        train_rounds([first, second], str(tmp_path / "later"))
    assert not (tmp_path / "later" / "round_1").exists()
    assert not (tmp_path / "new").exists()


def test_masks_of_a_round_are_left_alone_by_who_made_them_whatever_the_clock_says(tiny_config, tmp_path):
    config, labels = tiny_config(), tmp_path / "labels"
    for name, seed in (("a", 0), ("b", 1)):
        train(config, str(tmp_path / name), seed=seed)
    label = functools.partial(label_training_scans, config, out=str(labels), keep=True)
    made = label(str(tmp_path / "a" / "last.pth"))
    by_hand, other = made.paths["patient001_frame01"], made.paths["patient001_frame02"]
    mask = nib.load(by_hand)
    nib.save(nib.Nifti1Image(np.ones(mask.shape, np.uint8), mask.affine, mask.header), by_hand)
    for path in made.paths.values():
        os.utime(path, (0, 0))  # as a copy, or a clock put back, may have it
    before = {case: path.read_bytes() for case, path in made.paths.items()}
    assert (made.kept, label(str(tmp_path / "a" / "last.pth")).kept) == ([], list(made.paths))
    assert label(str(tmp_path / "b" / "last.pth")).kept == ["patient001_frame01"]
    assert by_hand.read_bytes() == before["patient001_frame01"]
    assert other.read_bytes() != before["patient001_frame02"]


def test_labels_of_training_scans_lie_on_the_scans(tiny_config, raw_acdc, tmp_path):
    """So the next round may have another frame: here one that would take its slices at another size."""
    config = tiny_config()
    runner = train(config, str(tmp_path / "w"))
    masks = label_training_scans(config, str(tmp_path / "w" / "last.pth"), str(tmp_path / "labels"))
    mask = nib.load(masks.paths["patient001_frame01"])
    scan = nib.load(raw_acdc / "training/patient001/patient001_frame01.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    data = PreparedDataset(runner.train_loop.data.prepared.root)
    squares = torch.from_numpy(np.array(data.train_images()[:3])).float().unsqueeze(1)
    expected = runner.model.eval().probabilities(squares).mean(0).argmax(1).to(torch.uint8)
    expected = Frame(32).labels_back(expected, (40, 40), (1.5, 1.5))
    assert (np.asarray(mask.dataobj).transpose(2, 1, 0) == expected.numpy()).mean() > 0.99
    other = prepare(READERS.get("acdc")(raw_acdc), tmp_path / "data", size=48, workers=1, pixel=1.0)
    static = dict(type="StaticLabels", batch_size=1, folder=str(tmp_path / "labels"))
    assert TrainData(other.root, static=static)(Draws(0, 0))["static"]["labels"].shape == (1, 48, 48)


def test_static_labels_are_read_by_case_and_others_refused(prepared_acdc, raw_acdc, tmp_path, capsys):
    data, folder, source = PreparedDataset(prepared_acdc), tmp_path / "masks", raw_acdc / "training/patient001"
    folder.mkdir()
    (folder / "patient001_frame02.nii.gz").write_bytes((source / "patient001_frame02_gt.nii.gz").read_bytes())
    partly = nib.load(source / "patient001_frame01_gt.nii.gz")
    voxels = np.array(partly.dataobj)
    voxels[..., 0] = 255
    nib.save(nib.Nifti1Image(voxels, partly.affine), folder / "patient001_frame01.nii")
    serve = TrainData(prepared_acdc, static=dict(type="StaticLabels", batch_size=64, folder=str(folder)))
    batch = serve(Draws(0, 0))["static"]
    assert batch["partial"]
    for name, partial in (("patient001_frame01.nii", True), ("patient001_frame02.nii.gz", False)):
        one = folder.parent / name.partition(".")[0]
        one.mkdir()
        shutil.copy(folder / name, one)
        alone = TrainData(prepared_acdc, static=dict(type="StaticLabels", batch_size=1, folder=str(one)))
        assert alone.sources["static"].partial == partial
    store, rows = serve.store[torch.arange(len(serve.store))], set()
    for image, label in zip(batch["images"], batch["labels"], strict=True):
        (row,) = (store == image).flatten(1).all(1).nonzero()[0].tolist()
        rows.add(row)
        expected = torch.from_numpy(np.array(data.train_labels()[row]))
        assert torch.equal(label, torch.full_like(expected, 255) if row == 0 else expected)
    assert rows == set(range(6))  # of two cases, three slices each
    drawn = serve.sources["static"].drawn(Draws(0, 0))
    assert torch.equal(serve.store[drawn], batch["images"])  # what a report names is what was shown
    shutil.copy(folder / "patient001_frame01.nii", folder / "patient001_frame01-mended.nii")
    TrainData(prepared_acdc, static=dict(type="StaticLabels", batch_size=1, folder=str(folder)))
    assert "is called patient001_frame01-mended: passed over" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 3), np.uint8), np.eye(4)), folder / "patient002_frame01.nii")
    nib.save(nib.Nifti1Image(np.full((40, 40, 3), 7, np.uint8), partly.affine), folder / "patient002_frame02.nii")
    with pytest.raises(InputError) as error:
        TrainData(prepared_acdc, static=dict(type="StaticLabels", batch_size=1, folder=str(folder)))
    assert "patient002_frame01.nii: expected shape (3, 40, 40)" in str(error.value)
    assert "patient002_frame02.nii: expected labels 0 to 3, got 7" in str(error.value)


def test_unknown_labels_are_refused_where_an_objective_would_take_them_for_a_class(tiny_config, tmp_path):
    extra = (
        'train_dataloader["synthetic"]["synthesizer"] = dict(background="unknown")\n'
        'model["objectives"] = [dict(type="PrototypeContrast", source="synthetic")]\n'
    )
    with pytest.raises(InputError, match="PrototypeContrast: some labels of source 'synthetic' are unknown"):
        train(tiny_config(extra=extra), str(tmp_path / "w"))


def test_a_report_names_the_backgrounds_that_were_shown(prepared_acdc):
    case, index = PreparedDataset(prepared_acdc).eligible_exemplars(1)[0]
    paste = dict(type="ExemplarPaste", geometric=dict(type="RandomAffine"), intensity=dict(type="RandomGammaGain"))
    synthetic = dict(type="SyntheticSource", batch_size=8, synthesizer=paste, levels=0.3)
    exemplar = dict(type="ExemplarSource", batch_size=3)
    data = TrainData(prepared_acdc, dict(case=case, slice=index), synthetic=synthetic, exemplar=exemplar)
    assert data.sources["exemplar"].drawn(Draws(0, 3)).tolist() == []  # the config names it
    allowed = set(data.near_exemplars(0.3).tolist())
    assert 0 < len(allowed) < len(data.store)
    stacks = {c: data.prepared.rows(c) for c in data.prepared.cases("train")}
    own = (index + 0.5) / len(stacks[case])
    assert allowed == {r for rows in stacks.values() for n, r in enumerate(rows)
                       if abs((n + 0.5) / len(rows) - own) <= 0.3 + 1e-9}  # fmt: skip
    assert set(data.sources["synthetic"].drawn(Draws(0, 3)).tolist()) <= allowed
    data = TrainData(prepared_acdc, dict(case=case, slice=index), synthetic=dict(synthetic, levels=None))
    named = {name for step in range(30) for name in data.cases(Draws(0, step))["synthetic"]}
    assert named == {f"{c} {n}" for c, rows in stacks.items() for n in range(len(rows))}  # the first slices too


def test_exemplars_that_lack_a_class_are_refused_by_name_and_number(prepared_acdc, monkeypatch):
    data = PreparedDataset(prepared_acdc)
    whole, case = data.train_label, data.cases("train")[0]
    monkeypatch.setattr(data, "train_label", lambda row: np.where(whole(row) == 1, 0, whole(row)))
    slices = [dict(case=case, slice=k) for k in (1, 2)]
    for chosen, more in ((slices[:1], ""), (slices, " and 1 more")):
        where = f"exemplar case={case} slice=1{more} of {prepared_acdc}: expected every class, but RV is absent"
        with pytest.raises(InputError, match=re.escape(where)):
            load_exemplars(data, chosen)
