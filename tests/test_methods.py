"""Every method trains, resumes, and does what its paper says."""

import functools
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from test_method import batch, learner, slow_segmentation_loss
from torch.nn import functional as F

from cmems.apis import load_config, train
from cmems.apis.config import count_steps
from cmems.datasets.phantom import make_abdomen, make_cardiac
from cmems.datasets.prepare import prepare
from cmems.datasets.prepared import PreparedDataset
from cmems.engine.precision import AutocastOptimWrapper
from cmems.errors import InputError
from cmems.models.learners import StepViews
from cmems.models.losses import Objective, SoftmaxMSE
from cmems.models.losses.auxiliary import nt_xent, prototype_contrast
from cmems.models.perturbations import CutMix, Perturbation
from cmems.registry import CONSISTENCY_LOSSES, LOSSES, READERS
from cmems.seeding import Draws

REPO = Path(__file__).parents[1]
METHODS = sorted(p.stem for p in (REPO / "configs" / "_base_" / "methods").glob("*.py"))
CONFIGS = sorted(p for p in (REPO / "configs").glob("*/*.py") if p.parent.name != "_base_")
OURS = ("cmems_plus", "second_round")  # what we add; not a method of the comparison
ALONE = ("GlobalContrast", "LocalContrast", "CopyPaste", "DeepSupervision", "PrototypeContrast")
OBJECTIVES = dict(
    Supervised=dict(type="Supervised", source="exemplar"),
    Consistency=dict(type="Consistency", student="strong", teacher="cross"),
    CopyPaste=dict(type="CopyPaste", labeled="exemplar"),
    DeepSupervision=dict(type="DeepSupervision", source="unlabeled", teacher="ema"),
    PrototypeContrast=dict(type="PrototypeContrast", source="exemplar"),
    GlobalContrast=dict(type="GlobalContrast"),
    LocalContrast=dict(type="LocalContrast"),
)
SMALL = dict(
    UNet=dict(channels=(4, 4, 8, 8, 8)),
    MTUNet=dict(width=1 / 16),
    SwinUNet=dict(embed_dim=8, heads=(1, 1, 1, 1)),
)


@functools.cache
def narrow(method, num_classes=4):
    """The networks of a method, small."""
    networks = load_config(next((REPO / "configs" / method).glob("*.py"))).model.backbone
    if isinstance(networks, list):
        return [dict(network, **SMALL[network["type"]], num_classes=num_classes) for network in networks]
    return dict(SMALL[networks["type"]], num_classes=num_classes)


def tiny_method(method, tiny_config, extra=""):
    """Write a tiny config of a method: its own networks, small."""
    (path,) = (REPO / "configs" / method).glob("*_acdc.py")
    return tiny_config(f"{method}/{path.name}", extra=f"model = dict(backbone={narrow(method)!r})\n" + extra)


def counted(path, options=None):
    config = load_config(path, options)
    count_steps(config)
    return config


def weights(path):
    return torch.load(path / "last.pth", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "dataset", ["acdc", "acdc_128", "synapse", "synapse_128", "phantom_cardiac", "phantom_abdomen"]
)
def test_methods_share_data_perturbations_and_training(dataset):
    shared = (
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "randomness",
        "default_hooks",
        "val_dataloader",
        "test_evaluator",
    )
    ours = load_config(REPO / f"configs/cmems/unet_{dataset}.py")
    others = (REPO / "configs").glob(f"*/*unet_{dataset}.py")
    others = [p for p in others if p.parent.name not in ("cmems", *OURS)]
    assert len(others) >= len([method for method in METHODS if method not in OURS])
    for path in others:
        config = load_config(path)
        data = config.train_dataloader
        data.pop("labeled", None)  # of full supervision
        assert data == ours.train_dataloader, path
        assert [k for k in shared if config.get(k) != ours.get(k)] == [], path
        same = ("weak", "feature") if path.stem.startswith("mt_unet") else ("weak", "feature", "strong")
        assert [k for k in same if config.model.get(k) != ours.model.get(k)] == [], path


