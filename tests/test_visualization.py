"""The table tells counts beside means, the files agree, the pictures show what they claim, progress stays short."""

import csv
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cmems.cli.common import main_guard
from cmems.comparison.formats import escaped
from cmems.errors import InputError, said
from cmems.files import whole_file
from cmems.visualization import (
    metric_rows,
    metric_table,
    panel,
    plot_curves,
    read_history,
    write_metrics,
    write_png,
)
from cmems.visualization.colors import class_colors
from cmems.visualization.tables import csv_cell, csv_text

ACDC = ("RV", "Myo", "LV")
MODELS = ("network_1", "network_2", "ensemble")
SYNAPSE = ("Aor", "Gal", "Kid(L)", "Kid(R)", "Liv", "Pan", "Spl", "Sto")


def fake_metric(name, values, classes=ACDC, changes=None):
    """A computed metric: ``values[model]`` are the class means of two cases; ``changes`` alters summary entries."""
    summary, cases = {}, []
    for model, means in values.items():
        summary[model] = {
            c: dict(mean=v, median=v, volumes=2, missed=0, false=0, skipped=0)
            for c, v in zip(classes, means, strict=True)
        }
        summary[model]["mean"] = dict(mean=float(np.mean(means)), median=0.5, volumes=2, missed=0, false=0, skipped=0)
        for case in ("case1", "case2"):
            cases += [
                dict(case=case, model=model, cls=c, value=v, status="ok", skipped=False)
                for c, v in zip(classes, means, strict=True)
            ]
    for (model, c), change in (changes or {}).items():
        summary[model][c].update(change)
    convention = dict(preset="transunet", unit="voxels", metric=name)
    return SimpleNamespace(
        summary=summary, cases=cases, convention=convention, dataset_meta=dict(name="acdc", classes=classes)
    )


def fake_metrics(**options):
    dsc = {m: (0.75 + 0.01 * i, 0.7931, 0.9) for i, m in enumerate(MODELS)}
    return [
        fake_metric("DSC", dsc, **options),
        fake_metric("HD95", {m: (12.914, 3.48, 5.67) for m in MODELS}, **options),
    ]


def ellipse(shape, center, radii):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1


def fake_sample(shape=(6, 120, 100), shift=3, spacing=(10.0, 1.4, 1.4), label=True):
    """A ring, its cavity and a neighbour on slices 1-4, and predictions that are moved down by ``shift`` pixels."""
    rng = np.random.default_rng(0)
    reference = np.zeros(shape, np.uint8)
    for z in range(1, 5):
        reference[z][ellipse(shape[1:], (60, 40), (16, 12))] = 1
        reference[z][ellipse(shape[1:], (60, 60), (16, 16))] = 2
        reference[z][ellipse(shape[1:], (60, 60), (10, 10))] = 3
    image = 0.25 + 0.2 * (reference == 3) + 0.15 * (reference == 1) + 0.04 * rng.random(shape)
    moved = np.roll(reference, shift, axis=1)
    predictions = dict(network_1=moved, network_2=reference.copy(), ensemble=moved.copy())
    return dict(
        case="patient101_frame01",
        spacing=spacing,
        affine=np.diag([-1.4, -1.4, 10, 1]),
        image=image.astype(np.float16),
        label=reference if label else None,
        predictions=predictions,
    )


def count(image, color):
    return int((image == np.array(color)).all(-1).sum())


# the table


