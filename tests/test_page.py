"""A run's page: whole in one file, true to the numbers, and usable in a real browser."""

import base64
import importlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Browser, find_chromium
from conftest import unlabel
from PIL import Image
from test_visualization import ACDC, fake_metric, fake_sample, train_rows

from cmems.apis import test as evaluate
from cmems.apis import train
from cmems.apis.run_report import _without_folders, report_run
from cmems.cli import main
from cmems.errors import InputError
from cmems.visualization.colors import class_colors
from cmems.visualization.page import small, write_page
from cmems.visualization.page.cases import runs

HOSTILE = """</script><img src=x onerror="document.title='owned'"><b>'&"""
MODELS = ("network_1", "network_2", "ensemble")


def trust(case, agreement=0.8):
    row = dict(scan=case, agreement=agreement, views_agreement=float("nan"), softmax=0.9, ml=12.5, components=1)
    return [dict(row, **{"class": c, "note": "not found" if c == "RV" else ""}) for c in ACDC]


def write(path, cases=("a", "b"), megabytes=15, **changes):
    """Write a page of fake volumes, of which each is shown."""
    metrics = [fake_metric(n, {m: (0.5, v, v) for m in MODELS}) for n, v in (("DSC", 0.75), ("HD95", 12.0))]
    for metric in metrics:
        for row in metric.cases:
            row["case"] = cases[int(row["case"] == "case2")]
        metric.cases[-1]["status"] = "missed"
    samples = [dict(fake_sample(), case=case) for case in cases]
    doubt = np.linspace(0, 1, samples[0]["label"].size).reshape(samples[0]["label"].shape)
    settings = dict(
        title="a run",
        facts={"data set": "acdc"},
        notes=[],
        classes=ACDC,
        models=MODELS,
        metrics=metrics,
        trust=[row for case in cases for row in trust(case)],
        shown={"Worst": [small(sample, doubt) for sample in samples]},
        histories={"a run": train_rows(range(10, 300, 10), 1.0)},
        texts={"Config": "model = dict()"},
        megabytes=megabytes,
    )
    return write_page(path, **dict(settings, **changes))


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class Tags(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


# the file


def test_no_name_becomes_markup_and_nothing_is_asked_from_elsewhere(tmp_path):
    page = tmp_path / "page.html"
    classes = ("RV", "<i>Myo", "LV\x1b\udc80")
    write(page, (HOSTILE, "b"), title=HOSTILE, facts={HOSTILE: HOSTILE}, notes=[HOSTILE], texts={HOSTILE: HOSTILE},
          histories={HOSTILE: train_rows(range(10, 40, 10), 1.0), "b": []}, classes=classes, metrics=[],
          trust=[dict(row, scan=HOSTILE, note=HOSTILE) for row in trust("b")])  # fmt: skip
    tags = Tags(page)
    assert [name for name, _ in tags.found].count("script") == 2
    assert not {"img", "i", "iframe", "object", "embed", "base", "form"} & {name for name, _ in tags.found}
    for name, attributes in tags.found:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        assert not {"src", "srcset", "action", "xlink:href"} & set(attributes)
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    assert "default-src 'none'" in next(a["content"] for n, a in tags.found if "content" in a and "http-equiv" in a)
    assert "url(" not in page.read_text()
    assert data_of(page)["cases"][0]["name"] == HOSTILE
    assert tags.text.count(HOSTILE) > 5


def test_a_page_holds_the_picture_of_what_was_learnt_from(tmp_path):
    Image.new("RGB", (60, 40), (10, 200, 30)).save(tmp_path / "exemplars.png")
    write(tmp_path / "page.html", learnt={f"What it learnt from: {HOSTILE}": tmp_path / "exemplars.png"})
    tags = Tags(tmp_path / "page.html")
    (picture,) = [a for name, a in tags.found if name == "img"]
    kind, packed = picture["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(packed))) as image:
        assert image.size == (60, 40)
        assert np.abs(np.array(image.getpixel((30, 20)), int) - (10, 200, 30)).max() < 12
    assert picture["alt"].startswith("The labelled slices")
    assert HOSTILE in tags.text


def test_a_page_has_every_class_model_and_case_in_its_tables(tmp_path):
    write(tmp_path / "page.html")
    tags = Tags(tmp_path / "page.html")
    for word in ("network 1", "ensemble", "RV", "0.750", "12.00", "not found", "DSC; higher is better", "none false"):
        assert word in tags.text
    labels = [a["aria-label"] for name, a in tags.found if name == "svg" and "aria-label" in a]
    assert any("medians of ensemble: RV 0.5, Myo 0.75, LV 0.75" in label for label in labels)
    assert any("RV ends at 5" in label for label in labels)  # percent of the pseudo-labels
    assert (tmp_path / "page.html").read_text().count(">missed</td>") == 1  # in place of the distance alone
    (case, _) = data_of(tmp_path / "page.html")["cases"]
    assert (case["slices"], case["bar"]["text"], case["letters"]) == (6, "20 mm", "RLAP")
    assert case["dsc"]["ensemble"] == dict(RV=0.5, Myo=0.75, LV=0.75, mean=pytest.approx(2 / 3))


def test_a_distance_to_what_was_not_found_is_not_the_best_of_all(tmp_path):
    metric = fake_metric("HD95", {"network_1": (12.0, 12.0, 12.0)})
    for row in metric.cases:
        row["case"] = "ab"[int(row["case"] == "case2")]
    metric.cases[-1].update(status="missed", value=0.0)
    write(tmp_path / "page.html", metrics=[metric], models=("network_1",))
    text = (tmp_path / "page.html").read_text()
    assert text.count('data-value="12">12.00</td>') == 2 + 5  # the means, and each class that was found
    for row in metric.cases:
        row.update(status="false", value=0.0)
    write(tmp_path / "page.html", metrics=[metric], models=("network_1",))
    assert "LV 0" not in (tmp_path / "page.html").read_text()
    assert "LV 12" in text


def test_a_case_opens_at_an_annotated_slice_near_its_middle(tmp_path):
    samples = [dict(fake_sample(), case=case) for case in "abc"]
    samples[0]["label"][[0, 2, 3, 5]] = 255
    samples[1]["label"][:] = 255
    del samples[2]["label"]
    write(tmp_path / "page.html", shown={"Worst": [small(sample) for sample in samples]})
    assert [case["start"] for case in data_of(tmp_path / "page.html")["cases"]] == [4, 3, 3]


def test_slices_are_left_out_until_the_page_fits_and_the_page_says_so(tmp_path):
    page = tmp_path / "page.html"
    assert write(page) == []
    most = page.stat().st_size - 0.4 * len(json.dumps(data_of(page)))
    left = write(page, megabytes=most / 1e6)
    assert page.stat().st_size < most
    assert len(left) == 2
    assert re.fullmatch(r"a: shown are [1-5] of its 6 slices", left[0])
    assert left[0] in Tags(page).text
    with pytest.raises(InputError, match="its tables and curves take more"):
        write(page, megabytes=0.01)


def test_a_mask_comes_back_from_its_runs():
    random = np.random.default_rng(0)
    mask = np.repeat(random.integers(0, 4, 40), random.integers(1, 900, 40)).astype(np.uint8)
    mask[:3] = 255
    found, code, at = [], base64.b64decode(runs(mask[None])), 0
    while at < len(code):
        label, length, shift = code[at], 0, 0
        at += 1
        while True:
            length |= (code[at] & 127) << shift
            shift += 7
            at += 1
            if code[at - 1] < 128:
                break
        found += [label] * length
    assert found == mask.tolist()


def test_what_is_shown_is_small_turned_as_radiologists_read_it_and_of_true_size():
    sample = fake_sample(shape=(6, 700, 600), spacing=(5.0, 0.5, 1.0))
    sample["affine"] = np.diag([1.0, 0.5, 5.0, 1.0])
    sample["label"][:, :2, :2] = 1
    sample["label"][:, -2:, -2:] = 255
    sample["predictions"]["ensemble"][:, -1:, -1:] = 2
    shown = small(sample)
    assert shown["image"].shape == (6, 256, 256)
    assert shown["mm"] == (350, 600)
    assert shown["masks"]["reference"][0, -1, -1] == 1
    assert shown["masks"]["reference"][0, 0, 0] == 255
    assert shown["doubt"] is None


# a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared_acdc):
    """The work directory of a training of one step, and its config."""
    from conftest import REPO, TINY

    root = tmp_path_factory.mktemp("finished")
    config = root / "tiny.py"
    config.write_text(TINY.format(repo=REPO, base="cmems/unet_acdc.py", data=prepared_acdc))
    train(str(config), str(root / "run"), cfg_options={"train_cfg.max_iters": 1})
    return SimpleNamespace(config=str(config), run=root / "run")


def test_a_page_says_of_a_run_what_evaluate_says(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cmems", "report", str(finished.run), "--out", str(tmp_path / "p.html")])
    main()
    assert f"{tmp_path}/p.html: the run's page" in capsys.readouterr().out.replace("\n", "")
    scores = evaluate(finished.config, str(finished.run / "best.pth"), work_dir=str(tmp_path / "test"))
    tags = Tags(tmp_path / "p.html")
    assert f"{scores['ensemble/DSC']:.3f}±" in tags.text
    assert f"{scores['ensemble/HD95']:.2f}±" in tags.text
    cases = data_of(tmp_path / "p.html")["cases"]
    assert {case["name"] for case in cases} == {"patient004_frame01", "patient004_frame02"}
    assert list(cases[0]["shown"][0]["masks"]) == ["reference", "network 1", "network 2", "ensemble"]
    assert all(len(case["shown"]) == 3 for case in cases)
    text = (tmp_path / "p.html").read_text()
    for folder in (str(tmp_path.parent), str(finished.run.parent)):
        assert folder not in text


def test_what_a_run_without_validation_keeps_is_enough_to_test_and_report_it(tiny_config, tmp_path):
    extra = "val_cfg = val_dataloader = val_evaluator = None\ntest_evaluator = [dict(type=t, preset='strict') for t in "
    config = tiny_config(extra=extra + "('DSC', 'HD95')]\n")
    train(config, str(tmp_path / "run"), cfg_options={"train_cfg.max_iters": 1})
    scores = evaluate(str(tmp_path / "run" / "tiny.py"), str(tmp_path / "run" / "last.pth"))
    text = Tags(report_run(tmp_path / "run")[0]).text
    assert f"{scores['ensemble/HD95']:.2f}±" in text
    assert "convention strict" in text
    assert "transunet" not in text


def test_cases_without_a_reference_and_training_cases_are_shown_by_doubt(finished, prepared_acdc, tmp_path):
    import shutil

    data = shutil.copytree(prepared_acdc, tmp_path / "data")
    options = dict(cfg_options=dict(data_root=str(data)), cases=1)
    unlabel(data, ["patient004_frame01"])
    page, _ = report_run(finished.run, tmp_path / "p.html", **options)
    assert "1 of 2 cases have no reference" in Tags(page).text
    assert [case["name"] for case in data_of(page)["cases"]] == ["patient004_frame02", "patient004_frame01"]
    unlabel(data, ["patient004_frame01", "patient004_frame02"])
    page, _ = report_run(finished.run, tmp_path / "p.html", **options)
    assert "no case of this split has a reference" in Tags(page).text
    assert [case["group"] for case in data_of(page)["cases"]] == ["All cases, most doubtful first"] * 2
    page, _ = report_run(finished.run, tmp_path / "p.html", split="train", **options)
    groups = data_of(page)["cases"]
    assert [case["group"] for case in groups] == ["Most doubtful", "Least doubtful"]
    assert groups[0]["size"][0] <= 40
    assert "reference" in groups[0]["shown"][0]["masks"]


def test_a_page_of_anothers_weights_says_so_and_a_page_is_replaced(finished, tmp_path):
    import shutil

    (tmp_path / "other").mkdir()
    weights = shutil.copy(finished.run / "last.pth", tmp_path / "other")
    for checkpoint, said in ((weights, True), (finished.run / "last.pth", False)):
        page, _ = report_run(finished.run, tmp_path / "p.html", checkpoint=str(checkpoint))
        assert ("the weights are not this run's: other/last.pth" in Tags(page).text) == said


def test_no_folder_is_on_a_page_whichever_way_it_was_named():
    named = dict(
        data_root="clinic/Jane/prepared",
        work_dir="/home/jane/w",
        uri="sqlite:////home/jane/w/mlflow.db",
        config="../Jane/prepared",
        there=["C:\\\\Jane\\\\w", "~/jane/w"],
        save_best="ensemble/DSC",
        load_from="cmems::cmems/unet_acdc",
    )
    shown = _without_folders(named)
    assert "jane" not in json.dumps(shown).casefold()
    assert (shown["data_root"], shown["uri"]) == ("…/prepared", "…/mlflow.db")
    assert (shown["save_best"], shown["load_from"]) == (named["save_best"], named["load_from"])


def test_rounds_are_one_run_of_several_curves(finished, tmp_path):
    import shutil

    for k in (1, 2):
        shutil.copytree(finished.run, tmp_path / "rounds" / f"round_{k}")
    page, _ = report_run(tmp_path / "rounds")
    assert page == tmp_path / "rounds" / "report.html"
    tags = Tags(page)
    assert "round 1" in tags.text
    assert "round 2" in tags.text
    assert "last.pth, 1 of" in tags.text
    record = tmp_path / "rounds" / "round_1" / "run.json"
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))  # trained anew: 2 is stale
    assert "round 2" not in Tags(report_run(tmp_path / "rounds")[0]).text


def test_a_run_with_a_component_of_ones_own_is_shown_and_no_module_is_taken_for_its_config(
    tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    module, run = tmp_path / "shown_noise.py", tmp_path / "run"
    module.write_text(
        "from cmems.registry import PERTURBATIONS\n"
        "@PERTURBATIONS.register_module(force=True)\n"
        "class ShownNoise:\n"
        "    def __call__(self, images, stream):\n"
        "        return images\n"
    )
    extra = 'custom_imports = dict(imports=["shown_noise"])\nmodel["strong"] = [dict(type="ShownNoise")]\n'
    train(tiny_config(extra=extra), str(run), cfg_options={"train_cfg.max_iters": 1})

    def show():
        monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in (str(tmp_path), str(run))])
        monkeypatch.delitem(sys.modules, "shown_noise", raising=False)
        importlib.invalidate_caches()
        return report_run(run, tmp_path / "p.html", cases=0)

    show()
    moved = module.rename(tmp_path / "elsewhere.txt")
    with pytest.raises(InputError, match=r"tiny\.py: ModuleNotFoundError: No module named 'shown_noise'; put a module"):
        show()
    moved.rename(run / "shown_noise.py")  # newer than the config
    show()
    (run / "tiny.py").unlink()
    with pytest.raises(InputError, match=r"the run's config is not there: expected tiny\.py beside run\.json"):
        show()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("RUN", "--seeds", "1"), "is a run; --seeds: of a suite alone"),
        (("paper_table2", "--split", "val"), "is a suite; --split: of a run alone"),
        (("RUN", "--split", "foo"), "expected one of train, val, test"),
        (("RUN", "--metrics-preset", "foo"), "known presets"),
        (("RUN", "--split", "train", "--metrics-preset", "nan"), "training cases are not measured"),
        (("RUN", "--cases", "-1"), "--cases"),
        (("RUN", "--megabytes", "nan"), "expected 0 or more, and more than 0; got 4, nan"),
        (("RUN", "--checkpoint", "nowhere.pth"), "nowhere.pth"),
        (("RUN", "--cfg-options", "train_dataloader.data_root=nowhere"), "nowhere: no such folder"),
        (("RUN", "--cfg-options", "val_dataloader.dataset.data_root=nowhere"), "nowhere: no such folder"),
        (("RUN", "--out", "."), "--out .: is a folder; expected the name of a file"),
        (("RUN", "--out", "OTHER"), "other.html: is there, and is not what this command writes; name another"),
        (("RUN", "--out", "RUN/last.pth"), "last.pth: is there, and is not what this command writes; name another"),
    ],
)
def test_a_wrong_word_ends_in_one_line_and_no_page(words, message, finished, tmp_path, monkeypatch, capsys):
    run, other = str(finished.run), tmp_path / "other.html"
    other.write_text("<!DOCTYPE html>\n<p>notes</p>")
    out = [] if {"paper_table2", "--out"} & set(words) else ["--out", str(tmp_path / "p.html")]
    monkeypatch.setattr(
        "sys.argv", ["cmems", "report", *(w.replace("RUN", run).replace("OTHER", str(other)) for w in words), *out]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


# in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium is here")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page with a case whose name would run a script, were it markup."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    write(path, (HOSTILE, "b"), title=HOSTILE)
    return path


@pytest.fixture
def opened(browser, hostile):
    browser("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    browser("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="light")])
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(hostile)
    return browser