@pytest.mark.parametrize("method", [method for method in METHODS if method != "second_round"])
def test_a_method_trains_and_resumes_to_the_same_bits(method, tiny_config, tmp_path):
    config = tiny_method(method, tiny_config, "val_dataloader = val_cfg = val_evaluator = None\n")
    train(config, str(tmp_path / "whole"))
    # A share of the steps is counted of the whole training: a run that stops early must count the same.
    steps = {
        f"model.objectives.{i}.{key}": objective[key]
        for i, objective in enumerate(counted(config).model.objectives)
        for key in ("ramp_up", "begin", "end")
        if key in objective
    }
    train(config, str(tmp_path / "halves"), cfg_options={**steps, "train_cfg.max_iters": 3})
    train(config, str(tmp_path / "halves"), resume=True, cfg_options=steps)
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    # The end of a training measures BatchNorm's statistics, which a teacher in training mode copies but does not use.
    unused = ("running_mean", "running_var", "num_batches_tracked")
    compared = [k for k in whole if not (k.startswith("teachers") and k.endswith(unused))]
    assert all(torch.equal(whole[k], halves[k]) for k in compared)
    assert all(v.isfinite().all() for v in whole.values())


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Both phantoms, prepared, with a slice that holds every class: ``{family: (folder, case, slice)}``."""
    root, found = tmp_path_factory.mktemp("phantoms"), {}
    for family, make in (("acdc", make_cardiac), ("synapse", make_abdomen)):
        prepare(
            READERS.get(family)(make(str(root / f"raw_{family}"), train=2, val=1, test=1)),
            root / family,
            size=32,
            workers=1,
        )
        ((case, index),) = PreparedDataset(root / family).eligible_exemplars(1)
        found[family] = (root / family, case, index)
    return found


def masks(data):
    """Write a mask for each training case, as a first round would; return their folder."""
    folder = data.parent / f"{data.name}_masks"
    folder.mkdir(exist_ok=True)
    for case in PreparedDataset(data).cases("train"):
        entry = PreparedDataset(data).case(case)
        mask = np.zeros(entry["shape"][::-1], np.uint8)
        mask[10:20, 10:20] = 1
        nib.save(nib.Nifti1Image(mask, np.asarray(entry["affine"])), folder / f"{case}.nii.gz")
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_trains_two_steps_on_a_phantom(path, phantoms, tmp_path):
    family = "acdc" if "acdc" in path.stem or "cardiac" in path.stem else "synapse"
    data, case, index = phantoms[family]
    config, cases = tmp_path / "two.py", "1case" in path.parent.name  # trains on whole cases, which are not here
    config.write_text(
        f"_base_ = {str(path)!r}\n"
        f"train_dataloader = dict(data_root={str(data)!r}, "
        f"exemplar_slice=dict(case={case!r}, slice={index}{', _delete_=True' * cases}))\n"
        "for source in ('exemplar', 'synthetic', 'unlabeled'):\n"
        "    train_dataloader[source] = dict(batch_size=2)\n"
        + "train_dataloader['labeled_cases'] = []\n" * cases
        + (f"train_dataloader['static'] = dict(folder={str(masks(data))!r})\n" if "round" in path.stem else "")
        + f"model = dict(backbone={narrow(path.parent.name, 4 if family == 'acdc' else 9)!r})\n"
        + "train_cfg = dict(max_iters=2)\n"
        "val_dataloader = val_cfg = val_evaluator = None\n"
        "default_hooks = dict(curves=None, panels=None, progress=None)\n"
    )
    runner = train(str(config), str(tmp_path / "w"))
    assert runner.iter == 2
    assert all(v.isfinite().all() for v in runner.model.state_dict().values())


# Every objective passes the same tests


def an_objective(name, **settings):
    """A learner whose only objective is ``name``."""
    return learner(1 if name in ALONE else 2, [OBJECTIVES[name]], ema_momentum=0.9, **settings)


def term(model, data, step=3):
    """The objective's value in one training step."""
    (value,) = [v for k, v in model(batch=data, draws=Draws(0, step)).items() if k.startswith("loss")]
    return value


