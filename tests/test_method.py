"""The method: Eq. 1-10 and Algorithm 1."""

import copy

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from scipy.ndimage import affine_transform
from torch import nn

from cmems import geometry, ops
from cmems.datasets.synthesis import ExemplarPaste
from cmems.errors import InputError
from cmems.models.layers import Dropout, Upsampled
from cmems.models.learners import StepViews
from cmems.models.losses import CrossEntropyDice, SoftmaxMSE
from cmems.models.prediction import Prediction
from cmems.models.pseudo_labelers import ConfidenceThreshold
from cmems.registry import BACKBONES, MODELS
from cmems.resize import Frame
from cmems.seeding import Draws, keyed_stream

OBJECTIVES = [
    dict(type="Supervised", source="exemplar"),
    dict(type="Supervised", source="synthetic"),
    dict(type="Consistency", student="strong", teacher="cross", weight=0.7),
    dict(type="Consistency", student="feature", teacher="cross", weight=0.09),
]


def learner(num_networks=2, objectives=OBJECTIVES, **settings):
    torch.manual_seed(0)
    config = dict(
        type="MutualLearner",
        num_networks=num_networks,
        backbone=dict(type="UNet", num_classes=4, channels=(4, 8, 8, 8, 8), dropout=(0.0,) * 5),
        strong=dict(type="ColorJitter", strength=1.0),
        feature=dict(type="ChannelDropout", probability=0.5),
        pseudo_labeler=dict(type="ConfidenceThreshold", threshold=0.3),
        objectives=copy.deepcopy(objectives),
    )
    return MODELS.build({**config, **settings})


def batch(size=32, n=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    images = lambda: torch.rand(n, 1, size, size, generator=g)  # noqa: E731
    labels = lambda: torch.randint(0, 4, (n, size, size), generator=g, dtype=torch.uint8)  # noqa: E731
    return dict(
        exemplar=dict(images=images(), labels=labels()),
        synthetic=dict(images=images(), labels=labels()),
        unlabeled=dict(images=images()),
    )


def slow_segmentation_loss(logits, labels, weight=None, smooth=1e-5):
    """Eq. 6, pixel by pixel, in float64."""
    logits, n = logits.double(), labels.numel()
    b, k, h, w = logits.shape
    weight = torch.ones(b, h, w, dtype=torch.float64) if weight is None else weight.double()
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    ce, n = torch.zeros((), dtype=torch.float64), weight.sum().clamp(min=1)
    for i in range(b):
        for r in range(h):
            for c in range(w):
                ce = ce - weight[i, r, c] * p[i, int(labels[i, r, c]), r, c].log() / n
    dice = torch.zeros((), dtype=torch.float64)
    for cls in range(k):
        target = (labels == cls).double() * weight
        mine = p[:, cls] * weight
        dice = dice + 1 - (2 * (mine * target).sum() + smooth) / ((mine**2).sum() + (target**2).sum() + smooth)
    return 0.5 * ce + 0.5 * dice / k


@pytest.mark.parametrize("weighted", [False, True])
def test_the_segmentation_loss_and_its_gradient_are_eq_6(weighted):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (2, 6, 5), generator=g)
    weight = (torch.rand(2, 6, 5, generator=g) > 0.4).float() if weighted else None
    slow = slow_segmentation_loss(logits, labels, weight)
    (expected,) = torch.autograd.grad(slow, logits)
    single = logits.detach().float().requires_grad_()
    fast = CrossEntropyDice()(single, labels, weight)
    (gradient,) = torch.autograd.grad(fast, single)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), slow.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)


def test_an_ignored_pixel_does_not_move_the_loss():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 3, 4, 4, generator=g), torch.randint(0, 3, (1, 4, 4), generator=g)
    weight = torch.ones(1, 4, 4)
    weight[0, 1, 2] = 0
    moved = logits.clone()
    moved[0, :, 1, 2] += torch.tensor([5.0, -3.0, 1.0])
    loss = CrossEntropyDice()
    assert loss(logits, labels, weight) == loss(moved, labels, weight)
    assert loss(logits, labels) != loss(moved, labels)


