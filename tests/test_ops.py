"""The compiled kernels compute what torch computes in float64, and leave to torch what they do not take."""

import copy
import errno
import os
import random
import re
import shutil
import subprocess
import sys
import time
from ctypes import c_float, c_int, c_int64
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmems import ops
from cmems.evaluation import scores
from cmems.models.layers import ConvNormAct, Dropout, MaxPool2x, Upsample2x, views_in_one_batch
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
    monkeypatch.setattr(ops, "convolve", lambda *a: calls.append(convolve(*a)) or calls[-1])
    taken = lambda: sum(y is not None for y in calls)  # noqa: E731
    with torch.no_grad():
        ours = block(x)
        assert taken() == 1
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
    assert taken() == 1


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


def test_flags_that_are_none_are_told(monkeypatch, fresh):
    monkeypatch.setenv("CMEMS_CXXFLAGS", "'x")
    assert ops.why_not() == "CMEMS_CXXFLAGS: expected flags as a shell takes them (No closing quotation)"


@pytest.fixture
def compiled(monkeypatch, fresh, tmp_path):
    """Compile by copying the library that is there, into a cache of the test's own; return it and the calls."""
    if ops.why_not() is not None:
        pytest.skip(f"compiled kernels: {ops.why_not()}")
    library, calls = shutil.copy(build.load()[0]._name, tmp_path / "library"), []
    monkeypatch.setattr(build, "_compile", lambda c, f, folder: calls.append(1) or Path(shutil.copy(library, folder)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    build.load.cache_clear()
    return tmp_path / "home" / "cmems", calls


@needs_kernels
def test_the_library_is_compiled_once(monkeypatch, fresh, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ops.why_not() is None
    assert [p.suffix for p in (tmp_path / "cmems").iterdir()] == [".so"]
    build.load.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *a: pytest.fail("compiled again"))
    assert ops.why_not() is None


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped bit", "text"])
def test_a_damaged_library_is_compiled_again(compiled, damage):
    cache, calls = compiled
    assert ops.why_not() is None
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 4
    content = {"cut": whole[:5000], "empty": b"", "flipped bit": bytes(broken), "text": b"no library"}[damage]
    path.unlink()  # the old one is loaded
    path.write_bytes(content)
    build.load.cache_clear()
    assert ops.why_not() is None
    assert len(calls) == 2
    assert path.read_bytes() == whole
    assert list(cache.iterdir()) == [path]


def test_the_library_of_another_user_is_not_loaded(monkeypatch, compiled):
    _, calls = compiled
    assert ops.why_not() is None
    build.load.cache_clear()
    monkeypatch.setattr(build, "_own", lambda path: False)
    assert ops.why_not() is None
    assert len(calls) == 2


def test_the_library_is_flushed_before_it_has_its_name(monkeypatch, compiled):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(build.os, "fsync", lambda n: done.append("flushed") or fsync(n))
    monkeypatch.setattr(build.os, "replace", lambda a, b: done.append("named") or replace(a, b))
    assert ops.why_not() is None
    assert done == ["flushed", "named"]


@pytest.mark.parametrize("obstacle", ["file", "full disk", "no home"])
def test_a_home_that_cannot_be_written_to_is_no_obstacle(monkeypatch, compiled, obstacle):
    cache, calls = compiled

    def refuse(*_):
        raise {"full disk": OSError(errno.ENOSPC, "full"), "no home": RuntimeError("no home")}[obstacle]

    if obstacle == "file":
        cache.parent.write_text("")
    elif obstacle == "full disk":
        monkeypatch.setattr(build.os, "fsync", refuse)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(build.Path, "home", refuse)
    assert ops.why_not() is None
    assert len(calls) == 1
    assert not cache.is_dir() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exit code 3"),
        ("echo ' ' >&2; exit 3", "exit code 3"),
        (r"printf 'gr\366\337er\n' >&2; exit 1", "gr\ufffd\ufffder"),
        ("exit 0", "it made no library"),
        ("sleep 60 & echo $! > $PIDS; wait", "still at it"),
        (r"printf '\366'; for out; do :; done; [ $out = --version ] || echo text > $out", "header|too short"),
    ],
    ids=["says nothing", "says a blank", "Latin-1", "makes nothing", "hangs", "makes no library"],
)
def test_a_compiler_that_is_none_is_survived(monkeypatch, fresh, tmp_path, script, reason):
    compiler, pids, cache = tmp_path / "g++", tmp_path / "pids", tmp_path / "cmems"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    for name, value in (("CXX", compiler), ("PIDS", pids), ("XDG_CACHE_HOME", tmp_path)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(build, "_SECONDS", 0.5 if "sleep" in script else 60)
    assert ops.why_not().startswith(str(compiler))
    assert re.search(reason, ops.why_not())
    assert MaxPool2x()(torch.rand(1, 16, 4, 4)).shape == (1, 16, 2, 2)
    assert not cache.exists() or not list(cache.iterdir())
    if pids.exists():  # what it started ends, too
        state = Path("/proc", pids.read_text().strip(), "stat")
        ended = lambda: not state.exists() or state.read_text().split()[2] == "Z"  # noqa: E731
        assert any(ended() or time.sleep(0.05) for _ in range(100))


def test_openmp_is_found_by_its_name(monkeypatch, tmp_path):
    package, beside = tmp_path / "torch" / "lib", tmp_path / "torch.libs"
    for folder in (package, beside):
        folder.mkdir(parents=True)
    (package / "libbackend_with_compiler.so").write_text("")
    monkeypatch.setattr(build.torch, "__path__", [str(tmp_path / "torch")])
    assert build._openmp() == ["-fopenmp"]
    for name in ("libgomp-a34b3233.so.1", "libgomp-a34b3233.so.1.0.0", "libiomp5.so", "libomp.dylib", "libgomp.so.1"):
        (beside / name).write_text("")
        assert build._openmp() == [beside / name]
        (beside / name).unlink()


# What a user's own network may hand to the layers.

FORMS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "in order": lambda x: x.contiguous(),
    "turned": lambda x: x.transpose(2, 3).contiguous(memory_format=torch.channels_last).transpose(2, 3),
    "every second": lambda x: x.repeat_interleave(2, 3).contiguous(memory_format=torch.channels_last)[..., ::2],
    "some channels": lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]],
    "cropped": lambda x: F.pad(x, (1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)[..., 1:-1, 1:-1],
    "one for all": lambda x: x[:1].contiguous(memory_format=torch.channels_last).expand_as(x),
    "off the start": lambda x: torch.cat([x[:1], x]).contiguous(memory_format=torch.channels_last)[1:],
}


