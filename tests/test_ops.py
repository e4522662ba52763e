"""The compiled kernels compute what torch computes in float64."""

import subprocess

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmems import ops
from cmems.models.layers import ConvNormAct, Dropout, MaxPool2x, Upsample2x
from cmems.ops import build

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))
SHAPES = pytest.mark.parametrize("shape", [(3, 16, 10, 14), (2, 48, 6, 6), (5, 256, 4, 2), (1, 32, 2, 2)])
needs_kernels = pytest.mark.skipif(ops.why_not() is not None, reason=f"compiled kernels: {ops.why_not()}")


@pytest.fixture
def fresh():
    """Let a test change how the kernels are found, and forget it afterwards."""
    build.load.cache_clear()
    yield
    build.load.cache_clear()
    ops.enable(True)


def maps(shape, dtype, offset=0.0):
    return (2 * torch.randn(shape) + offset).to(dtype).contiguous(memory_format=torch.channels_last)


def pair(x):
    """Return a leaf, and a float64 leaf of the same values."""
    return x.clone().requires_grad_(), x.double().requires_grad_()


def assert_near(found, wanted, dtype):
    assert (found.double() - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max().clamp(min=1e-3)


@needs_kernels
@DTYPES
@SHAPES
def test_norm_and_activation_are_those_of_torch(shape, dtype):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    (x, x64), weight, bias = (
        pair(maps(shape, dtype, 3)),
        *(p.detach().float().requires_grad_() for p in norm.parameters()),
    )
    found, mean, variance = ops.NormActDrop.apply(x, weight, bias, norm.eps, 0.01, 0.0, [0], [shape[0]])
    wanted, gradient = F.leaky_relu(norm(x64), 0.01), maps(shape, dtype)
    found.backward(gradient)
    wanted.backward(gradient.double())
    assert_near(found, wanted, dtype)
    assert_near(x.grad, x64.grad, dtype)
    assert_near(weight.grad, norm.weight.grad, torch.float32)
    assert_near(bias.grad, norm.bias.grad, torch.float32)
    assert_near(mean[0], x64.mean((0, 2, 3)), torch.float32)
    assert_near(variance[0], x64.var((0, 2, 3), unbiased=False), torch.float32)


@needs_kernels
def test_the_variance_survives_a_mean_a_thousand_times_larger():
    torch.manual_seed(0)
    x = maps((4, 16, 64, 64), torch.float32, 2000)
    _, _, variance = ops.NormActDrop.apply(x, torch.ones(16), torch.zeros(16), 1e-5, 0.01, 0.0, [0], [4])
    torch.testing.assert_close(variance[0].double(), x.double().var((0, 2, 3), unbiased=False), rtol=1e-4, atol=0)


@needs_kernels
@DTYPES
def test_dropout_drops_its_rate_alike_in_both_directions_and_as_the_seed_says(dtype):
    torch.manual_seed(0)
    x = maps((4, 32, 64, 64), dtype).requires_grad_()
    call = lambda rate, seed: ops.NormActDrop.apply(x, torch.ones(32), torch.ones(32), 1e-5, 0.5, rate, [seed], [4])[0]  # noqa: E731
    plain, dropped = call(0.0, 0), call(0.3, 7)
    kept = dropped != 0
    assert abs(kept.float().mean() - 0.7) < 3 * (0.21 / kept.numel()) ** 0.5
    assert_near(dropped[kept].double(), plain[kept].double() / 0.7, dtype)
    assert torch.equal(dropped, call(0.3, 7))
    for other in (call(0.3, 8), call(0.3, 7 + 2**32)):  # independent: both kept as often as chance has it
        assert abs((kept & (other != 0)).float().mean() - 0.49) < 0.005
    for axis in (1, 2, 3):
        both = kept.narrow(axis, 1, kept.shape[axis] - 1) & kept.narrow(axis, 0, kept.shape[axis] - 1)
        assert abs(both.float().mean() - 0.49) < 0.005
    dropped.sum().backward()
    # A gradient of ones at what is kept, through the norm: torch's, with the mask as a constant.
    reference = x.detach().double().requires_grad_()
    norm = nn.BatchNorm2d(32).double()
    nn.init.ones_(norm.bias)
    (F.leaky_relu(norm(reference), 0.5) * kept / 0.7).sum().backward()
    assert_near(x.grad, reference.grad, dtype)


@needs_kernels
@DTYPES
@SHAPES
@pytest.mark.parametrize("skipped", [0, 32])
def test_upsampling_behind_a_skip_is_torch_s(shape, dtype, skipped):
    torch.manual_seed(0)
    batch, channels, height, width = shape
    x, x64 = pair(maps(shape, dtype))
    skip, skip64 = pair(maps((batch, skipped, 2 * height, 2 * width), dtype)) if skipped else (None, None)
    found = Upsample2x()(x, skip)
    assert "Upsample2x" in str(found.grad_fn)
    wanted = F.interpolate(x64, scale_factor=2, mode="bilinear", align_corners=True)
    wanted = torch.cat([skip64, wanted], dim=1) if skipped else wanted
    gradient = maps(found.shape, dtype)
    found.backward(gradient)
    wanted.backward(gradient.double())
    assert_near(found, wanted, dtype)
    assert_near(x.grad, x64.grad, dtype)
    if skipped:
        assert torch.equal(skip.grad.double(), skip64.grad)


@needs_kernels
@DTYPES
@SHAPES
def test_pooling_is_torch_s_with_ties_and_nan(shape, dtype):
    torch.manual_seed(0)
    x = maps(shape, dtype).round()  # many ties
    x[0, 0, 0, 1] = float("nan")
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = MaxPool2x()(ours), F.max_pool2d(theirs, 2)
    assert "MaxPool2x" in str(found.grad_fn)
    gradient = torch.randn_like(wanted)
    found.backward(gradient)
    wanted.backward(gradient)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours.grad, theirs.grad)