@pytest.mark.parametrize("loss", [CrossEntropyDice(), CrossEntropyDice(dice=0), CrossEntropyDice(ce=0), SoftmaxMSE()])
def test_a_pixel_that_counts_alone_has_the_loss_of_an_image_of_it_and_none_has_none(loss):
    g = torch.Generator().manual_seed(0)
    logits, weight = torch.randn(2, 3, 4, 5, generator=g), torch.zeros(2, 4, 5)
    soft = getattr(loss, "soft", False)
    target = torch.rand(2, 3, 4, 5, generator=g) if soft else torch.randint(0, 3, (2, 4, 5), generator=g)
    assert loss(logits, target, weight) == 0
    weight[1, 2, 3] = 1
    pixel = (slice(1, 2), ..., slice(2, 3), slice(3, 4))
    assert loss(logits[pixel], target[pixel]) > 0
    torch.testing.assert_close(loss(logits, target, weight), loss(logits[pixel], target[pixel]))


def test_eq_3_keeps_a_pixel_at_the_threshold_and_sends_one_under_it_to_class_0():
    p = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.79, 0.11], [0.05, 0.05, 0.9], [0.85, 0.1, 0.05]])
    logits = p.log().T.reshape(1, 3, 2, 2)
    # softmax(log p) may round 0.8 to either side, so the threshold is what the pixel's own softmax gives.
    tau = float(logits.softmax(1)[0, 1, 0, 0])
    background = ConfidenceThreshold(tau, below="background")(logits)
    assert background.labels.flatten().tolist() == [1, 0, 2, 0]
    assert background.weight is None
    ignore = ConfidenceThreshold(tau, below="ignore")(logits)
    assert ignore.labels.flatten().tolist() == [1, 1, 2, 0]
    assert ignore.weight.flatten().tolist() == [1, 0, 1, 1]
    assert ConfidenceThreshold(0)(logits).confident.all()


@pytest.mark.parametrize("threshold", [-0.01, 1.01, 2, float("nan")])
def test_a_threshold_that_no_confidence_can_have_is_refused(threshold):
    assert ConfidenceThreshold(1).threshold == 1
    with pytest.raises(InputError, match=rf"threshold: expected a number in \[0, 1\], got {threshold}"):
        ConfidenceThreshold(threshold)
    with pytest.raises(InputError, match="below: expected 'background' or 'ignore', got 'zero'"):
        ConfidenceThreshold(below="zero")


@pytest.mark.parametrize("below", ["background", "ignore"])
def test_one_step_is_algorithm_1(below):
    """Eq. 2-10, transcribed: every view, forward, pseudo-label and term by hand, in float64."""
    model = learner(pseudo_labeler=dict(type="ConfidenceThreshold", threshold=0.3, below=below), channels_last=False)
    data, draws = batch(), Draws(seed=3, step=5)
    losses = model(batch=data, draws=draws)
    reference = copy.deepcopy(model).double()
    nets = reference.networks
    total = {k: 0 for k in ("loss_exemplar", "loss_synthetic", "loss_cmip", "loss_cmfp")}
    weak, target = {}, {}
    for m in range(2):
        for source, content in data.items():
            parameters = model.weak.draw(draws.stream("weak", source, m), 3)
            moved = model.weak.apply(content["images"], labels=content.get("labels"), **parameters)
            weak[source, m] = moved if isinstance(moved, tuple) else (moved, None)
        with torch.no_grad():  # Eq. 2-3
            p = nets[m](weak["unlabeled", m][0].double()).softmax(1)
        confidence, label = p.max(1)
        keep = confidence >= 0.3
        target[m] = (label * keep, None) if below == "background" else (label, keep.double())
    for m in range(2):
        other = 1 - m
        for source in ("exemplar", "synthetic"):  # Eq. 9
            image, label = weak[source, m]
            total[f"loss_{source}"] += slow_segmentation_loss(nets[m](image.double()), label)
        seen = weak["unlabeled", other][0]
        strong = model.strong(seen, draws.stream("strong", "unlabeled", other)).double()
        total["loss_cmip"] += 0.7 * slow_segmentation_loss(nets[m](strong), *target[other])  # Eq. 4-5
        levels = nets[m].encode(seen.double())
        assert len(levels) == 5
        stream = draws.stream("feature", m, "unlabeled", other)
        dropped = [f * (~stream.bernoulli(f.shape[:2], 0.5)).double()[:, :, None, None] / 0.5 for f in levels]
        total["loss_cmfp"] += 0.09 * slow_segmentation_loss(nets[m].decode(dropped), *target[other])  # Eq. 7-8
    assert list(losses) == list(total)
    for name, expected in total.items():
        assert losses[name].item() == pytest.approx(expected.item(), rel=2e-4), name