def test_the_suite_has_every_registered_objective():
    registered = {**LOSSES.module_dict, **CONSISTENCY_LOSSES.module_dict}
    assert set(OBJECTIVES) == {n for n, kind in registered.items() if issubclass(kind, Objective)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_finite_and_moves_every_network(name):
    model = an_objective(name)
    value = term(model, batch(n=4))
    assert value.isfinite()
    value.backward()
    for net in model.networks:
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_seed_and_step_decide_an_objective(name):
    first, again, other = (term(an_objective(name), batch(n=4), step) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_saved_objective_loads_and_answers_alike(name, tmp_path):
    model, other = an_objective(name), an_objective(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(term(model, batch(n=4)), term(other, batch(n=4)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_in_bfloat16_is_near_float32(name):
    whole = term(an_objective(name), batch(n=4))
    with torch.autocast("cpu", torch.bfloat16):
        half = term(an_objective(name), batch(n=4))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.1)


def test_views_are_sampled_in_float32_within_bfloat16_too():
    settings = dict(strong=[dict(type="ColorJitter", strength=1.0), dict(type="GaussianBlur")], ema_momentum=0.9)
    model, data = learner(2, [OBJECTIVES["Consistency"]], **settings), batch(n=4)
    seen = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            step = StepViews(model, data, Draws(0, 3))
            target = SimpleNamespace(labels=data["exemplar"]["labels"])
            strong = [step.images("unlabeled", view, 1) for view in ("weak", "strong", "strong2")]
            seen.append([*strong, step.labels("exemplar", 0), step._at_home(0, "exemplar", target)])
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*seen, strict=True))


def test_a_pseudo_label_made_first_leaves_a_step_in_bfloat16_its_gradients():
    model = learner(2, [OBJECTIVES["Consistency"], OBJECTIVES["Supervised"]])
    wrapper = AutocastOptimWrapper(device="cpu", optimizer=torch.optim.SGD(model.parameters(), 0.1))
    wrapper.enabled = True  # where it is emulated, too
    with wrapper.optim_context(model):
        losses = model(batch=batch(n=4), draws=Draws(0, 3))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    assert all(p.grad is not None for p in model.networks.parameters())


def test_local_contrast_trains_the_decoder_alone():
    model = learner(1, [OBJECTIVES["LocalContrast"]])
    model(batch=batch(n=4), draws=Draws(0, 0))["loss_local"].backward()
    (net,) = model.networks
    assert all(p.grad is None for p in net.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in net.decoder.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_on_a_size_that_does_not_fit_is_refused(name):
    with pytest.raises(InputError, match="multiples of 16"):
        term(an_objective(name), batch(size=40, n=4))


def test_the_log_of_a_step_names_the_terms_of_its_method():
    objectives = load_config(REPO / "configs/unimatch/unet_acdc.py").model.objectives
    model = learner(1, objectives)
    assert set(model(batch=batch(), draws=Draws(0, 0))) == {
        "loss_exemplar", "loss_synthetic", "loss_strong_self", "loss_strong2_self", "loss_feature_self",
    }  # fmt: skip


def test_shares_of_the_training_become_steps_and_a_share_beyond_is_refused():
    config = counted(REPO / "configs/glcl/unet_acdc_128.py", {"train_cfg.max_iters": 400})
    assert [(o.get("begin"), o.get("end")) for o in config.model.objectives] == [
        (None, 100), (100, 200), (200, None), (200, None),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"begin: expected steps .* or a share of them in \[0, 1\], got 1.5"):
        counted(REPO / "configs/elsnet/unet_acdc_128.py", {"model.objectives.4.begin": 1.5})


def test_a_factor_ramps_between_begin_and_end_alike_for_numbers_and_tensors():
    objective = Objective("loss_x", "unlabeled", weight=2.0, ramp_up=10, begin=5, end=40)
    expected = {5: 2 * 2.718281828**-5, 10: 2 * 2.718281828 ** (-5 * 0.25), 15: 2.0, 39: 2.0}
    for index, value in expected.items():
        assert objective.factor(index) == pytest.approx(value, rel=1e-6)
        assert float(objective.factor(torch.tensor(index))) == pytest.approx(value, rel=1e-6)
        assert not objective.idle(index)
    for index in (4, 40):
        assert objective.idle(index)
    ending = Objective("loss_x", "unlabeled", end=40)
    assert [ending.idle(index) for index in (0, 39, 40)] == [False, False, True]
    late = Objective("loss_x", "unlabeled", weight=2.0, begin=5)
    assert [late.idle(index) for index in (0, 4, 5, 900)] == [True, True, False, False]


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_mse_is_the_mean_squared_difference(weighted):
    logits, target = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    weight = torch.rand(2, 4, 5).double() if weighted else torch.ones(2, 4, 5).double()
    total = 0
    for b in range(2):
        for r in range(4):
            for c in range(5):
                z = logits[b, :, r, c].double().exp()
                total += weight[b, r, c] * ((z / z.sum() - target[b, :, r, c].double()) ** 2).mean()
    ours = SoftmaxMSE()(logits, target, weight.float() if weighted else None)
    torch.testing.assert_close(ours.double(), total / weight.sum(), rtol=1e-5, atol=0)


def test_prototype_contrast_is_its_equation_and_an_absent_class_takes_no_part():
    z = F.normalize(torch.randn(2, 4, 3, 3, dtype=torch.float64), dim=1)
    labels = torch.randint(0, 2, (2, 3, 3)) * 2  # class 1 is absent
    pixels = [(z[b, :, r, c], int(labels[b, r, c])) for b in range(2) for r in range(3) for c in range(3)]
    means = {k: torch.stack([v for v, y in pixels if y == k]).mean(0) for k in (0, 2)}
    means = {k: m / m.norm() for k, m in means.items()}
    slow = 0
    for v, y in pixels:
        scores = {k: (v @ m / 0.1).exp() for k, m in means.items()}
        slow = slow - (scores[y] / sum(scores.values())).log() / len(pixels)
    torch.testing.assert_close(prototype_contrast(z, labels, 3, 0.1), slow)


def test_what_looks_at_a_decoders_levels_refuses_a_network_that_hides_them():
    hidden, shown = torch.nn.Identity(), torch.nn.Identity()
    shown.level_channels = (4, 4)
    term = CONSISTENCY_LOSSES.build(dict(type="LocalContrast", level=1))
    term.bind([shown, shown])
    with pytest.raises(InputError, match="LocalContrast: Identity does not show its decoder's levels"):
        term.bind([shown, hidden])
    (absent,) = term.check(SimpleNamespace(strong=object()), {})
    assert absent == "LocalContrast: source 'unlabeled' is not in train_dataloader, which has: none"
    with pytest.raises(InputError, match="LocalContrast: cells: expected 2 or more, as one has no others, got 1"):
        CONSISTENCY_LOSSES.build(dict(type="LocalContrast", cells=1))


@pytest.mark.parametrize(
    "term",
    [
        dict(type="GlobalContrast"),
        dict(type="Consistency", student="strong", teacher="self", mix=dict(type="CutMix")),
        dict(type="Supervised", source="unlabeled", mixup=True),
    ],
)
def test_what_takes_images_of_a_batch_together_needs_two(term):
    built = CONSISTENCY_LOSSES.build(term) if term["type"] != "Supervised" else LOSSES.build(term)
    learner = SimpleNamespace(strong=object(), shared_weak=set(), num_networks=1)
    for size, problems in ((1, 1), (2, 0)):
        found = built.check(learner, dict(unlabeled=SimpleNamespace(batch_size=size)))
        assert len(found) == problems
        assert all("expected a batch_size of 2 or more of source 'unlabeled'" in each for each in found)


def test_nt_xent_is_its_equation():
    a, b = (F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1) for _ in range(2))
    z, slow = torch.cat([a, b]), 0
    for i in range(10):
        others = sum((z[i] @ z[j] / 0.2).exp() for j in range(10) if j != i)
        slow = slow - ((z[i] @ z[(i + 5) % 10] / 0.2).exp() / others).log() / 10
    torch.testing.assert_close(nt_xent(a, b, 0.2), slow)


def test_contrasts_sum_over_the_networks_those_of_cells_of_each_slice_or_of_whole_slices():
    """With heads that leave features as they are: of cells, a slice's own alone are compared; of slices, the batch."""
    maps = torch.randn(2, 6, 3, 4, 8, 8)  # network, which of its maps, slice, channels, height, width

    def levels(m, source, view, owner, frozen=False):
        return [maps[m, owner], maps[m, ("strong", "strong2").index(view)]]

    step, slow = SimpleNamespace(levels=levels, num_networks=2), dict(LocalContrast=0, GlobalContrast=0)
    for m in (0, 1):
        a, b = (F.normalize(F.adaptive_avg_pool2d(maps[m, v], 2).flatten(2).transpose(1, 2), dim=2) for v in (0, 1))
        slow["LocalContrast"] += sum(nt_xent(*each, 0.1) for each in zip(a, b, strict=True)) / 3
        slow["GlobalContrast"] += nt_xent(
            *(F.normalize(maps[m, 2 * (m + 1) + v].mean((2, 3)), dim=1) for v in (0, 1)), 0.1
        )
    for kind, options in (("LocalContrast", dict(level=1, cells=2)), ("GlobalContrast", {})):
        term = CONSISTENCY_LOSSES.build(dict(type=kind, **options))
        term.heads = torch.nn.ModuleList([torch.nn.Identity()] * 2)
        torch.testing.assert_close(term.value(step), slow[kind])


def test_prototype_contrast_sums_over_the_networks_on_their_finest_maps():
    maps, labels = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 3, 5, 6))
    step = SimpleNamespace(
        labels=lambda source, m: labels[m],
        levels=lambda m, source, view, owner: [None, maps[m]] if (view, owner) == ("weak", m) else None,
        num_classes=3,
    )
    term = LOSSES.build(dict(type="PrototypeContrast", source="exemplar", temperature=0.5))
    term.heads = torch.nn.ModuleList([torch.nn.Identity()] * 2)
    expected = sum(prototype_contrast(F.normalize(maps[m], dim=1), labels[m], 3, 0.5) for m in range(2))
    torch.testing.assert_close(term.value(step), expected)