def outcome(on, layer, *tensors, backwards=True):
    """Return what a layer gives, forwards and backwards, or the error; with the kernels on or off."""
    ops.enable(on)
    torch.manual_seed(1)
    leaves = [None if x is None else x.detach().requires_grad_() for x in tensors]
    try:
        found = layer(*leaves)
        if backwards:
            found.backward(torch.randn_like(found, memory_format=torch.contiguous_format))
    except Exception as error:  # torch's, whichever it is
        return type(error), str(error)
    return [found.detach(), *(x.grad for x in leaves if backwards and x is not None)]


def assert_alike(layer, *tensors, backwards=True, digits=None, note=""):
    ours, torchs = (outcome(on, layer, *tensors, backwards=backwards) for on in (True, False))
    kinds = [type(x) if x is None else (tuple(x.shape), x.dtype, x.stride()) for x in tensors]
    note = f"{note} of {kinds}"
    if isinstance(torchs, tuple) or isinstance(ours, tuple):
        assert ours == torchs, note
        return
    for found, wanted in zip(ours, torchs, strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), note
        assert torch.equal(found.isnan(), wanted.isnan()), note
        atol = (digits or TOLERANCE.get(found.dtype, 1e-2)) * wanted.nan_to_num().abs().max().clamp(min=1).item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=atol, equal_nan=True, msg=lambda said: f"{note}: {said}")


def draw(rng, *shape, forms, dtypes=2 * [torch.float32, torch.bfloat16] + [torch.float64, torch.float16]):
    return FORMS[rng.choice(forms)](torch.randn(shape).to(rng.choice(dtypes)))