def test_the_total_is_the_weighted_sum_of_the_terms():
    losses = learner()(batch=batch(), draws=Draws(0, 0))
    total, logged = learner().parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert logged["loss_cmfp"] == losses["loss_cmfp"]


def test_unet_of_appendix_d_has_1813764_parameters_at_four_classes():
    net = BACKBONES.build(dict(type="UNet", num_classes=4))
    assert sum(p.numel() for p in net.parameters()) == 1_813_764
    features = net.encode(torch.rand(2, 1, 64, 48))
    assert [tuple(f.shape) for f in features] == [(2, 16 * 2**i, 64 >> i, 48 >> i) for i in range(5)]
    assert net.decode(features).shape == (2, 4, 64, 48)


def test_unet_layers_come_from_mmcv_so_that_another_norm_is_a_config_value():
    net = BACKBONES.build(dict(type="UNet", num_classes=2, norm_cfg=dict(type="IN")))
    kinds = {type(m) for m in net.modules()}
    assert nn.InstanceNorm2d in kinds
    assert nn.BatchNorm2d not in kinds


def test_a_size_the_network_cannot_halve_is_refused_with_one_that_fits():
    net = BACKBONES.build(dict(type="UNet", num_classes=2))
    with pytest.raises(InputError, match=r"multiples of 16, got 50x64.*--size 48"):
        net(torch.rand(1, 1, 50, 64))


def test_networks_of_one_seed_differ_and_a_seed_repeats_them():
    first, again = learner(3), learner(3)
    weights = [n.head.weight for n in first.networks]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert all(torch.equal(a, b.head.weight) for a, b in zip(weights, again.networks, strict=True))
    assert torch.equal(learner(2).networks[1].head.weight, weights[1])  # a third network does not move the second


@pytest.mark.parametrize("num_networks", [2, 3])
def test_each_network_sees_the_others_view_and_answers_to_the_others_label(num_networks):
    model, asked = learner(num_networks), []
    step = StepViews(model, batch(), Draws(0, 0))
    views = [step.images("unlabeled", "weak", m) for m in range(num_networks)]
    assert not torch.equal(views[0], views[1])
    original = step._forward

    def spy(net, images, key, features=None):
        asked.append(key)
        return original(net, images, key, features)

    step._forward = spy
    for objective in model.objectives:
        objective(step)
    for m in range(num_networks):
        other = (m + 1) % num_networks
        assert (m, "exemplar", "weak", m, "student") in asked
        assert (m, "unlabeled", "weak", m, "teacher") in asked  # a pseudo-label is made on one's own weak view
        assert (m, "unlabeled", "strong", other, "student") in asked
        assert (m, "unlabeled", "feature", other, "student") in asked
    assert len(asked) == 5 * num_networks == len(set(asked))  # and nothing is computed twice


def test_a_pseudo_label_carries_no_gradient():
    model = learner(objectives=[dict(type="Consistency", student="strong", teacher="cross")])
    step = StepViews(model, batch(), Draws(0, 0))
    assert not step.pseudo_label(1, "unlabeled").labels.requires_grad
    loss = model.objectives[0].loss(step.logits(0, "unlabeled", "strong", 1), step.pseudo_label(1, "unlabeled").labels)
    loss.backward()
    assert model.networks[0].head.weight.grad.abs().sum() > 0
    assert model.networks[1].head.weight.grad is None


def test_shared_weak_views_are_shared_for_the_named_source_only():
    step = StepViews(learner(shared_weak=("exemplar",)), batch(), Draws(0, 0))
    assert torch.equal(step.images("exemplar", "weak", 0), step.images("exemplar", "weak", 1))
    assert not torch.equal(step.images("unlabeled", "weak", 0), step.images("unlabeled", "weak", 1))