def test_heads_fit_the_levels_that_they_read():
    net, x = SimpleNamespace(level_channels=(6, 5, 4, 3), num_classes=7), torch.rand(2, 6, 3, 2)
    levels = CONSISTENCY_LOSSES.build(dict(type="DeepSupervision", source="exemplar")).make(net)
    assert [head(x[:, :c]).shape for head, c in zip(levels, (6, 5, 4), strict=True)] == [(2, 7, 3, 2)] * 3
    assert LOSSES.build(dict(type="PrototypeContrast", source="exemplar")).make(net)(x[:, :3]).shape == (2, 32, 3, 2)
    assert CONSISTENCY_LOSSES.build(dict(type="GlobalContrast")).make(net)(x[..., 0, 0]).shape == (2, 128)
    assert CONSISTENCY_LOSSES.build(dict(type="LocalContrast", level=1)).make(net)(x[:, :5]).shape == (2, 64, 3, 2)


@pytest.mark.parametrize("mixup", [False, True])
def test_a_pixel_of_unknown_label_counts_as_background_as_much_as_told(mixup):
    images, logits, labels = torch.rand(3, 1, 4, 5), torch.randn(2, 3, 3, 4, 5), torch.randint(0, 3, (3, 4, 5))
    labels[torch.rand(3, 4, 5) < 0.4] = 255
    step = SimpleNamespace(
        num_networks=2,
        labels=lambda source, m: labels,
        unknown=lambda source, m: labels == 255,
        images=lambda source, view, m: images,
        draws=SimpleNamespace(stream=lambda *key: SimpleNamespace(uniform=lambda n, batch: torch.full((n,), 0.3))),
        logits=lambda m, source, view, owner: logits[m],
        run=lambda m, mixed, *key: logits[m],
    )
    term = LOSSES.build(dict(type="Supervised", source="exemplar", unknown=0.25, mixup=mixup))
    known, weight, expected = labels * (labels < 255), 1 - 0.75 * (labels == 255).float(), 0
    for shift, share in ((0, 0.7), (1, 0.3)) if mixup else ((0, 1),):
        for z in logits:
            expected += share * slow_segmentation_loss(z, known.roll(shift, 0), weight.roll(shift, 0))
    torch.testing.assert_close(term.value(step).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_answers_for_confident_pixels_of_unknown_label_alone():
    model = learner(2, [dict(type="Consistency", student="strong", teacher="cross", source="synthetic", unknown=True)])
    (term,) = model.objectives
    data = batch(size=16)
    data["synthetic"]["labels"][:, 3:12, :10] = 255
    data["synthetic"]["partial"] = True
    step, expected = StepViews(model, data, Draws(0, 0)), 0
    for m, other in ((0, 1), (1, 0)):
        target = step.pseudo_label(other, "synthetic")
        weight = (step.labels("synthetic", other) == 255) * (target.probabilities.amax(1) >= 0.3)
        assert 0 < weight.sum() < (step.labels("synthetic", other) == 255).sum()
        logits = step.logits(m, "synthetic", "strong", other)
        expected = expected + slow_segmentation_loss(logits, target.labels, weight)
    torch.testing.assert_close(term.value(step).double(), expected, rtol=1e-4, atol=1e-6)
    assert list(model(batch=data, draws=Draws(0, 0))) == ["loss_synthetic_unknown"]
    assert term.check(model, dict(synthetic=SimpleNamespace(partial=True))) == []
    assert term.check(model, dict(synthetic=SimpleNamespace(partial=False))) == [
        "Consistency: unknown=True, but the labels of source 'synthetic' are all known"
    ]
    assert term.check(model, dict(exemplar=None, unlabeled=None)) == [
        "Consistency: source 'synthetic' is not in train_dataloader, which has: exemplar, unlabeled"
    ]


def test_mixup_answers_to_both_labels_in_the_drawn_share():
    images, logits, labels = torch.rand(3, 1, 4, 4), torch.randn(3, 2, 4, 4), torch.randint(0, 2, (3, 4, 4))
    seen = []
    step = SimpleNamespace(
        num_networks=1,
        labels=lambda source, m: labels,
        unknown=lambda source, m: None,
        images=lambda source, view, m: images,
        draws=SimpleNamespace(stream=lambda *key: SimpleNamespace(uniform=lambda n, batch: torch.tensor([0.3]))),
        run=lambda m, mixed, *key: seen.append(mixed) or logits,
    )
    term = LOSSES.build(dict(type="Supervised", source="exemplar", mixup=True))
    value = term.value(step)
    torch.testing.assert_close(seen[0], 0.7 * images + 0.3 * images.roll(1, 0))
    torch.testing.assert_close(value, 0.7 * term.loss(logits, labels) + 0.3 * term.loss(logits, labels.roll(1, 0)))


def test_cutmix_takes_boxes_of_the_drawn_area_from_the_sample_before():
    n = 4000
    mask = CutMix(area=(0.1, 0.3), aspect=(1, 1.0001), probability=0.5).draw(Draws(0, 0).stream("x"), n, (40, 40))[
        "mask"
    ]
    mixed = mask.flatten(1).any(1)
    assert abs(mixed.float().mean() - 0.5) < 0.03
    area = mask[mixed].float().mean((1, 2))
    assert area.min() > 0.08
    assert area.max() < 0.33
    assert abs(area.mean() - 0.2) < 0.01
    for box in mask[mixed][:50]:
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns[None])  # a box, not a scatter
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 40, 40)
    found = CutMix().apply(images, mask[mixed][:3])
    for i in range(3):
        assert torch.equal(found[i, 0], torch.where(mask[mixed][i], float((i - 1) % 3), float(i)))
    labels = CutMix().apply(images[:, 0].long(), mask[mixed][:3])
    assert torch.equal(labels, found[:, 0].long())


