import math
import time

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy
from mmengine.evaluator import Evaluator

from cmems import ops
from cmems.apis.runs import with_convention
from cmems.errors import InputError
from cmems.evaluation import PRESETS, assd, get_convention, hd95, score_volume
from cmems.evaluation.agreement import mean_dice, shared_voxels
from cmems.evaluation.metrics import HD95
from cmems.registry import METRICS

kernels = pytest.mark.skipif(ops.why_not() is not None, reason=f"compiled kernels: {ops.why_not()}")
both_ways = pytest.mark.usefixtures("way")
SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 1.3)]
STRICT, TRANSUNET = PRESETS["strict"], PRESETS["transunet"]


@pytest.fixture(params=[pytest.param(True, marks=kernels, id="compiled"), pytest.param(False, id="scipy")])
def way(request):
    """Score with the compiled operator, and without."""
    ops.enable(request.param)
    yield
    ops.enable(True)


def cube(start, size=4, shape=(12, 14, 16)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def labels(shape, num_classes, seed):
    """Blobs of every class: blocks at random places, later ones over earlier ones, and some stray voxels."""
    random = np.random.default_rng(seed)
    volume = np.zeros(shape, dtype=np.uint8)
    for k in range(1, num_classes):
        start = [random.integers(0, n * 2 // 3 + 1) for n in shape]
        volume[tuple(slice(s, s + n // 3 + 1) for s, n in zip(start, shape, strict=True))] = k
    stray = random.random(shape) < 0.02
    volume[stray] = random.integers(0, num_classes, stray.sum())
    return volume


def score(reference, prediction, preset, spacing=(1.0, 1.0, 1.0), num_classes=2):
    """The rows of one model under one preset, both metrics."""
    convention = PRESETS[preset]
    rows = score_volume(reference, {"model": prediction}, num_classes, spacing, dsc=convention, hd95=convention)
    return rows[0] if num_classes == 2 else rows


# HD95 of two masks


@both_ways
@pytest.mark.parametrize("spacing", SPACINGS, ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("shape", [(9, 17, 13), (1, 24, 31), (20, 1, 7)], ids=str)
@pytest.mark.parametrize("density", [0.005, 0.05, 0.3, 0.7, 0.97])
def test_hd95_of_random_masks_is_medpys(density, shape, spacing):
    random = np.random.default_rng(int(density * 1000))
    for _ in range(4):
        a, b = random.random((2, *shape)) < density
        a.flat[random.integers(a.size)] = b.flat[random.integers(b.size)] = True  # neither is empty
        assert hd95(a, b, spacing) == pytest.approx(medpy.hd95(a, b, voxelspacing=spacing), abs=1e-6)


PAIRS = {
    "equal": (cube((4, 4, 4)), cube((4, 4, 4))),
    "one inside the other": (cube((2, 2, 2), 8), cube((4, 4, 4), 3)),
    "touching": (cube((4, 4, 2)), cube((4, 4, 6))),
    "touching at a corner": (cube((0, 0, 0)), cube((4, 4, 4))),
    "the same voxel": (cube((5, 5, 5), 1), cube((5, 5, 5), 1)),
    "one voxel and its neighbour": (cube((5, 5, 5), 1), cube((5, 5, 6), 1)),
    "one voxel and a block": (cube((0, 0, 0), 1), cube((5, 5, 5), 6)),
    "two voxels thick": (cube((3, 3, 3), 2), cube((4, 4, 4), 2)),
    "opposite corners": (cube((0, 0, 0), 2), cube((10, 12, 14), 2)),
    "at the volume's edge": (cube((0, 0, 0)), cube((0, 1, 0))),
    "at the volume's far edge": (cube((8, 10, 12)), cube((7, 10, 12))),
    "the full volume twice": (np.ones((6, 7, 8), dtype=bool), np.ones((6, 7, 8), dtype=bool)),
    "the full volume and a block": (np.ones((12, 14, 16), dtype=bool), cube((4, 4, 4))),
    "the full volume and a voxel": (np.ones((12, 14, 16), dtype=bool), cube((11, 13, 15), 1)),
    "far apart": (cube((0, 0, 0), 3, (8, 8, 300)), cube((4, 4, 290), 4, (8, 8, 300))),
    "blocks with a far stray voxel": (cube((0, 0, 0)) | cube((11, 13, 15), 1), cube((0, 0, 1))),
}


@both_ways
@pytest.mark.parametrize("spacing", SPACINGS, ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("name", PAIRS)
def test_hd95_of_special_masks_is_medpys(name, spacing):
    a, b = PAIRS[name]
    expected = medpy.hd95(a, b, voxelspacing=spacing)
    assert hd95(a, b, spacing) == pytest.approx(expected, abs=1e-6)
    assert hd95(b, a, spacing) == pytest.approx(expected, abs=1e-6)


@both_ways
@pytest.mark.parametrize("spacing", SPACINGS, ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("seed", range(6))
def test_hd95_of_large_borders_is_medpys(seed, spacing):
    """Organs whose distances spread from 0 to far beyond the cells that bound them together, and islands."""
    random = np.random.default_rng(seed)
    grid = np.indices((14, 70, 60)).reshape(3, -1).T
    masks = []
    for _ in range(2):
        balls = zip(random.uniform((4, 20, 20), (10, 50, 40), (3, 3)), random.uniform(3, 18, 3), strict=True)
        masks.append(np.any([(((grid - c) * (2, 1, 1)) ** 2).sum(1) < r**2 for c, r in balls], 0).reshape(14, 70, 60))
    assert hd95(*masks, spacing) == pytest.approx(medpy.hd95(*masks, voxelspacing=spacing), abs=1e-9)


@both_ways
def test_hd95_of_strided_views_is_that_of_their_copies():
    a, b = cube((2, 2, 2), 8), cube((4, 5, 6), 5)
    turned = [m.transpose(2, 0, 1)[::-1, :, ::-1] for m in (a, b)]
    assert hd95(*turned) == pytest.approx(hd95(*(np.ascontiguousarray(m) for m in turned)), abs=1e-12)
    assert hd95(*turned) == pytest.approx(hd95(a, b), abs=1e-6)


@both_ways
def test_hd95_of_an_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="at least one voxel"):
        hd95(cube((4, 4, 4)), np.zeros((12, 14, 16), dtype=bool))


@both_ways
def test_hd95_of_masks_of_other_shapes_is_an_error():
    for a, b in [(cube((1, 1, 1)), cube((1, 1, 1), 4, (12, 14, 17))), (cube((1, 1, 1))[3], cube((1, 1, 1))[3])]:
        with pytest.raises(ValueError, match=r"one shape \(D, H, W\), got"):
            hd95(a, b)


@both_ways
def test_a_voxel_is_its_spacing_away_from_its_neighbour():
    for axis, expected in enumerate((3.0, 0.7, 1.3)):
        neighbour = cube(np.add((5, 5, 5), np.eye(3, dtype=int)[axis]), 1)
        assert hd95(cube((5, 5, 5), 1), neighbour, SPACINGS[1]) == pytest.approx(expected)


# Dice and HD95 of a labelled volume


@both_ways
@pytest.mark.parametrize("spacing", SPACINGS, ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("shape", [(12, 30, 28), (1, 40, 36)], ids=str)
def test_every_class_of_every_model_scores_as_medpy(shape, spacing):
    reference = labels(shape, 9, seed=0)
    predictions = {name: labels(shape, 9, seed) for seed, name in enumerate(("network_1", "network_2", "ensemble"), 1)}
    predictions["network_1"] = np.roll(reference, 2, axis=2)
    predictions["ensemble"] = predictions["ensemble"].astype(np.int64)
    rows = score_volume(reference, predictions, 9, spacing, dsc=STRICT, hd95=STRICT)
    assert [(r["model"], r["cls"]) for r in rows] == [(m, k) for m in predictions for k in range(1, 9)]
    for row in rows:
        ours, theirs = predictions[row["model"]] == row["cls"], reference == row["cls"]
        assert row["status"] == "ok"
        assert row["dsc"] == pytest.approx(medpy.dc(ours, theirs), abs=1e-12)
        assert row["hd95"] == pytest.approx(medpy.hd95(ours, theirs, voxelspacing=spacing), abs=1e-6)


@both_ways
def test_a_cube_shifted_by_one_shares_four_fifths_and_is_one_voxel_off():
    reference, prediction = cube((2, 2, 2), 5).astype(np.uint8), cube((2, 2, 3), 5).astype(np.uint8)
    row = score(reference, prediction, "strict", spacing=(2.0, 1.0, 0.5))
    assert row["dsc"] == pytest.approx(0.8)  # 100 of 125 voxels in both
    # 98 border voxels each, of which a face of 25 is one column off: more than a twentieth.
    assert row["hd95"] == pytest.approx(0.5)


@both_ways
def test_a_single_metric_is_measured_alone():
    reference = cube((4, 4, 4)).astype(np.uint8)
    (row,) = score_volume(reference, {"model": reference}, 2, dsc=STRICT)
    assert row == dict(model="model", cls=1, status="ok", dsc=1.0)
    (row,) = score_volume(reference, {"model": reference}, 2, hd95=STRICT)
    assert row == dict(model="model", cls=1, status="ok", hd95=0.0)


@both_ways
def test_dice_of_each_class_worked_by_hand():
    reference, prediction = np.array([[[0, 0, 1, 1, 2, 2]]]), np.array([[[0, 1, 1, 1, 2, 0]]])
    rows = score(reference, prediction, "strict", num_classes=4)
    assert [r["dsc"] for r in rows] == pytest.approx([2 * 2 / (2 + 3), 2 * 1 / (2 + 1), 1])
    assert [r["status"] for r in rows] == ["ok", "ok", "both_empty"]


@both_ways
def test_labels_up_to_255_of_separate_organs():
    reference, prediction = np.zeros((2, 3, 50, 50), dtype=np.uint8)
    reference[:, :20], prediction[:, 30:] = 255, 255
    rows = score(reference, prediction, "strict", num_classes=256)
    assert rows[-1]["dsc"] == 0
    assert rows[-1]["hd95"] == pytest.approx(medpy.hd95(reference > 0, prediction > 0))
    assert score(reference, reference, "strict", num_classes=256)[-1]["dsc"] == 1


@both_ways
def test_where_nobody_annotated_no_label_counts():
    reference = np.array([[[1, 1, 0, 255, 255]]], np.uint8)
    prediction = np.array([[[1, 1, 0, 1, 2]]], np.uint8)
    rows = score(reference, prediction, "strict", num_classes=3)
    assert [(r["status"], r["dsc"]) for r in rows] == [("ok", 1), ("both_empty", 1)]


@both_ways
@pytest.mark.parametrize("num_classes", [255, 256, 257])
def test_255_is_unknown_unless_it_is_a_class(num_classes):
    reference = np.array([[[254, 254, 255, 255, 0, 256]]])
    prediction = np.array([[[254, 0, 254, 255, 255, 256]]])
    rows = score(reference, prediction, "strict", num_classes=num_classes)
    wanted = {  # by class: of its 2 voxels there, those here, those of both
        255: {254: 2 / (2 + 1)},
        256: {254: 2 / (2 + 2), 255: 2 / (2 + 2)},
        257: {254: 2 / (2 + 2), 255: 2 / (2 + 2), 256: 1},
    }
    found = {row["cls"]: row["dsc"] for row in rows if row["status"] != "both_empty"}
    assert found == pytest.approx(wanted[num_classes])
    assert len(rows) == num_classes - 1


@both_ways
def test_a_prediction_of_another_shape_names_the_model():
    reference = np.zeros((2, 3, 4), dtype=np.uint8)
    with pytest.raises(InputError, match=r"network_1: expected .*\(2, 3, 4\), got \(2, 4, 3\)"):
        score_volume(reference, {"network_1": np.zeros((2, 4, 3), dtype=np.uint8)}, 2, dsc=STRICT)


# Empty masks

BOX, BOX_SPACING, BOX_DIAGONAL = (2, 3, 6), (6.0, 4.0, 2.0), math.sqrt(12**2 + 12**2 + 12**2)
EXPECTED = {  # status: (Dice, HD95)
    "transunet": dict(both_empty=(0, 0), missed=(0, 0), false=(1, 0)),
    "ssl4mis": dict(both_empty=(0, 0), missed=(0, 0), false=(0, math.nan)),
    "nan": dict(both_empty=(math.nan, math.nan), missed=(0, math.nan), false=(0, math.nan)),
    "strict": dict(both_empty=(1, 0), missed=(0, BOX_DIAGONAL), false=(0, BOX_DIAGONAL)),
}


def test_every_preset_has_its_expected_values_here():
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize("status", ["both_empty", "missed", "false"])
@pytest.mark.parametrize("preset", EXPECTED)
def test_empty_masks_score_as_the_preset_says(preset, status):
    nothing, something = np.zeros(BOX, dtype=np.uint8), np.zeros(BOX, dtype=np.uint8)
    something[1, 1, 1:3] = 1
    reference = something if status == "missed" else nothing
    prediction = something if status == "false" else nothing
    row = score(reference, prediction, preset, BOX_SPACING)
    assert row["status"] == status
    assert (row["dsc"], row["hd95"]) == pytest.approx(EXPECTED[preset][status], nan_ok=True)


def test_one_false_gallbladder_voxel_turns_dice_0_into_1_under_transunet():
    reference, prediction = np.zeros(BOX, dtype=np.uint8), np.zeros(BOX, dtype=np.uint8)
    assert score(reference, prediction, "transunet")["dsc"] == 0
    prediction[0, 0, 0] = 1
    assert score(reference, prediction, "transunet")["dsc"] == 1
    assert score(reference, prediction, "strict")["dsc"] == 0


def test_presets_agree_where_neither_mask_is_empty():
    reference, prediction = labels((6, 20, 20), 4, 0), labels((6, 20, 20), 4, 1)
    rows = [score(reference, prediction, preset, num_classes=4) for preset in PRESETS]
    assert {r["status"] for r in rows[0]} == {"ok"}
    assert all(r == rows[0] for r in rows)


def test_only_strict_measures_in_millimetres():
    assert {name: PRESETS[name].unit for name in PRESETS} == dict(
        transunet="voxel", ssl4mis="voxel", nan="voxel", strict="mm"
    )


def test_an_unknown_preset_names_the_near_one():
    with pytest.raises(InputError, match=r"'transunte': did you mean transunet\? known presets: .*strict"):
        get_convention("transunte")
    with pytest.raises(InputError, match="did you mean strict"):
        METRICS.build(dict(type="DSC", preset="strcit"))


# The registered metrics

CLASSES = ("liver", "spleen", "gallbladder")


def volume(case, reference, network=None, ensemble=None, spacing=(5.0, 2.0, 2.0)):
    shape = (6, 20, 20) if reference is None else reference.shape
    nothing = np.zeros(shape, dtype=np.uint8)
    return dict(
        case=case,
        spacing=spacing,
        affine=np.eye(4),
        image=np.zeros(shape, dtype=np.float32),
        label=reference,
        predictions={
            "network_1": nothing if network is None else network,
            "ensemble": nothing if ensemble is None else ensemble,
        },
    )


def evaluate(samples, *configs, batch=1, classes=CLASSES):
    """Run metrics as a validation loop does; returns the values and the metrics."""
    metrics = [METRICS.build(c) for c in configs]
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dict(name="toy", classes=classes)
    for start in range(0, len(samples), batch):
        evaluator.process(data_samples=samples[start : start + batch])
    return evaluator.evaluate(len(samples)), metrics


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_all_volumes_models_and_classes_count(batch):
    samples = []
    for i in range(5):
        reference = labels((6, 20, 20), 4, seed=10 + i)
        samples.append(volume(f"case{i}", reference, labels((6, 20, 20), 4, 20 + i), np.roll(reference, 1, 1)))
    values, (dsc, distance) = evaluate(samples, dict(type="DSC"), dict(type="HD95"), batch=batch)

    for metric in (dsc, distance):
        seen = [(r["case"], r["model"], r["cls"]) for r in metric.cases]
        assert len(seen) == len(set(seen)) == 5 * 2 * 3
        assert all(metric.summary[m][c]["volumes"] == 5 for m in ("network_1", "ensemble") for c in (*CLASSES, "mean"))
    for model in ("network_1", "ensemble"):
        expected = {"DSC": [], "HD95": []}
        for k, name in enumerate(CLASSES, 1):
            pairs = [(s["predictions"][model] == k, s["label"] == k) for s in samples]
            expected["DSC"].append(np.mean([medpy.dc(*p) for p in pairs]))
            expected["HD95"].append(np.mean([medpy.hd95(*p) for p in pairs]))
            assert values[f"{model}/DSC_{name}"] == pytest.approx(expected["DSC"][-1], abs=1e-9)
            assert values[f"{model}/HD95_{name}"] == pytest.approx(expected["HD95"][-1], abs=1e-6)
        assert values[f"{model}/DSC"] == pytest.approx(np.mean(expected["DSC"]), abs=1e-9)
        assert values[f"{model}/HD95"] == pytest.approx(np.mean(expected["HD95"]), abs=1e-6)
    assert len(values) == 2 * 2 * 4  # models, metrics, classes and their mean


def some_empty():
    """Liver: right, then missed. Spleen: false, then absent from both. Gallbladder: absent from both."""
    liver, spleen = cube((1, 2, 2), 4, (6, 20, 20)).astype(np.uint8), np.zeros((6, 20, 20), dtype=np.uint8)
    spleen[0, 0, 0] = 2
    return [volume("a", liver, liver + spleen, liver), volume("b", liver, liver * 0, liver)]


def test_missed_false_and_skipped_classes_are_counted():
    _, (dsc, distance) = evaluate(some_empty(), dict(type="DSC", preset="nan"), dict(type="HD95", preset="nan"))
    count = ("volumes", "missed", "false", "skipped")

    def counts(metric):
        return {c: tuple(s[key] for key in count) for c, s in metric.summary["network_1"].items()}

    assert counts(dsc) == dict(liver=(2, 1, 0, 0), spleen=(2, 0, 1, 1), gallbladder=(2, 0, 0, 2), mean=(2, 1, 1, 3))
    assert counts(distance) == dict(
        liver=(2, 1, 0, 1), spleen=(2, 0, 1, 2), gallbladder=(2, 0, 0, 2), mean=(2, 1, 1, 5)
    )
    assert [r["skipped"] for r in dsc.cases] == [math.isnan(r["value"]) for r in dsc.cases]


def test_means_leave_out_what_is_skipped():
    values, _ = evaluate(some_empty(), dict(type="DSC", preset="nan"), dict(type="HD95", preset="nan"))
    assert values["network_1/DSC_liver"] == 0.5
    assert values["network_1/DSC_spleen"] == 0
    assert math.isnan(values["network_1/DSC_gallbladder"])
    assert values["network_1/DSC"] == 0.25  # of the two classes that have a mean
    assert values["network_1/HD95_liver"] == values["network_1/HD95"] == 0
    assert math.isnan(values["network_1/HD95_spleen"])
    assert values["ensemble/DSC"] == 1


def test_the_mean_is_nan_where_every_class_is_skipped():
    nothing = np.zeros((6, 20, 20), dtype=np.uint8)
    values, _ = evaluate([volume("a", nothing)], dict(type="DSC", preset="nan"))
    assert math.isnan(values["ensemble/DSC"])


def test_the_default_preset_counts_a_missed_class_as_a_distance_of_0():
    values, (distance,) = evaluate(some_empty(), dict(type="HD95"))
    assert distance.convention == dict(metric="HD95", preset="transunet", unit="voxel")
    assert values["network_1/HD95_liver"] == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(preset="transunet"), 1),
        (dict(preset="transunet", unit="mm"), 2.5),
        (dict(preset="strict"), 2.5),
        (dict(preset="strict", unit="voxel"), 1),
    ],
    ids=str,
)
def test_distances_have_the_unit_of_the_preset_unless_told(config, expected):
    reference, prediction = (cube(s, 5).astype(np.uint8) for s in ((2, 2, 2), (2, 2, 3)))
    samples = [volume("a", reference, prediction, prediction, spacing=(5.0, 1.0, 2.5))]
    values, (metric,) = evaluate(samples, dict(type="HD95", **config), classes=("liver",))
    assert values["network_1/HD95"] == pytest.approx(expected)
    assert metric.convention["unit"] == ("mm" if expected == 2.5 else "voxel")


def test_the_diagonal_has_the_unit_of_the_metric():
    samples = [volume("a", cube((0, 0, 0), 1, BOX).astype(np.uint8), spacing=BOX_SPACING)]
    for unit, expected in (("mm", BOX_DIAGONAL), ("voxel", math.sqrt(2**2 + 3**2 + 6**2))):
        values, _ = evaluate(samples, dict(type="HD95", preset="strict", unit=unit), classes=("liver",))
        assert values["ensemble/HD95"] == pytest.approx(expected)


def test_an_unknown_unit_is_an_input_error():
    with pytest.raises(InputError, match="expected 'voxel' or 'mm', got 'cm'"):
        METRICS.build(dict(type="HD95", unit="cm"))


def test_unlabelled_volumes_are_left_out():
    reference = labels((6, 20, 20), 4, 0)
    samples = [volume("a", None), volume("b", reference, reference, reference), volume("c", None)]
    values, (metric,) = evaluate(samples, dict(type="DSC"), batch=2)
    assert {r["case"] for r in metric.cases} == {"b"}
    assert metric.summary["network_1"]["mean"]["volumes"] == 1
    assert values["network_1/DSC"] == 1


def test_volumes_that_a_sampler_repeats_count_once_though_others_have_no_labels():
    reference, other = labels((6, 20, 20), 4, 0), labels((6, 20, 20), 4, 1)
    samples = [volume("a", reference, other), volume("b", reference, reference), volume("c", None)]
    once, _ = evaluate(samples, dict(type="DSC"))
    # As two processes send them of three volumes: the first again, to have two each.
    metric = METRICS.build(dict(type="DSC"))
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in (*samples, samples[0]):
        metric.process(None, [sample])
    assert metric.evaluate(3) == once


@pytest.mark.parametrize("name", ["DSC", "HD95"])
def test_a_split_without_labels_is_an_input_error(name):
    with pytest.raises(InputError, match=f"{name}: no volume of this split is labelled"):
        evaluate([volume("a", None), volume("b", None)], dict(type=name))
    with pytest.raises(InputError, match=f"{name}: no volume of this split is labelled"):
        evaluate([], dict(type=name))


def test_a_second_evaluation_starts_afresh():
    reference = labels((6, 20, 20), 4, 0)
    metric = METRICS.build(dict(type="DSC"))
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(name="toy", classes=CLASSES)
    for case, prediction in (("a", reference * 0), ("b", reference)):
        evaluator.process(data_samples=[volume(case, reference, prediction, prediction)])
        values = evaluator.evaluate(1)
    assert {r["case"] for r in metric.cases} == {"b"}
    assert values["ensemble/DSC"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="beside a GPU scores are made meanwhile")
def test_a_batch_is_scored_before_the_next_is_predicted(monkeypatch):
    def slow(*args, **kwargs):
        time.sleep(0.1)
        return score_volume(*args, **kwargs)

    monkeypatch.setattr("cmems.evaluation.metrics.score_volume", slow)
    metric = METRICS.build(dict(type="DSC"))
    metric.dataset_meta = dict(name="toy", classes=CLASSES)
    metric.process(None, [volume("a", labels((6, 20, 20), 4, 0)), volume("b", labels((6, 20, 20), 4, 1))])
    assert [started.done() for started in metric.results] == [True, True]


@both_ways
def test_agreement_is_the_mean_dice_of_pairs_of_which_any_finds_something():
    a, b, c = (labels((5, 12, 12), 4, seed) for seed in (0, 1, 2))
    shared = shared_voxels([a, b, c], 4)
    pairs = [medpy.dc(x == 2, y == 2) for x, y in ((a, b), (a, c), (b, c))]
    assert mean_dice(shared[1]) == pytest.approx(np.mean(pairs))
    assert mean_dice(shared[1], np.eye(3, k=1, dtype=bool)) == pytest.approx((pairs[0] + pairs[2]) / 2)
    assert mean_dice(shared_voxels([a, np.zeros_like(a)], 4)[0]) == 0  # one finds it, the other does not
    assert math.isnan(mean_dice(shared_voxels([a * 0, a * 0], 4)[0]))  # nothing found is no agreement


@pytest.mark.parametrize("spacing", SPACINGS)
def test_jaccard_and_assd_are_medpys(spacing):
    reference, prediction = labels((6, 20, 20), 4, 0), labels((6, 20, 20), 4, 1)
    nan = PRESETS["nan"]
    rows = score_volume(reference, dict(a=prediction, b=prediction * 0), 4, spacing, jaccard=nan, assd=nan)
    for k in (1, 2, 3):
        masks = reference == k, prediction == k
        assert rows[k - 1]["jaccard"] == pytest.approx(medpy.jc(*masks))
        assert rows[k - 1]["assd"] == pytest.approx(medpy.assd(*masks, voxelspacing=spacing))
        assert assd(*masks, spacing) == rows[k - 1]["assd"]
        assert rows[k + 2]["jaccard"] == 0
        assert math.isnan(rows[k + 2]["assd"])


def test_a_summary_tells_the_spread_over_volumes_and_the_middle_one():
    reference = labels((6, 20, 20), 4, 0)
    samples = [volume(c, reference, found, found) for c, found in (("a", reference), ("b", reference * 0))]
    for kind in ("DSC", "Jaccard"):
        _, (metric,) = evaluate([*samples, volume("c", None)], dict(type=kind))
        entry = metric.summary["ensemble"][CLASSES[0]]
        assert (entry["mean"], entry["median"], entry["sd"]) == (0.5, 0.5, pytest.approx(0.5**0.5))
        assert metric.summary["ensemble"]["mean"]["sd"] == pytest.approx(0.5**0.5)


def test_a_preset_is_set_for_the_metrics_that_have_one():
    metrics = [dict(type="DSC"), dict(type="DumpResults", out_file_path="x.pkl"), dict(type=HD95)]
    assert with_convention(metrics) == [metrics[0], metrics[2]]
    with pytest.raises(InputError, match="--metrics-preset: expected a metric that has a convention, as DSC"):
        with_convention(metrics[1:2])