def test_a_network_alone_learns_from_itself_but_not_from_another():
    own = learner(1, [dict(type="Consistency", student="strong", teacher="self")])
    assert own(batch=batch(), draws=Draws(0, 0))["loss_strong_self"] > 0
    crossed = learner(1, [dict(type="Consistency", student="strong", teacher="cross")])
    assert "needs num_networks of 2 or more" in crossed.check(batch(), 32, ("a", "b", "c"))[0]
    pair = learner(2, [dict(type="Consistency", student="strong", teacher="cross")])
    assert not pair.check(batch(), 32, ("a", "b", "c"))


def test_the_loss_is_that_of_the_terms_whatever_a_class_is_called():
    model = learner()
    plain = model(batch=batch(), draws=Draws(0, 0))
    watched = model(batch=batch(), draws=Draws(0, 0), monitor=("background", "glossus"))
    (one, _), (other, logs) = model.parse_losses(plain), model.parse_losses(watched)
    assert torch.equal(one, other)
    assert torch.equal(logs["loss"], other)
    assert logs["share_glossus"] == watched["share_glossus"]


def test_monitors_say_how_much_is_confident_how_the_networks_agree_and_what_they_call_it():
    model = learner()
    model.networks[1].load_state_dict(model.networks[0].state_dict())
    logs = model(batch=batch(), draws=Draws(0, 0), monitor=("background", "RV", "Myo", "LV"))
    shares = [float(logs[f"share_{c}"]) for c in ("background", "RV", "Myo", "LV")]
    assert sum(shares) == pytest.approx(1)
    assert 0 <= float(logs["share_confident"]) <= 1
    everywhere = learner(pseudo_labeler=dict(type="ConfidenceThreshold", threshold=0.99))
    logs = everywhere(batch=batch(), draws=Draws(0, 0), monitor=("background", "RV", "Myo", "LV"))
    assert float(logs["share_confident"]) == 0  # nothing is that sure after no training …
    assert float(logs["agreement"]) == 0  # … so Eq. 3 calls all of it background, which is no agreement on organs
    assert float(logs["share_background"]) == 1


def test_an_objective_that_is_added_changes_nothing_for_the_others():
    few = learner(objectives=OBJECTIVES[:3])(batch=batch(), draws=Draws(0, 7))
    more = learner(objectives=OBJECTIVES)(batch=batch(), draws=Draws(0, 7))
    assert all(torch.equal(few[k], more[k]) for k in few)


def test_dropout_is_a_function_of_the_step_and_not_of_the_generator():
    model = learner(backbone=dict(type="UNet", num_classes=4, channels=(4, 8, 8, 8, 8), dropout=(0.5,) * 5))
    state = copy.deepcopy(model.state_dict())
    first = model(batch=batch(), draws=Draws(0, 7))
    torch.rand(17)
    model.load_state_dict(state)
    again = model(batch=batch(), draws=Draws(0, 7))
    assert all(torch.equal(first[k], again[k]) for k in first)
    model.load_state_dict(state)
    assert not torch.equal(model(batch=batch(), draws=Draws(0, 8))["loss_cmip"], first["loss_cmip"])


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("shared_weak", [(), ("exemplar", "unlabeled")])
def test_views_in_one_batch_answer_as_if_each_were_alone(kernels, shared_weak):
    """Losses, gradients, running statistics; dropout included."""
    # A plain average, which no order of the views changes.
    norm = dict(type="BN", momentum=None)
    backbone = dict(type="UNet", num_classes=4, channels=(16,) * 5, dropout=(0.3,) * 5, norm_cfg=norm)
    data = batch()
    data["unlabeled"]["images"] = data["unlabeled"]["images"][:2]  # views need not be of one size
    objectives = [*OBJECTIVES, dict(type="DeepSupervision", source="exemplar")]
    found = []
    ops.enable(kernels)
    try:
        for together in (True, False):
            model = learner(
                backbone=backbone, objectives=objectives, batch_views=together, shared_weak=shared_weak
            ).train()
            sizes = []
            for net in model.networks:
                net.encoder[0].register_forward_hook(lambda _, inputs, __, s=sizes: s.append(len(inputs[0])))
            losses = model(batch=data, draws=Draws(3, 5))
            sum(losses.values()).backward()
            gradients = {name: p.grad for name, p in model.networks.named_parameters()}
            found.append((losses, gradients, dict(model.networks.named_buffers()), sizes))
    finally:
        ops.enable(True)
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert 8 in found[0][3]
    assert max(found[1][3]) == 3