@pytest.mark.parametrize("below", ["background", "ignore"])
def test_copy_paste_is_two_mixtures_with_two_kinds_of_label(below):
    labeler = dict(type="ConfidenceThreshold", threshold=0.3, below=below)
    model = learner(1, [dict(type="CopyPaste", labeled="synthetic", pseudo_weight=0.5)], pseudo_labeler=labeler)
    objective = model.objectives[0]
    step = StepViews(model, batch(), Draws(0, 0))
    loss = objective.value(step)
    inside = objective._box(step, 0, step.images("synthetic", "weak", 0))
    assert set(inside.flatten(1).sum(1).tolist()) <= {21 * 21, 21 * 22, 22 * 22}  # two thirds of 32
    ours, theirs = step.images("synthetic", "weak", 0), step.images("unlabeled", "weak", 0)
    labels, target = step.labels("synthetic", 0), step.pseudo_label(0, "unlabeled", "ema")
    assert 0 < target.confident.sum() < target.confident.numel()
    counts = target.confident if below == "ignore" else torch.ones_like(inside)
    slow = 0
    for mask in (inside, ~inside):
        image = ours * mask[:, None] + theirs * ~mask[:, None]
        logits = model.networks[0](image)
        slow = (
            slow
            + objective.loss(logits, labels, mask.float())
            + 0.5 * objective.loss(logits, target.labels, (counts & ~mask).float())
        )
    torch.testing.assert_close(loss, slow)