def test_the_table_has_a_row_per_model_with_dsc_to_three_and_hd95_to_two_decimals():
    table = metric_table(fake_metrics(), ACDC)
    row = next(line for line in table.splitlines() if "ensemble" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["ensemble", "0.821", "0.770", "0.793", "0.900", "7.35", "12.91", "3.48", "5.67"]
    assert "network 1" in table
    assert "network 2" in table
    assert "transunet" in table
    assert "HD95 in voxels" in table
    assert "2 volumes" in table


def test_clean_counts_are_stated():
    assert metric_table(fake_metrics(), ACDC).splitlines()[-1] == "none missed, none false, none skipped"


def test_counts_stand_below_the_table_with_model_class_and_total():
    changes = {("network_1", "RV"): dict(missed=2, volumes=20), ("ensemble", "LV"): dict(false=1, volumes=20)}
    table = metric_table(fake_metrics(changes=changes), ACDC)
    assert "missed (prediction empty): network 1 RV 2 of 20" in table
    assert "false (reference empty): ensemble LV 1 of 20" in table
    assert table.splitlines()[-1] == "none skipped"


def test_a_count_that_only_one_metric_has_names_that_metric():
    metrics = fake_metrics()
    metrics[1].summary["network_2"]["Myo"]["skipped"] = 1
    assert "skipped: HD95 network 2 Myo 1 of 2" in metric_table(metrics, ACDC)


def test_an_undefined_mean_is_a_dash_in_the_table_and_so_is_the_distance_to_what_was_never_found():
    changes = {("network_1", "RV"): dict(mean=math.nan)}
    table = metric_table(fake_metrics(changes=changes), ACDC)
    assert "–" in next(line for line in table.splitlines() if "network 1" in line)
    assert "nan" not in table
    lost = {("ensemble", "LV"): dict(mean=0.0, missed=2)}
    for preset, shown in (("transunet", "0.00"), ("ssl4mis", "–")):
        metrics = fake_metrics(changes=lost)
        metrics[1].convention["preset"] = preset
        row = next(line for line in metric_table(metrics, ACDC).splitlines() if "ensemble" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert (cells[4], cells[8]) == ("0.000", shown)
        assert (cells[5] == "–") == (shown == "–")  # nor has the mean over classes one
    for found, shown in ((0, "–"), (1, "0.00")):  # missed once, and absent or found without an error once
        metrics = fake_metrics(changes={("ensemble", "LV"): dict(mean=0.0, missed=1, found=found)})
        metrics[1].convention["preset"] = "ssl4mis"
        row = next(line for line in metric_table(metrics, ACDC).splitlines() if "ensemble" in line)
        assert row.strip("|").split("|")[8].strip() == shown


def test_medians_stand_below_the_means():
    table = metric_table(fake_metrics(changes={("ensemble", "RV"): dict(median=0.111)}), ACDC)
    rows = [line for line in table.splitlines() if "ensemble" in line]
    assert [row.split("|")[3].strip() for row in rows] == ["0.770", "0.111"]
    assert table.index("| model") < table.index("| median") < table.index(rows[1])


def test_classes_have_their_spread_over_volumes_where_the_lines_have_room():
    spread = {(m, c): dict(sd=0.123) for m in MODELS for c in ACDC}
    row = next(line for line in metric_table(fake_metrics(changes=spread), ACDC).splitlines() if "ensemble" in line)
    assert "0.770±0.12" in row
    assert "12.91±0.1" in row


def test_many_classes_give_one_table_per_metric_and_no_line_too_wide():
    metrics = [fake_metric(n, {m: [0.5] * 8 for m in MODELS}, classes=SYNAPSE) for n in ("DSC", "HD95")]
    table = metric_table(metrics, SYNAPSE)
    assert max(map(len, table.splitlines())) <= 110
    assert sum("Kid(L)" in line for line in table.splitlines()) == 2


def test_other_metrics_are_passed_over():
    assert metric_table([SimpleNamespace(results=[])], ACDC) == ""


# the files


def test_json_and_csv_agree_and_nan_is_null_and_empty(tmp_path):
    metrics = fake_metrics()
    metrics[1].cases[0].update(value=math.nan, status="missed", skipped=True)
    write_metrics(tmp_path / "out" / "metrics", metrics, dict(seed=np.int64(3)))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["header"] == {"seed": 3}
    assert found["conventions"]["HD95"]["unit"] == "voxels"
    assert found["summary"]["DSC"]["ensemble"]["mean"]["volumes"] == 2
    with open(tmp_path / "out" / "metrics.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(found["cases"]) == 2 * 3 * 3
    for row, case in zip(rows, found["cases"], strict=True):
        assert (row["case"], row["model"], row["class"]) == (case["case"], case["model"], case["class"])
        for name in ("DSC", "HD95"):
            assert (float(row[name]) if row[name] else None) == case[name]
    assert found["cases"][0]["HD95"] is None
    assert found["cases"][0]["HD95_status"] == "missed"
    assert found["cases"][0]["HD95_skipped"] is True
    names = ["metrics.csv", "metrics.json", "metrics_summary.csv"]
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == names


def test_the_summary_is_a_table_too_and_holds_what_ones_own_metrics_return(tmp_path):
    own = {"confusion/ensemble/A_as_B": 0.25, "count": np.int64(3), "matrix": np.array([[1.0, np.nan]])}
    metrics = fake_metrics(changes={("ensemble", "RV"): dict(sd=0.1)})
    write_metrics(tmp_path / "m", metrics, {}, {"ensemble/DSC": 0.821, "ensemble/DSC_RV": 0.77, **own})
    assert json.loads((tmp_path / "m.json").read_text())["values"]["confusion/ensemble/A_as_B"] == 0.25
    assert json.loads((tmp_path / "m.json").read_text())["values"]["matrix"] == [[1.0, None]]
    with open(tmp_path / "m_summary.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * 3 * 4 + 3
    row = next(r for r in rows if (r["metric"], r["model"], r["class"]) == ("DSC", "ensemble", "RV"))
    assert [float(row[k]) for k in ("mean", "sd", "median", "volumes", "missed")] == [0.77, 0.1, 0.77, 2, 0]
    assert [(r["metric"], float(r["mean"]), r["model"]) for r in rows[-3:-1]] == [
        (k, v, "") for k, v in [*own.items()][:2]
    ]
    assert rows[-1]["mean"] == "[[1.0, None]]"


def test_no_spreadsheet_runs_a_cell_and_markdown_shows_names_as_they_are(tmp_path):
    metrics = fake_metrics()
    for metric in metrics:
        metric.cases[0]["case"] = "=1+1"
    (tmp_path / "half_summary.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_metrics(tmp_path / "half", metrics, {})
    assert not (tmp_path / "half.json").exists()  # by which a comparison knows that all are there
    _, path, _ = write_metrics(tmp_path / "metrics", metrics, {})
    assert "\n'=1+1,network_1,RV,0.75" in path.read_text()
    assert csv_cell(-0.5) == -0.5
    for text in ("=1+1", "'=1+1", "-a", "a-", "'", "it's", ""):
        assert csv_text(csv_cell(text)) == text
    assert escaped("a_b|c_ [x](y) <b> 0.1 < 0.2\n# z") == r"a_b\|c\_ \[x\](y) \<b> 0.1 < 0.2 # z"
    assert escaped("1. x") == r"1\. x"


def test_a_terminal_shows_the_code_of_a_character_that_it_lacks(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    main_guard(lambda: print("0.5 ± 0.1"))()
    terminal.flush()
    assert terminal.buffer.getvalue().strip() == rb"0.5 \xb1 0.1"


def test_no_name_steers_the_terminal_that_a_mistake_is_shown_on(capsys):
    def mistake():
        raise InputError(["\x1b[31mred\r\n: no such case", "ünïcode 路 stays"])

    with pytest.raises(SystemExit):
        main_guard(mistake)()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: 2 problems:", r"  - \x1b[31mred\r\n: no such case", "  - ünïcode 路 stays"]
    assert list(said({"a\x1bb": [("odd", "")]})) == [r"odd: a\x1bb"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        getattr(torch, "OutOfMemoryError", RuntimeError)("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has"),
        RuntimeError("could not execute a primitive"),
    ],
    ids=["Python", "CPU", "GPU", "oneDNN"],
)
def test_too_little_memory_is_said_in_one_line(error, capsys):
    def act():
        raise error

    with pytest.raises(SystemExit) as end:
        main_guard(act)()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    words = str(error).split("\n")[0] or "MemoryError"
    assert line.startswith(f"error: too little memory, it seems: {words}")
    assert "batch_size" in line
    error = RuntimeError("a tensor of another shape")
    with pytest.raises(RuntimeError, match="another shape"):
        main_guard(act)()


def test_rows_set_the_metrics_side_by_side():
    row = metric_rows(fake_metrics())[0]
    assert (row["case"], row["model"], row["class"], row["DSC"], row["HD95"]) == (
        "case1", "network_1", "RV", 0.75, 12.914,
    )  # fmt: skip


def test_tables_of_a_test_that_was_cut_short_are_not_taken_for_the_one_before(tmp_path, monkeypatch):
    metrics = fake_metrics()
    files = write_metrics(tmp_path / "metrics", metrics, {})
    monkeypatch.setattr("cmems.visualization.tables._summary_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_metrics(tmp_path / "metrics", metrics, {})
    assert [path.is_file() for path in files] == [False, True, True]


def test_a_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(AttributeError):
        write_png(tmp_path / "a.png", "not an image")
    with pytest.raises(IsADirectoryError) as refused, whole_file(tmp_path) as part:
        part.write_text("x")
    assert refused.value.filename == str(tmp_path)  # not the file that was written aside
    assert list(tmp_path.iterdir()) == []


# the panels


def columns_of(sheet, columns):
    """Cut a sheet into its columns, without title and legend."""
    return np.array_split(sheet[56:-40], columns, axis=1)


def test_organs_have_their_class_colour_in_the_reference_and_not_on_the_image():
    image, reference, *_ = columns_of(panel(fake_sample(), classes=ACDC), 5)
    for color in class_colors(3):
        assert count(reference, color) > 200
        assert count(image, color) == 0


def test_a_class_that_a_network_misses_is_absent_from_its_column_alone():
    sample = fake_sample(label=False)
    sample["predictions"]["network_2"][sample["predictions"]["network_2"] == 1] = 0
    columns = columns_of(panel(sample, classes=ACDC), 4)
    rv = class_colors(3)[0]
    assert [count(column, rv) > 0 for column in columns] == [False, True, False, True]


def test_without_a_reference_there_is_no_reference_column():
    with_reference, without = panel(fake_sample(), classes=ACDC), panel(fake_sample(label=False), classes=ACDC)
    assert without.shape[1] < with_reference.shape[1]
    assert without.dtype == np.uint8


def test_anisotropic_pixels_keep_their_aspect():
    from cmems.visualization.panels import _tile_size

    assert _tile_size(50, 100, (5.0, 2.0, 1.0)) == (288, 288)
    assert _tile_size(50, 100, (5.0, 1.0, 1.0)) == (144, 288)


def test_each_part_of_the_labelled_range_shows_its_slice_of_most_disagreement():
    from cmems.visualization.panels import choose_slices

    reference = np.zeros((12, 8, 8), np.uint8)
    reference[2:11, 2:6, 2:6] = 1
    prediction = reference.copy()
    prediction[3] = prediction[6] = prediction[10] = 0
    prediction[0, 0, 0] = 1  # outside the labelled range
    assert choose_slices(dict(reference=reference, ensemble=prediction), 3) == [3, 6, 10]


def test_a_reference_that_is_unknown_in_parts_shows_the_rest():
    sample = fake_sample()
    sample["label"][:, 50:] = 255
    known = dict(sample, label=np.where(sample["label"] == 255, 0, sample["label"]))
    a, b = (columns_of(panel(each, slices=[2]), 5)[1] for each in (sample, known))
    assert np.array_equal(a, b)


def test_slices_on_request_and_an_empty_volume_are_drawn():
    sample = fake_sample()
    assert panel(sample, slices=[2], classes=ACDC).shape[0] < panel(sample, slices=[1, 2], classes=ACDC).shape[0]
    for name in sample["predictions"]:
        sample["predictions"][name] = np.zeros_like(sample["label"])
    sample["label"] = np.zeros_like(sample["label"])
    assert panel(sample, classes=ACDC).shape[2] == 3


def test_an_affine_that_grows_to_right_and_anterior_is_turned_to_the_radiological_view():
    sample = fake_sample()
    sample["affine"] = np.diag([1.4, 1.4, 10, 1])
    turned = columns_of(panel(sample, slices=[2], classes=ACDC), 5)[1]
    stored = columns_of(panel(fake_sample(), slices=[2], classes=ACDC), 5)[1]

    def center(tile):
        return np.argwhere((tile == class_colors(1)[0]).all(-1))[:, 1].mean()

    assert center(stored) < turned.shape[1] / 2 < center(turned)


def test_an_affine_that_contradicts_the_spacing_turns_nothing():
    from cmems.visualization.panels import orientation

    assert orientation(np.eye(4), (10.0, 1.4, 1.4)) == ((slice(None), slice(None)), None)
    assert orientation(np.eye(4), (10.0, 1.0, 1.0))[1] == "RLAP"


def test_the_dice_below_a_tile_is_that_of_its_slice():
    from cmems.visualization.panels import _scores

    found, reference = np.zeros((2, 10, 10), np.uint8)
    reference[:4], found[2:4] = 1, 1  # 20 of 40 pixels found: 2*20 / (20+40)
    reference[9], found[9] = 2, 2
    texts = [text for text, _ in _scores(found, reference, ACDC, class_colors(3))]
    assert texts == ["DSC 0.83", "RV 0.67", "Myo 1.00"]


def test_colours_of_classes_differ_however_many():
    assert len(set(class_colors(20))) == 20


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
VISIONS = dict(
    all=np.eye(3),
    protan=[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    deutan=[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    tritan=[[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


def oklab(rgb, vision):
    rgb = np.asarray(rgb) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(VISIONS[vision])
    lms = linear.clip(0, 1) @ np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]).T
    return np.cbrt(lms) @ np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]).T


@pytest.mark.parametrize("vision", VISIONS)
def test_the_first_eight_colours_are_told_apart_by_every_common_vision(vision):
    colors = oklab(class_colors(8), vision)
    apart = np.linalg.norm(colors[:, None] - colors, axis=-1) + np.eye(8)
    assert apart.min() > 0.1


def test_an_outline_stands_between_black_lines_on_any_grey():
    from cmems.visualization.panels import overlay

    labels = np.zeros((30, 30), np.uint8)
    labels[5:25, 5:25] = 1
    green = class_colors(4)[3]
    drawn = overlay(np.full((30, 30, 3), 150, np.uint8), labels, [green], fill=0)
    across = [tuple(map(int, pixel)) for pixel in drawn[15, 3:10]]
    assert across == [(150,) * 3, (0,) * 3, green, green, (0,) * 3, (150,) * 3, (150,) * 3]
    assert count(drawn[:1], (0, 0, 0)) == 0


def test_a_panel_tells_the_slice_the_length_of_its_bar_and_the_dice_of_the_volume(monkeypatch):
    from cmems.visualization.panels import ImageDraw, scale_length

    texts = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, text, *a, **k: texts.append(text) or draw(self, xy, text, *a, **k)
    )
    sample = fake_sample()
    sample["label"][:, 100:] = 255
    for found in sample["predictions"].values():
        found[:, 110:] = 1  # where nothing is known nothing counts
    panel(sample, slices=[2], classes=ACDC)
    assert "slice 3 of 6, index 2" in texts
    assert "network 2: volume 1.00" in texts
    assert "20 mm" in texts
    assert [scale_length(w) for w in (100, 70, 40, 6.5)] == [20, 20, 10, 1]


# the curves


def write_run(work_dir, stamp, rows, name="scalars.json"):
    folder = work_dir / stamp / "vis_data"
    folder.mkdir(parents=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def train_rows(steps, loss):
    return [
        dict(step=s, loss=loss, loss_cmip=loss / 2, share_confident=0.9, share_background=0.95, share_RV=0.05)
        for s in steps
    ]


def test_a_resumed_run_continues_the_history_and_replaces_what_was_lost(tmp_path):
    write_run(tmp_path, "20240101_000000", [*train_rows(range(10, 70, 10), 1.0), {"step": 60, "ensemble/DSC": 0.2}])
    write_run(tmp_path, "20240102_000000", [*train_rows(range(50, 60, 10), 2.0), {"step": 50, "ensemble/DSC": 0.4}])
    history = read_history(tmp_path)
    assert [(row["step"], row["loss"]) for row in history] == [
        (10, 1.0), (20, 1.0), (30, 1.0), (40, 1.0), (50, 2.0),
    ]  # fmt: skip
    assert [row.get("ensemble/DSC") for row in history] == [None] * 4 + [0.4]


def test_the_history_of_a_run_is_not_that_of_a_run_in_a_folder_below(tmp_path):
    write_run(tmp_path, "20240101_000000", train_rows([10], 1.0))
    write_run(tmp_path / "later", "20240102_000000", train_rows([10, 20], 2.0))
    assert [row["loss"] for row in read_history(tmp_path)] == [1.0]
    assert len(read_history(tmp_path / "later")) == 2


def test_half_lines_and_validations_outside_training_are_not_history(tmp_path):
    file = write_run(tmp_path, "20240101_000000", [*train_rows([10], 1.0), {"step": 0, "ensemble/DSC": 0.2}])
    with open(file, "a") as handle:
        handle.write('{"step": 20, "lo')
    assert [row["step"] for row in read_history(tmp_path)] == [10]
    assert read_history(tmp_path / "nowhere") == []


def test_without_scalars_json_the_timestamped_file_is_read(tmp_path):
    write_run(tmp_path, "20240101_000000", train_rows([10, 20], 1.0), name="20240101_000000.json")
    assert len(read_history(tmp_path)) == 2


def test_curves_are_drawn_from_a_merged_history_and_from_rows_that_lack_keys(tmp_path):
    write_run(tmp_path, "20240101_000000", train_rows(range(10, 60, 10), 1.0))
    write_run(tmp_path, "20240102_000000", [*train_rows(range(40, 90, 10), 0.5), {"step": 80, "network_1/DSC": 0.4}])
    drawn = []
    for name, history in (("full", read_history(tmp_path)), ("nothing", []), ("odd", [dict(step=1, loss=math.nan)])):
        with Image.open(plot_curves(history, tmp_path / f"{name}.png")) as image:
            assert image.format == "PNG"
            drawn.append(np.asarray(image.convert("RGB")))
    assert (drawn[0] != drawn[1]).any()