def synthesizer(**change):
    geometric = dict(type="RandomAffine", degrees=180, scale=(0.8, 1.2), shift=0.1)
    return ExemplarPaste(**{**dict(geometric=geometric, intensity=dict(type="RandomGammaGain")), **change})


def test_synthesis_moves_the_organs_with_their_labels():
    label = torch.zeros(48, 48, dtype=torch.uint8)
    label[10:26, 16:32] = 1
    image = (label > 0).float()[None]
    none = dict(type="RandomGammaGain", gamma=(1, 1), gain=(1, 1))
    images, labels = synthesizer(intensity=none)(
        image[None], label[None], torch.zeros(8, 1, 48, 48), keyed_stream(5, torch.arange(8))
    )
    assert (labels > 0).sum((1, 2)).float().std() > 10  # scales differ
    assert ((images[:, 0] > 0.5) != (labels > 0)).float().mean() < 0.01
    assert (images[:, 0][labels == 0] == 0).all()  # the background shows wherever there is no organ


def test_synthetic_image_j_looks_the_same_whenever_it_is_drawn():
    label = torch.zeros(48, 48, dtype=torch.uint8)
    label[10:26, 16:32] = 1
    g = torch.Generator().manual_seed(0)
    image, backgrounds = torch.rand(1, 48, 48, generator=g), torch.rand(6, 1, 48, 48, generator=g)
    ids = torch.tensor([4, 9, 2, 7, 30, 1])
    images, labels = synthesizer()(image[None], label[None], backgrounds, keyed_stream(11, ids))
    order = torch.tensor([3, 0, 5])
    fewer, fewer_labels = synthesizer()(image[None], label[None], backgrounds[order], keyed_stream(11, ids[order]))
    assert torch.equal(labels[order], fewer_labels)
    assert torch.equal(images[order], fewer)
    other, _ = synthesizer()(image[None], label[None], backgrounds, keyed_stream(12, ids))
    assert not torch.equal(images, other)


def test_an_elastic_deformation_bends_image_and_label_alike_and_zero_bends_nothing():
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[20:44, 20:44] = 1
    image, ids = (label > 0).float()[None], torch.arange(6)
    none = dict(type="RandomGammaGain", gamma=(1, 1), gain=(1, 1))
    still = dict(type="RandomAffine", degrees=0, scale=(1, 1), shift=0, flip=0)
    bent = {}
    for elastic in (0.0, 0.03):
        make = ExemplarPaste(geometric=dict(still, elastic=elastic), intensity=none)
        images, labels = make(image[None], label[None], torch.zeros(6, 1, 64, 64), keyed_stream(5, ids))
        assert ((images[:, 0] > 0.5) != (labels > 0)).float().mean() < 0.01
        bent[elastic] = labels
    assert torch.equal(bent[0.0], label.expand(6, -1, -1))
    assert (bent[0.03] != label).float().mean((1, 2)).min() > 0.01


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5])
def test_dropout_drops_at_its_rate_keeps_the_mean_and_repeats_with_the_seed(rate):
    layer = Dropout(rate)
    x = torch.ones(8, 16, 64, 65).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(3)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert abs((y == 0).float().mean() - rate) < 0.005
    assert abs(y.mean() - 1) < 0.005
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # of ones: what is kept is scaled, forward and backward
    torch.manual_seed(3)
    assert torch.equal(layer(x), y)
    assert not torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_upsampling_is_torchs(memory_format):
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 3, 10, 8, dtype=torch.float64).contiguous(memory_format=memory_format)
    (ours,) = torch.autograd.grad(Upsampled.apply(x), x, gradient)
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    (torchs,) = torch.autograd.grad(up(x), x, gradient)
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=0)  # the matrix is made in float32


def test_a_sampling_matrix_inverts_as_in_float64():
    matrices = torch.randn(50, 2, 3, dtype=torch.float64)
    linear = torch.linalg.inv(matrices[:, :, :2])
    expected = torch.cat([linear, -linear @ matrices[:, :, 2:]], 2)
    torch.testing.assert_close(geometry.invert(matrices), expected)