def test_a_pasted_box_has_its_share_of_each_side_and_is_the_samples_own():
    def boxes(n, size, draws, **options):
        term = CONSISTENCY_LOSSES.build(dict(type="CopyPaste", labeled="synthetic", **options))
        return term._box(SimpleNamespace(draws=draws), 0, torch.empty(n, 1, *size))

    assert boxes(2, (7, 9), Draws(0, 0), box=1.0).all()
    found = boxes(200, (20, 40), Draws(0, 0), box=0.5)
    assert (found.any(2).sum(1) == 10).all()
    assert (found.any(1).sum(1) == 20).all()
    assert (found.flatten(1).sum(1) == 10 * 20).all()
    assert found[:, 0].any()  # each edge is reached …
    assert found[:, -1].any()
    assert found[:, :, 0].any()
    assert found[:, :, -1].any()
    share = found.float().mean(0)
    torch.testing.assert_close(share, share.flip((0, 1)), atol=0.2, rtol=0)  # … as often
    assert len(found.unique(dim=0)) > 100
    whole = boxes(6, (20, 40), Draws(3, 5))
    parts = [boxes(2, (20, 40), Draws(3, 5, rank, processes=3)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_objectives_that_know_unknown_pixels_take_what_is_partly_painted():
    partly = dict(exemplar=SimpleNamespace(partial=True))
    for kind, takes in dict(Supervised=True, DeepSupervision=False).items():
        model = learner(1, [dict(type=kind, source="exemplar")])
        assert bool(model.objectives[0].check(model, partly)) != takes


def test_deep_supervision_asks_each_level_which_classes_its_cells_hold():
    model = learner(1, [dict(type="DeepSupervision", source="exemplar")])
    hidden = model.objectives[0].heads[0][0][0]
    assert hidden.bias is None  # a norm follows, which takes it away again
    step = StepViews(model, batch(), Draws(0, 0))
    labels, total = step.labels("exemplar", 0), 0
    for head, level in zip(model.objectives[0].heads[0], step.levels(0, "exemplar", "weak", 0), strict=False):
        z, cell = head(level).double().sigmoid(), 32 // level.shape[-1]
        terms = []
        for b in range(3):
            for k in range(4):
                for r in range(level.shape[-2]):
                    for c in range(level.shape[-1]):
                        window = labels[b, r * cell : (r + 1) * cell, c * cell : (c + 1) * cell]
                        p = z[b, k, r, c]
                        terms.append(-torch.log(p if (window == k).any() else 1 - p))
        total = total + torch.stack(terms).mean()
    torch.testing.assert_close(model.objectives[0].value(step).double(), total, rtol=1e-5, atol=1e-6)
    assert len(model.objectives[0].heads[0]) == 4


def test_an_ema_teacher_averages_past_weights_and_takes_no_gradient():
    model = learner(1, [dict(type="Consistency", student="weak", teacher="ema")], ema_momentum=0.9)
    name = "head.weight"
    student, teacher = dict(model.networks[0].named_parameters()), dict(model.teachers["ema"][0].named_parameters())
    history, expected = [], None
    for k in range(12):
        with torch.no_grad():
            student[name].normal_(generator=torch.Generator().manual_seed(k))
        history.append(student[name].detach().double().clone())
        share = max(1 / (k + 1), 0.1)
        expected = history[-1] if expected is None else (1 - share) * expected + share * history[-1]
        model._update_teachers(Draws(0, k if k % 2 else torch.tensor(k)))
        torch.testing.assert_close(teacher[name].double(), expected, rtol=1e-5, atol=1e-6)
    model(batch=batch(), draws=Draws(0, 12))["loss_weak_ema"].backward()
    assert teacher[name].grad is None
    assert student[name].grad.abs().sum() > 0


def test_a_teacher_of_a_compiled_network_runs_its_own_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda *args: function(*args))
    model = learner(1, [dict(type="Consistency", student="weak", teacher="ema")], compile=True)
    for parameter in model.teachers.parameters():
        parameter.zero_()
    target = StepViews(model, batch(), Draws(0, 1)).pseudo_label(0, "unlabeled", "ema")
    torch.testing.assert_close(target.probabilities, torch.full_like(target.probabilities, 0.25))


@pytest.mark.parametrize("tensor", [False, True])
def test_a_static_teacher_is_the_network_of_its_first_step_and_labels_an_image_alike_in_every_view(tensor):
    model = learner(1, [dict(type="Consistency", student="weak", teacher="static", begin=3)])
    model.weak.degrees = 0.0  # quarter turns and flips lose no pixel
    index = torch.tensor if tensor else int
    head, frozen = model.networks[0].head.weight, model.teachers["static"][0].head.weight
    for k in range(6):
        with torch.no_grad():
            head.fill_(k)
        model._update_teachers(Draws(0, index(k)))
    assert (frozen == 3).all()
    with torch.no_grad():
        frozen.normal_(generator=torch.Generator().manual_seed(0))
    labels = []
    for k in (4, 5):
        step = StepViews(model, batch(), Draws(0, k))
        labels.append(step._at_home(0, "unlabeled", step.pseudo_label(0, "unlabeled", "static")))
    assert torch.equal(*labels)
    assert labels[0].unique().numel() > 1


def test_the_second_strong_view_is_another_look_at_the_same_weak_view():
    model = learner(1, [dict(type="Consistency", student="strong", teacher="self")])
    step = StepViews(model, batch(), Draws(0, 0))
    first, second = (step.images("unlabeled", view, 0) for view in ("strong", "strong2"))
    assert not torch.equal(first, second)
    model.strong.strength = 0.0  # no jitter: what is left is the weak view
    step = StepViews(model, batch(), Draws(0, 0))
    for view in ("strong", "strong2"):
        torch.testing.assert_close(step.images("unlabeled", view, 0), step.images("unlabeled", "weak", 0))


ROLES = dict(weak="RandomRotateFlip", strong="Sharpness", feature="ChannelDropout", mix="CutMix")


@pytest.mark.parametrize("place", ROLES)
def test_a_perturbation_stands_where_it_was_made_for(place):
    mixing = dict(type="Consistency", student="weak", teacher="self")
    for role, kind in ROLES.items():
        objective = dict(mixing, mix=dict(type=kind)) if place == "mix" else mixing
        options = {} if place == "mix" else {place: dict(type=kind)}
        if role == place:
            learner(1, [objective], **options)
            continue
        with pytest.raises(InputError, match=f"{place}: expected .*{ROLES[place]}.*, got {kind}"):
            learner(1, [objective], **options)
    for several, got in ((("Sharpness", "ChannelDropout"), "feature and strong"), (("CutMix",), "mix")):
        with pytest.raises(InputError, match=f"Compose: expected strong perturbations, or feature .*, got {got}"):
            learner(1, [mixing], strong=[dict(type=kind) for kind in several])


def test_what_reads_labels_or_perturbed_views_says_what_it_lacks():
    bare = {name: SimpleNamespace(serves_labels=False, batch_size=3) for name in ("exemplar", "unlabeled")}
    reading = {"Supervised", "CopyPaste", "DeepSupervision", "PrototypeContrast"}
    for kind, config in OBJECTIVES.items():
        config = dict(config, source="exemplar", teacher=None) if kind == "DeepSupervision" else config
        found = learner(1, [dict(type="Supervised", source="exemplar", name="loss_other")])
        term = (LOSSES if kind in LOSSES else CONSISTENCY_LOSSES).build(config)
        problems = [each for each in term.check(found, bare) if "expected a source of labels, got 'exemplar'" in each]
        assert len(problems) == (kind in reading), kind
        found.strong = None
        problems = [each for each in term.check(found, bare) if "expected a strong perturbation" in each]
        assert len(problems) == (kind in {"Consistency", "GlobalContrast", "LocalContrast"}), kind
    told = LOSSES.build(dict(type="Supervised", source="exemplar", view="strong")).check(found, {"exemplar": None})
    assert told == ["Supervised: expected a strong perturbation in model.strong, got None"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(OBJECTIVES["Supervised"], loss=dict(type="SoftmaxMSE")), "Supervised: loss: expected one of labels"),
        (dict(OBJECTIVES["CopyPaste"], loss=dict(type="SoftmaxMSE")), "CopyPaste: loss: expected one of labels"),
        (
            dict(OBJECTIVES["Consistency"], loss=OBJECTIVES["Supervised"]),
            "Consistency: loss: expected a pixel loss, as CrossEntropyDice, got Supervised, an objective",
        ),
        (dict(type="CrossEntropyDice"), "model.objectives: expected objectives, as .*, got CrossEntropyDice"),
        (dict(OBJECTIVES["DeepSupervision"], teacher="cross"), "teacher: expected None, 'ema' or 'self', got 'cross'"),
        (dict(type="LocalContrast", level=9), "LocalContrast: level: expected 1 to 4, the decoder's levels, got 9"),
        (dict(type="LocalContrast", level=0), "LocalContrast: level: expected a positive integer, got 0"),
        (dict(type="LocalContrast", cells=0), "LocalContrast: cells: expected a positive integer, got 0"),
        (dict(type="GlobalContrast", channels=0.5), "GlobalContrast: channels: expected a positive integer, got 0.5"),
        (dict(OBJECTIVES["PrototypeContrast"], temperature=0), "temperature: expected a number of more than 0, got 0"),
    ],
)
def test_objectives_refuse_what_they_cannot_compute(config, message):
    with pytest.raises(InputError, match=message):
        learner(1, [config])