@needs_kernels
@DTYPES
@pytest.mark.parametrize("size", [(8, 8), (13, 6), (1, 30), (70, 33)], ids=str)
@pytest.mark.parametrize("channels", [(16, 16), (32, 48), (48, 32), (160, 64)], ids=str)
@pytest.mark.parametrize("form", ["weights in order", "channels last", "no bias"])
def test_the_convolution_of_a_prediction_is_torch_s(dtype, size, channels, form):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(*channels, 3, padding=1, bias=form != "no bias"), nn.BatchNorm2d(channels[1]).eval()
    conv = conv.to(memory_format=torch.channels_last if form == "channels last" else torch.contiguous_format)
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = maps((3, channels[0], *size), dtype)
    found = ops.convolve(x, conv, norm, 0.01)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_near(found, F.leaky_relu(norm.double()(conv.double()(x.double())), 0.01), dtype)


@needs_kernels
def test_a_block_predicts_as_one_operator_where_that_computes_the_same(monkeypatch, fresh):
    torch.manual_seed(0)
    block = ConvNormAct(16, 32, norm_cfg=dict(type="BN"), act_cfg=dict(type="LeakyReLU")).eval()
    nn.init.uniform_(block.norm.running_var, 0.5, 2)
    x, calls, convolve = maps((2, 16, 12, 12), torch.float32), [], ops.convolve
    monkeypatch.setattr(ops, "convolve", lambda *a: calls.append(1) or convolve(*a))
    with torch.no_grad():
        ours = block(x)
        assert len(calls) == 1
        ops.enable(False)
        torch.testing.assert_close(ours, block(x), rtol=1e-4, atol=1e-4)
        ops.enable(True)
        with torch.autocast("cpu", torch.bfloat16):  # float32 would come out where torch has bfloat16
            assert block(x).dtype == torch.bfloat16
        for attribute, value in [("stride", (2, 2)), ("padding_mode", "reflect"), ("dilation", (2, 2))]:
            with monkeypatch.context() as patch:
                patch.setattr(block.conv, attribute, value)
                block(x)
        with pytest.raises(RuntimeError, match="16 channels"):  # torch's message, not a read beyond the map
            block(maps((2, 32, 12, 12), torch.float32))
    assert block(x).requires_grad
    with torch.no_grad():
        block.train()(x)
        ConvNormAct(16, 32, norm_cfg=None, act_cfg=dict(type="LeakyReLU"))(x)
        ConvNormAct(16, 24, norm_cfg=dict(type="BN"), act_cfg=dict(type="LeakyReLU")).eval()(x)
    assert len(calls) == 1