def test_volumes_share_forwards_and_each_comes_back_on_its_own_grid():
    model = learner(prediction=dict(batch=5)).eval()
    volumes = [volume(torch.rand(3, 40, 36)), volume(torch.rand(4, 32, 32))]
    together = model.segment(volumes)
    for each, found in zip(volumes, together, strict=True):
        (alone,) = model.segment([each])
        assert list(found) == ["network_1", "network_2", "ensemble"]
        for name, labels in found.items():
            assert labels.shape == each["image"].shape
            assert (labels == alone[name]).mean() > 0.999  # sums of another batch size may round another way


@pytest.mark.parametrize("views", [4, 8])
def test_views_average_the_images_of_the_square(views):
    model = learner(prediction=dict(bfloat16=False)).eval()
    images = torch.rand(2, 1, 32, 32)
    mirrors = [(), (2,), (3,), (2, 3)]
    expected = sum(model.probabilities(images.flip(m)).flip([d + 1 for d in m]) for m in mirrors) / 4
    if views == 8:
        turned = images.transpose(2, 3)
        found = sum(model.probabilities(turned.flip(m)).flip([d + 1 for d in m]) for m in mirrors) / 4
        expected = (expected + found.transpose(3, 4)) / 2
    model.prediction.views = views
    torch.testing.assert_close(model.probabilities(images), expected)


@pytest.mark.parametrize(("views", "scales"), [(1, [1, 0.8, 1.5]), (8, [1.5, 0.8]), (1, [1.5, 1]), (1, [0.8])])
def test_enlarged_slices_are_averaged_and_what_they_do_not_show_is_as_in_the_whole(views, scales):
    model = learner(prediction=dict(bfloat16=False, views=views, scales=scales)).eval()
    for net in model.networks:
        net.to(memory_format=torch.channels_last)  # as the kernel that labels takes them
    each = volume(torch.rand(3, 32, 32))
    images, straight = torch.from_numpy(each["image"])[:, None], Prediction(bfloat16=False)

    def enlarged(maps, scale):
        offset = [(32 - 1) / 2 * (1 - 1 / scale)] * 2
        flat = [
            affine_transform(m, np.diag([1 / scale] * 2), offset, order=1, mode="grid-constant")
            for m in maps.detach().numpy().reshape(-1, 32, 32)
        ]
        return torch.from_numpy(np.stack(flat)).view(maps.shape)

    def seen(turned, scale):
        return enlarged(straight.probabilities(model.networks, enlarged(turned, scale)), 1 / scale)

    expected = []
    for turns in range(4 if views == 8 else 1):
        for mirrored in range(2 if views == 8 else 1):
            turned = torch.rot90(images.flip(3) if mirrored else images, turns, (2, 3))
            whole = seen(turned, max(s for s in scales if s <= 1))
            for scale in scales:
                p = seen(turned, scale)
                p += (1 - enlarged(torch.ones(32, 32), 1 / scale)) * whole if scale > 1 else 0
                p = torch.rot90(p, -turns, (3, 4))
                expected.append(p.flip(4) if mirrored else p)
    found, expected = model.probabilities(images), sum(expected) / len(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    labels = model.segment([each])[0]["ensemble"]
    assert (labels != expected.mean(0).argmax(1).numpy()).mean() < 1e-3  # ties
    if 0.8 not in scales:
        whole = straight.probabilities(model.networks, images)
        assert torch.equal(found[..., :5, :], whole[..., :5, :])  # a sixth of the side on each
    shown = []
    with model.networks[0].register_forward_pre_hook(lambda net, inputs: shown.append(*inputs)):
        model.prediction.in_one_view(model.networks[:1], images, 8)
    assert torch.equal(shown[0], images)  # statistics are of slices at their own scale


@pytest.mark.parametrize("settings", [{}, dict(views=8), dict(scales=[1, 1.5]), dict(resize="probabilities", views=4)])
def test_doubt_changes_no_label_and_counts_what_members_share(settings):
    model = learner(prediction=dict(bfloat16=False, batch=2, **settings)).eval()
    volumes = [volume(torch.rand(3, 32, 32)), volume(torch.rand(2, 32, 32))]
    labels, doubts = model.prediction.segment_with_doubt(model.networks, volumes, maps=True)
    for each, found, expected, doubt in zip(volumes, labels, model.segment(volumes), doubts, strict=True):
        assert all((found[name] == expected[name]).all() for name in expected)
        images = torch.from_numpy(each["image"])[:, None]
        p = model.probabilities(images)
        views, scales = model.prediction.views, model.prediction.scales
        members = 2 * views * len(scales)
        assert doubt.shared.shape == (3, members, members)
        model.prediction.views, model.prediction.scales = 1, [1]
        straight = model.probabilities(images).argmax(2)  # the first view's members come first
        model.prediction.views, model.prediction.scales = views, scales
        for k in (1, 2, 3):
            first, second = straight == k
            assert doubt.shared[k - 1, 0, 1] == (first & second).sum()
            assert doubt.shared[k - 1, 1, 1] == second.sum()
        best, where = p.mean(0).max(1)
        for k in range(1, 4):
            np.testing.assert_allclose(doubt.softmax[k - 1], best[where == k].double().mean(), rtol=1e-5)
        entropy = torch.distributions.Categorical(p.mean(0).movedim(1, -1)).entropy() / np.log(4)
        np.testing.assert_allclose(doubt.entropies, entropy, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, dict(resize="probabilities"), dict(clean=[dict(type="KeepLargest")])])