class Mirror(Perturbation):
    """A W of one's own, whose draws are no matrices."""

    def draw(self, stream, n):
        return dict(flip=stream.bernoulli(n, 0.5))

    def apply(self, images, flip, labels=None):
        images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
        return images if labels is None else (images, torch.where(flip.view(-1, 1, 1), labels.flip(2), labels))


def test_a_weak_perturbation_of_ones_own_need_not_be_a_matrix_but_for_a_static_teacher():
    for teacher, problems in (("self", 0), ("static", 1)):
        model = learner(2, [dict(type="Consistency", student="strong", teacher=teacher)])
        model.weak = Mirror()
        found = model.check(dict(unlabeled=SimpleNamespace(serves_labels=False)), 32, ["A", "B", "C"])
        assert sum("moves labels by W's matrices, and Mirror" in each for each in found) == problems
    model = learner(2, [dict(type="Consistency", student="strong", teacher="cross")])
    model.weak = Mirror()
    logs = model(batch(), Draws(0, 0), monitor=("background", "A", "B", "C"))
    assert "share_A" in logs
    assert "agreement" not in logs


def test_a_term_is_called_a_loss_as_only_losses_are_added_up_and_two_views_are_two():
    with pytest.raises(InputError, match="Supervised: name: expected one that begins with loss_, got 'exemplar_ce'"):
        learner(1, [dict(type="Supervised", source="exemplar", name="exemplar_ce")])
    model = learner(1, [dict(type="GlobalContrast")], shared_weak=["unlabeled"])
    (problem,) = model.objectives[0].check(model, dict(unlabeled=SimpleNamespace(serves_labels=False)))
    assert problem == "GlobalContrast: expected two views of 'unlabeled', got one: model.shared_weak names it"