WHERE = "document.getElementById('where').textContent"


def test_a_browser_has_nothing_to_complain_of_and_asks_for_nothing(opened, hostile):
    for key in ("ArrowRight", "ArrowLeft"):
        opened.press(key)
    assert opened.run("document.title").startswith("</script>")
    assert opened.run("document.querySelector('#case').options[0].textContent") == f"{HOSTILE}, DSC 0.67"
    assert opened.complaints == []
    assert opened.requests == [hostile.resolve().as_uri()]


def test_keys_wheel_finger_and_slider_page_through_the_slices(opened):
    assert opened.run(WHERE) == "slice 4 of 6, index 3"
    opened.press("ArrowRight")  # nothing has the focus
    assert opened.run(WHERE) == "slice 5 of 6, index 4"
    opened.run("document.getElementById('stage').focus()")
    for key, where in (("ArrowUp", 4), ("Home", 1), ("ArrowLeft", 1), ("End", 6), ("PageDown", 4)):
        opened.press(key)
        assert opened.run(WHERE) == f"slice {where} of 6, index {where - 1}"
    assert opened.run("document.getElementById('case').value") == "1"
    opened.run("document.getElementById('stage').scrollIntoView()")
    x, y = opened.run("(r => [r.x + 200, r.y + 100])(document.getElementById('stage').getBoundingClientRect())")
    opened("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=100)
    opened.until(f"{WHERE} === 'slice 5 of 6, index 4'")
    opened("Input.dispatchTouchEvent", type="touchStart", touchPoints=[dict(x=x, y=y)])
    for step in range(1, 8):
        opened("Input.dispatchTouchEvent", type="touchMove", touchPoints=[dict(x=x - 12 * step, y=y)])
    opened("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    opened.until(f"{WHERE} === 'slice 2 of 6, index 1'")
    opened.run("s = document.getElementById('slice'), s.value = 5, s.dispatchEvent(new Event('input'))")
    assert opened.run(WHERE) == "slice 6 of 6, index 5"


def colors_of(opened, tile):
    """Count a tile's pixels by the class whose very colour they have."""
    script = """(() => {
      const canvas = [...document.querySelectorAll('#stage canvas')][%d], found = {};
      const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < pixels.length; i += 4) {
        const key = pixels.slice(i, i + 3).join(); found[key] = (found[key] ?? 0) + 1; }
      return found; })()"""
    found = opened.run(script % tile)
    return [found.get(",".join(map(str, color)), 0) for color in class_colors(3)]


def test_classes_are_outlined_in_their_colours_and_hidden_on_request(opened):
    image, reference, *_ = (colors_of(opened, tile) for tile in range(2))
    assert image == [0, 0, 0]
    assert min(reference) > 50
    opened.run("document.querySelector('[value=contour]').click()")
    assert min(colors_of(opened, 1)) > 50
    opened.run("document.querySelector('#classes input').click()")
    hidden = colors_of(opened, 1)
    assert hidden[0] == 0
    assert min(hidden[1:]) > 50
    opened.run("document.querySelector('[value=none]').click()")
    assert colors_of(opened, 1) == [0, 0, 0]


def test_light_and_dark_follow_the_system_until_the_button_is_pressed(opened):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.run(paper)
    opened("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="dark")])
    dark = opened.run(paper)
    assert dark != light
    says = "document.getElementById('theme').textContent"
    opened.until(f"{says} === 'Light theme'")  # what it does
    opened.run("document.getElementById('theme').click()")
    assert opened.run(paper) == light
    assert opened.run(says) == "Dark theme"


def test_a_narrow_screen_scrolls_down_alone(opened):
    opened("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    opened.until("innerWidth === 390")
    assert opened.run("document.documentElement.scrollWidth") == 390
    assert opened.run("document.querySelector('#stage canvas').clientWidth") > 100


def test_everything_that_is_read_or_pressed_has_a_name(opened):
    nodes = opened("Accessibility.getFullAXTree")["nodes"]
    named = {}
    for node in nodes:
        if not node.get("ignored"):
            named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", "").strip())
    for role in (
        "image",
        "button",
        "slider",
        "combobox",
        "radio",
        "checkbox",
        "region",
        "group",
        "table",
        "navigation",
    ):
        assert named.get(role), role
        assert all(named[role]), role
    assert "reference, slice 4 of 6, index 3: RV, Myo, LV" in named["image"]
    opened.press("Tab")
    assert opened.run("document.activeElement.textContent") == "Skip to the cases"


def test_a_heading_sorts_and_a_name_opens_its_case(opened):
    opened.run("document.querySelectorAll('.sort')[0].click()")
    assert opened.run("document.querySelector('.cases th[aria-sort]').ariaSort") == "ascending"
    opened.run("document.querySelectorAll('.show')[1].click()")
    assert opened.run("document.getElementById('case').value") in ("0", "1")
    assert opened.run("document.activeElement.id") == "stage"