@needs_kernels
@DTYPES
@pytest.mark.parametrize("networks", [1, 2, 3])
@pytest.mark.parametrize("classes", [2, 4, 200])
def test_labels_are_those_of_the_probabilities(dtype, networks, classes):
    torch.manual_seed(0)
    logits = [maps((3, classes, 7, 9), dtype) for _ in range(networks)]
    logits[0][0] = 1.0  # ties: the first of equals
    logits[-1][1] *= 100
    p = torch.stack([each.double().softmax(1) for each in logits])
    wanted = [*(each.argmax(1) for each in p), *([p.mean(0).argmax(1)] if networks > 1 else [])]
    assert torch.equal(ops.label(logits), torch.stack(wanted).to(torch.uint8))


def test_logits_of_other_shapes_and_of_too_many_classes_are_refused():
    for logits in ([torch.rand(1, 4, 2, 2), torch.rand(1, 3, 2, 2)], [torch.rand(1, 257, 2, 2)]):
        with pytest.raises(ValueError, match="one shape, of up to 256 classes, got"):
            ops.label(logits)


@needs_kernels
def test_no_result_depends_on_the_number_of_threads():
    torch.manual_seed(0)
    x, skip, gradient = (maps((3, c, s, s), torch.bfloat16) for c, s in ((16, 40), (16, 80), (32, 80)))
    convolution, norm = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32).eval()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaf, weight = x.clone().requires_grad_(), torch.ones(16, requires_grad=True)
            y, mean, variance = ops.NormActDrop.apply(leaf, weight, torch.zeros(16), 1e-5, 0.01, 0.2, [5, 6], [1, 2])
            ops.Upsample2x.apply(y, skip).backward(gradient)
            conv = ops.convolve(skip, convolution, norm, 0.01)
            found.append((y, mean, variance, leaf.grad, weight.grad, conv))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_kernels
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_block_keeps_the_running_statistics_that_torch_keeps(momentum, fresh):
    torch.manual_seed(0)
    block = ConvNormAct(1, 16, norm_cfg=dict(type="BN", momentum=momentum), act_cfg=dict(type="LeakyReLU")).train()
    block = block.to(memory_format=torch.channels_last)
    images = [torch.rand(4, 1, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    states = []
    for on in (True, False):
        ops.enable(on)
        block.norm.reset_running_stats()
        outputs = [block(each, Dropout(0.0)) for each in images]
        assert ("NormActDrop" in str(outputs[0].grad_fn)) == on
        states.append([*outputs, *(b.clone() for b in block.norm.buffers())])
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_the_kernels_do_not_take_goes_to_torch(fresh):
    last = torch.rand(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    refused = [last.contiguous(), last.double(), last.half(), last[:, :15], last[:0], last[0]]
    assert not any(ops.usable(x) for x in refused)
    assert not ops.usable(last, last.bfloat16())
    assert ops.usable(last) == (ops.why_not() is None)
    ops.enable(False)
    assert not ops.usable(last)
    assert ops.why_not() == "switched off"


def test_without_a_compiler_the_reason_is_told(monkeypatch, fresh):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert "no C++ compiler" in ops.why_not()
    assert MaxPool2x()(torch.rand(1, 16, 4, 4)).shape == (1, 16, 2, 2)


def test_a_compiler_that_fails_is_quoted(monkeypatch, fresh, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert str(broken) in ops.why_not()
    assert "unknown option" in ops.why_not()


@needs_kernels
def test_a_home_that_cannot_be_written_to_is_no_obstacle(monkeypatch, fresh, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ops.why_not() is None


@needs_kernels
def test_the_library_is_compiled_once(monkeypatch, fresh, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ops.why_not() is None
    assert [p.suffix for p in (tmp_path / "cmems").iterdir()] == [".so"]
    build.load.cache_clear()
    ran = subprocess.run
    monkeypatch.setattr(build.subprocess, "run", lambda c, **k: pytest.fail(f"ran {c}") if "-c" in c else ran(c, **k))
    assert ops.why_not() is None