def test_deep_supervision_is_taught_by_what_a_teacher_is_sure_of():
    model = learner(1, [dict(type="DeepSupervision", source="unlabeled", teacher="self")])
    term, labels, weight = model.objectives[0], torch.zeros(1, 4, 4, dtype=torch.int64), torch.ones(1, 4, 4)
    labels[0, 0, 0] = labels[0, 3, 3] = 1
    weight[0, 3] = 0  # the lower two cells have two unknown pixels each
    term.heads = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1))])])
    z = term.heads[0][0](torch.ones(1, 1, 2, 2)).double().flatten()[::4]  # of either class, alike in every cell
    step = SimpleNamespace(
        pseudo_label=lambda *_: SimpleNamespace(labels=labels, weight=weight),
        levels=lambda *_: [torch.ones(1, 1, 2, 2)],
    )
    yes, no = F.softplus(-z), F.softplus(z)
    # Class 0 is in all four cells; class 1 in the first, not in the second, and not known of the lower two.
    torch.testing.assert_close(term.value(step).double(), (4 * yes[0] + yes[1] + no[1]) / 8)


def test_what_does_not_fit_is_said():
    pasting = learner(1, [dict(type="CopyPaste", labeled="synthetic")])
    sources = dict(synthetic=SimpleNamespace(batch_size=2), unlabeled=SimpleNamespace(batch_size=3))
    assert pasting.objectives[0].check(pasting, sources) == [
        "CopyPaste: 'synthetic' and 'unlabeled' need one batch_size, got 2 and 3"
    ]
    assert pasting.objectives[0].check(pasting, dict(sources, unlabeled=SimpleNamespace(batch_size=2))) == []
    with pytest.raises(InputError, match="mix: expected None with student='feature'"):
        learner(1, [dict(type="Consistency", student="feature", teacher="self", mix=dict(type="CutMix"))])
    static = dict(type="Consistency", student="weak", teacher="static")
    with pytest.raises(InputError, match=r"teacher='static' needs one begin, got \[1, 2\]"):
        learner(1, [dict(static, begin=1), dict(static, begin=2, name="loss_other")])
