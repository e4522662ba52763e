"""What every registered network keeps to, and what is particular to one."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmems.errors import InputError
from cmems.models.backbones import EncoderDecoder
from cmems.models.backbones.mt_unet import LocalGlobalAttention
from cmems.models.backbones.swin_unet import WindowAttention
from cmems.models.backbones.windows import join_windows, resize_grid, split_windows
from cmems.models.perturbations import ChannelDropout
from cmems.registry import BACKBONES
from cmems.seeding import keyed_stream

NETWORKS = {
    "UNet": dict(channels=(4, 8, 8, 8, 8)),
    "MTUNet": dict(width=0.125, depth=1, positions=7),
    "SwinUNet": dict(embed_dim=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4, patch=2),
    "TimmUNet": dict(encoder="resnet10t", channels=(4, 8, 8, 8, 8)),
}


def build(name, seed=0, **settings):
    if name == "TimmUNet":
        pytest.importorskip("timm")
    torch.manual_seed(seed)
    return BACKBONES.build({**dict(type=name, num_classes=3), **NETWORKS[name], **settings})


def images(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


each = pytest.mark.parametrize("name", NETWORKS)


def test_the_suite_has_every_registered_network():
    ours = {name for name, network in BACKBONES.module_dict.items() if network.__module__.startswith("cmems.")}
    assert set(NETWORKS) == ours
    assert all(issubclass(BACKBONES.get(name), EncoderDecoder) for name in NETWORKS)


@each
def test_a_network_trains_after_it_predicted_in_inference_mode(name):
    net, x = build(name), images(2, 1, 64, 64)
    with torch.inference_mode():
        net.eval()(x)
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@each
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_forward_is_the_head_of_the_finest_of_the_decoder_levels_of_encode(name, size):
    net, x = build(name).eval(), images(2, 1, *size)
    assert not size[0] % net.divisor
    assert not size[1] % net.divisor
    with torch.no_grad():
        logits, features = net(x), net.encode(x)
        levels = net.decode_levels(features)
        assert logits.shape == (2, 3, *size)
        assert torch.equal(net.decode(features), logits)
        assert torch.equal(net.head(levels[-1]), logits)
    assert isinstance(features, list)
    assert tuple(f.shape[1] for f in features) == net.feature_channels
    assert tuple(f.shape[1] for f in levels) == net.level_channels
    assert levels[0] is features[-1]
    assert levels[-1].shape[-2:] == size
    sides = [f.shape[-1] for f in features]
    assert sides == sorted(set(sides), reverse=True)
    sides = [f.shape[-1] for f in levels]
    assert sides == sorted(set(sides))


@each
def test_every_parameter_has_a_finite_gradient(name):
    net = build(name)
    F.cross_entropy(net(images(2, 1, 64, 64)), torch.randint(0, 3, (2, 64, 64))).backward()
    for key, p in net.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key


@each
def test_a_seed_repeats_weights_and_dropout_and_another_changes_them(name):
    x, found = images(2, 1, 64, 64), []
    for seed in (0, 0, 1):
        net = build(name, seed)
        found.append(net(x).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@each
def test_a_saved_network_loads_and_answers_alike(name, tmp_path):
    net, x = build(name), images(2, 1, 64, 64)
    net(x)  # moves the norms' statistics
    torch.save(net.state_dict(), tmp_path / "net.pth")
    other = build(name, seed=5)
    other.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(x), net.eval()(x))
        assert torch.equal(copy.deepcopy(net)(x), net(x))


@each
def test_bfloat16_autocast_is_near_float32_in_either_memory_format(name):
    net, x = build(name).eval(), images(2, 1, 64, 64)
    with torch.no_grad():
        exact = net(x)
        last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, exact, atol=1e-4, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        low = net.train()(x)
        low.float().square().mean().backward()
        rough = net.eval()(x)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert rough.dtype == torch.bfloat16
    build_again = build(name).eval()  # the statistics of the norms as they were
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (build_again(x).float() - exact).abs().mean() < 0.05 * exact.std() + 0.01


@each
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(name):
    net = build(name).eval()
    with pytest.raises(InputError, match=rf"multiples of {net.divisor}, got 50x64.*--size \d+") as refused:
        net(images(1, 1, 50, 64))
    size = int(str(refused.value).split("--size ")[1])
    with torch.no_grad():
        assert net(images(1, 1, size, 64)).shape == (1, 3, size, 64)
    with pytest.raises(InputError, match="expected 1 image channel"):
        net(images(1, 2, 64, 64))
    assert build(name, in_channels=2).eval()(images(1, 2, 64, 64)).shape == (1, 3, 64, 64)


@each
def test_the_features_can_be_perturbed(name):
    net, x = build(name).eval(), images(2, 1, 64, 64)
    with torch.no_grad():
        features = net.encode(x)
        stream = keyed_stream(3, torch.arange(2))
        dropped = ChannelDropout(0.5)(features, stream)
        assert [f.shape for f in dropped] == [f.shape for f in features]
        assert not torch.equal(net.decode(dropped), net.decode(features))


@each
def test_images_of_a_batch_do_not_meet_when_predicting(name):
    net, x = build(name).eval(), images(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[1:2], net(x[1:2]), atol=1e-5, rtol=1e-4)


def test_windows_are_cut_and_joined():
    x = images(2, 8, 12, 5)
    windows = split_windows(x, 4, 6)
    assert torch.equal(windows[1, 3], x[1, 4:, 6:].reshape(24, 5))
    assert torch.equal(join_windows(windows, 4, 6, 8, 12), x)


def test_resizing_a_grid_is_torchs_interpolation():
    x = images(2, 3, 4, 5)
    slow = F.interpolate(x.permute(0, 3, 1, 2), size=(7, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_grid(x, 7, 16), slow.permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_mixed_attention_is_the_formula_written_out(size):
    torch.manual_seed(0)
    layer, heads = LocalGlobalAttention(16, 8).double(), 8
    nn.init.normal_(layer.shift)
    x = images(1, *size, 16).double()
    (height, width), d = size, 2
    rows, columns = -(-height // 4), -(-width // 4)
    local, pooled = torch.zeros_like(x), torch.zeros(rows, columns, 16).double()
    for i in range(rows):
        for j in range(columns):
            cell = x[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            h, w = cell.shape[:2]
            q, k, v = layer.local_qkv(cell.reshape(-1, 16)).chunk(3, -1)
            out = [
                (q[:, s] @ k[:, s].T / d**0.5).softmax(-1) @ v[:, s]
                for s in (slice(d * a, d * a + d) for a in range(heads))
            ]
            tokens = layer.local_out(torch.cat(out, -1))
            local[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = tokens.view(h, w, 16)
            score = layer.pool(tokens.mean(0)).view(4, 4)[:h, :w].flatten()  # weights of the window's real places
            pooled[i, j] = score.softmax(0) @ tokens
    q, k, v = layer.global_qkv(pooled).chunk(3, -1)
    out = torch.zeros_like(pooled)
    for i in range(rows):
        for j in range(columns):
            for a in range(heads):
                s, shift = slice(d * a, d * a + d), F.softplus(layer.shift[a])
                row = torch.stack([q[i, j, s] @ k[i, n, s] / d**0.5 - shift * (j - n) ** 2 for n in range(columns)])
                column = torch.stack([q[i, j, s] @ k[n, j, s] / d**0.5 - shift * (i - n) ** 2 for n in range(rows)])
                out[i, j, s] = row.softmax(0) @ v[i, :, s] + column.softmax(0) @ v[:, j, s]
    coarse = layer.global_out(out).permute(2, 0, 1)[None]
    fine = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)[:, :, :height, :width]
    expected = layer.squeeze(torch.cat([local, fine.permute(0, 2, 3, 1)], -1))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (6, 11), (3, 9)])
def test_a_token_attends_to_its_shifted_window_and_not_across_borders_or_to_padding(size, shifted):
    torch.manual_seed(0)
    layer, d = WindowAttention(8, 2, 4, shifted).double(), 4
    x = images(1, *size, 8).double()
    places = [(r, c) for r in range(size[0]) for c in range(size[1])]
    shift = [2 if shifted and side > 4 else 0 for side in size]
    window = [tuple((p + 4 - s) // 4 if s else p // 4 for p, s in zip(place, shift, strict=True)) for place in places]
    q, k, v = layer.qkv(x[0].reshape(-1, 8)).chunk(3, -1)
    expected = torch.zeros(len(places), 8).double()
    for n, (r, c) in enumerate(places):
        seen = [m for m in range(len(places)) if window[m] == window[n]]
        for a in range(2):
            s = slice(d * a, d * a + d)
            bias = torch.stack([layer.bias[a, r - places[m][0] + 3, c - places[m][1] + 3] for m in seen])
            expected[n, s] = (k[seen, s] @ q[n, s] / d**0.5 + bias).softmax(0) @ v[seen, s]
    torch.testing.assert_close(layer(x)[0].reshape(-1, 8), layer.out(expected))


@pytest.mark.parametrize(("window", "patch", "divisor"), [(4, 2, 8), (7, 4, 16), (8, 2, 8)])
def test_swin_unet_takes_windows_that_do_not_fit_its_grids(window, patch, divisor):
    net = build("SwinUNet", window=window, patch=patch).eval()
    assert net.divisor == divisor
    with torch.no_grad():
        assert net(images(1, 1, 48, 80)).isfinite().all()


def test_swin_unet_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(InputError, match="heads=3 does not divide the 8 channels"):
        build("SwinUNet", heads=(3, 2, 4))
    with pytest.raises(InputError, match="one value per level"):
        build("SwinUNet", heads=(1, 2))


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (208, 16)])
def test_mt_unet_takes_any_multiple_of_16(size):
    net = build("MTUNet").eval()
    with torch.no_grad():
        assert net(images(1, 1, *size)).shape == (1, 3, *size)


def test_mt_unet_of_full_width_has_the_published_channels():
    with torch.device("meta"):
        net = BACKBONES.build(dict(type="MTUNet", num_classes=4))
    assert net.feature_channels == (64, 128, 256, 256, 512, 1024)
    assert net.positions.shape == (1, 28, 28, 256)


def test_timm_unet_says_how_to_get_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        BACKBONES.build(dict(type="TimmUNet", num_classes=3))


def test_timm_unet_takes_pyramids_that_start_at_stride_4_and_refuses_what_is_none():
    small = dict(dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    net = build("TimmUNet", encoder="convnext_atto", encoder_args=small).eval()
    assert net.feature_channels == (8, 8, 16, 16)
    with torch.no_grad():
        assert net(images(1, 1, 32, 64)).shape == (1, 3, 32, 64)
    small = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), strict_img_size=False)
    net = build("TimmUNet", encoder="swin_tiny_patch4_window7_224", encoder_args=small).eval()  # channels-last maps
    with torch.no_grad():
        assert net(images(1, 1, 64, 64)).shape == (1, 3, 64, 64)
    with pytest.raises(InputError, match="'vit_tiny_patch16_224' gives maps of stride 16, 16"):
        build("TimmUNet", encoder="vit_tiny_patch16_224")
    with pytest.raises(InputError, match="no feature pyramid of encoder 'resnet10' .*did you mean .*resnet10t"):
        build("TimmUNet", encoder="resnet10")
    with pytest.raises(InputError, match="needs 5 values in channels"):
        build("TimmUNet", channels=(4, 8))