@pytest.mark.parametrize("seed", range(60))
def test_upsampling_and_pooling_answer_as_torch_does_whatever_they_are_given(fresh, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    batch, channels = rng.randint(1, 3), rng.choice([1, 15, 16, 16, 16, 32, 48])
    height, width = (rng.choice([1, 2, 3, 4, 4, 6, 6, 8]) for _ in range(2))
    forms = rng.choice([("channels last",), tuple(FORMS)])
    x = draw(rng, batch, channels, height, width, forms=forms)
    assert_alike(MaxPool2x(), x)
    assert_alike(Upsample2x(), x, None)
    sizes = [batch, rng.choice([8, 16, 32]), 2 * height, 2 * width]
    if rng.random() < 0.6:
        at = rng.choice([0, 2, 3])
        sizes[at] = max(1, sizes[at] + rng.choice([-1, 1, sizes[at]]))
    dtypes = (x.dtype,) if rng.random() < 0.7 else (torch.float32, torch.bfloat16)
    assert_alike(Upsample2x(), x, draw(rng, *sizes, forms=forms, dtypes=dtypes))
    assert_alike(MaxPool2x(), x[0])
    assert_alike(Upsample2x(), x[0], None)


def layer_of(**settings):
    torch.manual_seed(0)
    layers = dict(norm_cfg=dict(type="BN"), act_cfg=dict(type="LeakyReLU", inplace=False), **settings)
    block = ConvNormAct(16, 32, **layers).to(memory_format=torch.channels_last)
    for name, values in (*block.norm.named_parameters(), *list(block.norm.named_buffers())[:2]):
        nn.init.uniform_(values, 0.5, 2) if "bias" not in name else nn.init.normal_(values)
    return block


def hooked(module, kind):
    getattr(module, f"register_forward_{kind}hook")(lambda m, x, *y: 2 * y[0] if y else (2 * x[0],))


def change(module, name, to):
    old = getattr(module, name)
    module._parameters.pop(name, None), module._buffers.pop(name, None)
    setattr(module, name, nn.Parameter(to(old.detach())) if isinstance(old, nn.Parameter) else to(old))


CHANGES = {
    "gap": lambda v: v.repeat_interleave(2, 0)[::2],
    "double": lambda v: v.double(),
    "bfloat16": lambda v: v.bfloat16(),
    "short": lambda v: v[:-16],
    "long": lambda v: torch.cat([v, v]),
    "matrix": lambda v: v[None],
    "one": lambda v: v[:1].expand_as(v),
}


def settings():
    """Yield (name, a block as users make or change it)."""
    yield "plain", layer_of()
    yield "other order", layer_of(order=("act", "conv", "norm"))
    yield "mirrored edges", layer_of(padding_mode="reflect")
    yield "wrapped edges", layer_of(padding_mode="circular")
    yield "stride", layer_of(stride=2)
    yield "groups", layer_of(groups=2)
    yield "spectral norm", layer_of(with_spectral_norm=True)
    for owner in ("conv", "norm"):
        for name in ("weight", "bias", "running_mean", "running_var")[: 2 if owner == "conv" else 4]:
            for kind, to in CHANGES.items():
                block = layer_of()
                change(getattr(block, owner), name, to)
                yield f"{owner}.{name} {kind}", block
            block = layer_of()
            setattr(getattr(block, owner), name, None)
            yield f"{owner}.{name} None", block
    for owner in ("conv", "norm", "activate"):
        for kind in ("", "pre_"):
            block = layer_of()
            hooked(getattr(block, owner), kind)
            yield f"{owner} {kind}hook", block
    block = layer_of()
    block.norm.num_batches_tracked = None
    yield "no count", block
    block = layer_of()
    block.activate.negative_slope = -0.5
    yield "falling", block


@pytest.mark.parametrize("run", ["train", "eval", "views"])
def test_a_block_answers_as_torch_does_however_it_is_made_and_changed(fresh, run):
    for name, block in settings():
        block.train(run != "eval")

        def layer(x, block=block):
            block = copy.deepcopy(block)  # each starts from the same statistics
            views = [1, 1], [torch.Generator(), torch.Generator()]
            with views_in_one_batch(*views) if run == "views" else torch.set_grad_enabled(run == "train"):
                y = block(x)
            return torch.cat([y.flatten(), *(b.flatten() for b in block.buffers())])

        for dtype in (torch.float32, torch.bfloat16):
            assert_alike(layer, maps((2, 16, 6, 5), dtype), backwards=run != "eval", digits=1e-4, note=name)


@pytest.mark.parametrize("dropout", [nn.Dropout2d(0.5), nn.Dropout(1.0), Dropout(1.0), nn.AlphaDropout(0.5)], ids=str)
def test_a_dropout_that_drops_otherwise_is_torch_s(fresh, dropout):
    block, x = layer_of().train(), maps((2, 16, 6, 6), torch.float32)
    assert_alike(lambda x: block(x, dropout), x)


def test_a_rate_of_one_leaves_nothing():
    assert not Dropout(1.0)(torch.ones(3, 16, 64, 64)).any()


@pytest.mark.parametrize("made", [dict(order=("act", "conv", "norm")), dict(padding_mode="reflect")], ids=str)
def test_a_block_made_otherwise_answers_each_view_as_if_alone(made):
    block, x = layer_of(**made).train(), maps((3, 16, 6, 5), torch.float32)
    with views_in_one_batch([1, 2], [torch.Generator(), torch.Generator()]):
        found = block(x)
    torch.testing.assert_close(found, torch.cat([block(x[:1]), block(x[1:])]))


def test_a_map_without_a_batch_is_torch_s_error(fresh):
    assert_alike(layer_of().train(), maps((1, 16, 6, 6), torch.float32)[0])


@needs_kernels
def test_the_operators_refuse_what_they_would_read_or_write_beyond():
    x, ones = maps((2, 16, 4, 4), torch.float32), torch.ones(16)
    last, skip = maps((2, 16, 4, 5), torch.float32), lambda *s, d=torch.float32: maps(s, d)
    norm = lambda x, w=ones, b=ones, rate=0.0, seeds=(0,), parts=(2,): (  # noqa: E731
        ops.NormActDrop.apply(x, w, b, 1e-5, 0.01, rate, seeds, parts)
    )
    for call in (
        lambda: ops.MaxPool2x.apply(last),
        lambda: ops.MaxPool2x.apply(x.double()),
        lambda: ops.MaxPool2x.apply(x[0]),
        lambda: ops.MaxPool2x.apply(x.contiguous()),
        lambda: ops.MaxPool2x.apply(x[:, :8]),
        lambda: ops.Upsample2x.apply(x, skip(2, 16, 8, 9)),
        lambda: ops.Upsample2x.apply(x, skip(1, 16, 8, 8)),
        lambda: ops.Upsample2x.apply(x, skip(2, 8, 8, 8)),
        lambda: ops.Upsample2x.apply(x, skip(2, 16, 8, 8, d=torch.bfloat16)),
        lambda: norm(x, ones[:8]),
        lambda: norm(x, ones.double()),
        lambda: norm(x, ones, torch.ones(32)[::2]),
        lambda: norm(x, parts=(1,)),
        lambda: norm(x, parts=(2, 0), seeds=(0, 0)),
        lambda: norm(x, parts=(1, 1)),
        lambda: norm(x, rate=1.0),
        lambda: ops.label([x.contiguous()]),
        lambda: ops.label([x, x.bfloat16()]),
        lambda: build.call("pool", torch.float32, x.to("meta")),
    ):
        with pytest.raises(ValueError, match="the compiled kernels do not take|expected"):
            call()
    conv, batch_norm = nn.Conv2d(32, 16, 3, padding=1), nn.BatchNorm2d(16)
    assert ops.convolve(x, conv, batch_norm, 0.01) is None


@needs_kernels
def test_too_little_memory_is_an_error_in_python():
    if os.environ.get("CMEMS_CXXFLAGS"):
        pytest.skip("AddressSanitizer ends the process instead")
    x, many = torch.zeros(16), torch.zeros(2**16)
    sizes = *(c_int64(1) for _ in range(3)), c_int(2**30), c_int(2**16)  # 2^60 bytes and more of transformed weights
    with pytest.raises(MemoryError, match="too little memory"):
        build.call("convolve", x.dtype, x, x, (c_int64 * 4)(), *[many] * 5, c_float(0), x, *sizes, c_float(0))


@needs_kernels
def test_the_default_type_and_device_do_not_matter():
    x, skip = maps((2, 16, 4, 4), torch.float32), maps((2, 16, 8, 8), torch.float32)
    trained, predicting = [layer_of().train() for _ in range(2)], layer_of().eval()

    def run():
        leaf = x.clone().requires_grad_()
        y = Upsample2x()(MaxPool2x()(leaf), skip[..., :4, :4].contiguous(memory_format=torch.channels_last))
        z = trained.pop()(leaf)
        (y.square().sum() + z.square().sum()).backward()
        with torch.no_grad():
            return y.detach(), z.detach(), leaf.grad, predicting(x), ops.label([x, -x])

    wanted = run()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs_kernels
@pytest.mark.filterwarnings("ignore")
def test_what_torch_traces_and_transforms_goes_to_torch():
    x, y = (maps((2, 16, 4, 4), torch.float32) for _ in range(2))
    block = layer_of().eval()
    for layer in (MaxPool2x(), Upsample2x(), block):
        with torch.no_grad():
            assert torch.equal(torch.jit.trace(layer, x)(y), torch.jit.trace(layer, y)(y))
            together = torch.func.vmap(layer)(torch.stack([x, y]))
            torch.testing.assert_close(together, torch.stack([layer(x), layer(y)]), rtol=1e-4, atol=1e-4)
    with torch._subclasses.FakeTensorMode() as mode:  # sizes without memory
        fake = mode.from_tensor(x)
        assert MaxPool2x()(fake).shape == (2, 16, 2, 2)
        assert Upsample2x()(fake, None).shape == (2, 16, 8, 8)


@needs_kernels
@pytest.mark.parametrize("seed", range(8))
def test_scores_are_scipy_s_whatever_the_labels_are_stored_as(fresh, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    kinds = [np.uint8, np.uint16, np.int64] if seed % 2 else [np.uint8]
    volumes = [rng.integers(0, 5, shape).astype(rng.choice(kinds)) for _ in range(3)]
    if volumes[1].dtype == np.int64:
        volumes[1][rng.random(shape) < 0.2] = 256 + 3  # nobody's, and not class 3
        volumes[1][rng.random(shape) < 0.2] = -253
    if seed % 3 == 0:
        volumes = [np.asfortranarray(volumes[0]), volumes[1][::-1], volumes[2]]
    ours = scores.measure(volumes[0], volumes[1:], 4, (3, 1, 0.7), True)
    ops.enable(False)
    theirs = scores.measure(
        *[np.clip(v, -1, 9) for v in volumes[:1]], [np.clip(v, -1, 9) for v in volumes[1:]], 4, (3, 1, 0.7), True
    )
    assert np.array_equal(ours[0][..., 1:], theirs[0][..., 1:])
    np.testing.assert_allclose(ours[1], theirs[1])


@needs_kernels
def test_volumes_that_are_none_are_refused():
    volume = np.zeros((2, 3, 4), np.uint8)
    for arguments in (
        (volume, [volume[:1]], 3, (1, 1, 1)),
        (volume[0], [volume[0]], 3, (1, 1, 1)),
        (volume, [volume], 257, (1, 1, 1)),
        (volume, [volume], 0, (1, 1, 1)),
        (volume, [volume], 3, (1, 1)),
        (volume, [volume], 3, (1, 1, float("nan"))),
        (volume, [volume.astype(float)], 3, (1, 1, 1)),
        (np.broadcast_to(volume[:1, :1, :1], (1, 1, 2**21 + 1)), [], 3, (1, 1, 1)),
    ):
        with pytest.raises(ValueError, match="expected"):
            ops.score_labels(*arguments)


def test_an_interrupt_is_not_lost_where_the_compiler_has_just_ended(monkeypatch):
    def late(process, timeout=None):
        process.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", late)
    with pytest.raises(KeyboardInterrupt):
        build._run(sys.executable, "-c", "")