def test_background_that_is_not_sure_is_unknown_to_a_further_round(settings):
    model = learner(prediction=dict(bfloat16=False, unknown_below=0.3, **settings)).eval()
    each = volume(torch.rand(3, 32, 32))
    labels = model.segment([each])[0][model.prediction.names(2)[-1]]
    background = model.probabilities(torch.from_numpy(each["image"])[:, None]).mean(0)[:, 0].numpy()
    found = model.prediction.segment_to_learn(model.networks, each)
    called = model.segment([each])[0]["ensemble"]
    unsure = (called == 0) & (labels == 0) & (background < 0.3)
    removed = (called > 0) & (labels == 0)  # by the clean-up: background, which is not to be invented again
    assert removed.any() == ("clean" in settings)
    assert (found[removed] == 0).all()
    assert 0 < unsure.sum() < (labels == 0).sum()
    assert ((found == 255) == unsure).all()
    assert (found == labels)[~unsure].all()
    model.prediction.unknown_below = 0.0
    assert (model.prediction.segment_to_learn(model.networks, each) == labels).all()
    for odd in (-0.1, 1.5, "a", True):
        with pytest.raises(InputError, match="unknown_below: expected a probability, 0 to 1, got"):
            learner(prediction=dict(unknown_below=odd))


def volume(image, pixel=None, spacing=(8.0, 1.5, 1.5), size=32):
    return dict(image=image.numpy(), spacing=spacing, frame=Frame(size, pixel))


def test_probabilities_come_back_smoother_than_labels():
    model = learner(prediction=dict(bfloat16=False)).eval()
    labels = model.segment([volume(torch.rand(2, 96, 96))])[0]["ensemble"]
    model.prediction.resize = "probabilities"
    torch.manual_seed(0)
    image = torch.rand(2, 96, 96)
    frame = Frame(32)
    small = frame.images(image, (1.5, 1.5)).unsqueeze(1)
    expected = torch.nn.functional.interpolate(
        model.probabilities(small).mean(0), size=(96, 96), mode="bilinear", align_corners=False
    ).argmax(1)
    found = model.segment([volume(image)])[0]["ensemble"]
    assert (found == expected.numpy()).mean() > 0.999
    assert labels.shape == found.shape


def test_predicting_in_bfloat16_with_folded_norms_is_near_float32_without():
    model = learner()
    for net in model.networks:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2)
    model.eval()
    images = torch.rand(3, 1, 32, 32)
    fast = model.probabilities(images)
    model.prediction.bfloat16 = False
    folded = model.probabilities(images)
    for module in model.modules():
        if isinstance(module, ConvModule):
            module.efficient_conv_bn_eval_forward = None
    plain = model.probabilities(images)
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast, plain, atol=0.03, rtol=0)
