"""The compiled operators: on ``(B, C, H, W)`` maps for which ``usable`` holds, and on label volumes.

The classes have first derivatives, the functions none. Each checks what it is given, for C++ would read and write
beyond the memory: ``takes`` tells a layer what to leave to torch; what an operator does not take is a ValueError.
"""

from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from cmems.ops.build import LANES, call, check, load, plain, usable


class NormActDrop(torch.autograd.Function):
    """Batch norm with the batch's statistics, leaky ReLU and dropout in one pass over the map and back.

    y = dropout(leaky_relu(weight (x - mean) / sqrt(var + eps) + bias)), in x's dtype; all arithmetic is float32. Each
    of the ``parts``, whose lengths add up to the batch's, has statistics of its own, and of the ``seeds`` one that
    decides what is dropped. Returns y, and the parts' means and biased variances, ``(P, C)`` without a gradient.
    """

    @staticmethod
    def takes(x, *vectors):
        """Tell whether the operator takes these maps and their channels' weights and biases, ``(C,)`` float32."""
        return usable(x) and _vectors(x.shape[1], vectors)

    @staticmethod
    def forward(context, x, weight, bias, eps, slope, rate, seeds, parts):
        """Normalise, activate, drop."""
        _require(NormActDrop.takes(x, weight, bias), x, weight, bias)
        if min(parts) < 1 or sum(parts) != len(x) or len(seeds) != len(parts) or not 0 <= rate < 1:
            raise ValueError(f"expected parts of {len(x)}, a seed each and a rate in [0, 1), got {parts, seeds, rate}")
        y, channels = torch.empty_like(x), c_int(x.shape[1])
        mean, variance = torch.empty(2, len(parts), x.shape[1], dtype=torch.float32, device="cpu")
        pieces = x.split(parts)
        pixels = [c_int64(piece.numel() // x.shape[1]) for piece in pieces]
        for k, piece in enumerate(pieces):
            call("moments", x.dtype, piece, pixels[k], channels, mean[k], variance[k])
        inverse = (variance + eps).rsqrt()
        gain = weight.detach() * inverse
        offset = bias.detach() - mean * gain
        context.parts = parts
        context.rest = [(c_float(slope), c_double(rate), c_uint64(seed)) for seed in seeds]
        for k, (piece, out) in enumerate(zip(pieces, y.split(parts), strict=True)):
            call("activate", x.dtype, piece, out, pixels[k], channels, gain[k], offset[k], *context.rest[k])
        context.save_for_backward(x, mean, inverse, gain, offset)
        context.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(context, gradient, *_):
        """Return the gradients of x, weight and bias."""
        x, *sums = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx, (dweight, dbias) = torch.empty_like(x), torch.empty(2, *sums[0].shape, dtype=torch.float32, device="cpu")
        pieces = zip(*(t.split(context.parts) for t in (x, gradient, dx)), strict=True)
        for k, maps in enumerate(pieces):
            sizes = c_int64(maps[0].numel() // x.shape[1]), c_int(x.shape[1])
            mine = (each[k] for each in sums)
            call("activate_backward", x.dtype, *maps, *sizes, *mine, *context.rest[k], dweight[k], dbias[k])
        return dx, dweight.sum(0), dbias.sum(0), None, None, None, None, None


class Upsample2x(torch.autograd.Function):
    """Twofold bilinear upsampling with aligned corners; behind the channels of ``skip``, if there is one."""

    @staticmethod
    def takes(x, skip):
        """Tell whether the operator takes ``(B, C, H, W)`` and, unless it is None, a skip ``(B, S, 2H, 2W)``."""
        if skip is None:
            return usable(x)
        return usable(x, skip) and (len(x), 2 * x.shape[2], 2 * x.shape[3]) == (len(skip), *skip.shape[2:])

    @staticmethod
    def forward(context, x, skip):
        """Upsample ``(B, C, H, W)`` to ``(B, S + C, 2H, 2W)``; skip ``(B, S, 2H, 2W)``."""
        _require(Upsample2x.takes(x, skip), x, skip)
        batch, channels, height, width = x.shape
        first = skip.shape[1] if skip is not None else 0
        context.first, context.sizes = first, (c_int64(batch), c_int64(height), c_int64(width), c_int(channels))
        y = _map(x, (batch, first + channels, 2 * height, 2 * width))
        call("upsample", x.dtype, x, x if skip is None else skip, y, *context.sizes, c_int(first))
        return y

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradients of x and skip."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = gradient.shape
        first = context.first
        dx = _map(gradient, (batch, channels - first, height // 2, width // 2))
        call("upsample_backward", gradient.dtype, gradient[:, first:], dx, *context.sizes, c_int64(channels))
        return dx, gradient[:, :first] if first else None


class MaxPool2x(torch.autograd.Function):
    """Largest of every 2x2 pixels, of even height and width."""

    @staticmethod
    def takes(x):
        """Tell whether the operator takes ``(B, C, H, W)``."""
        return usable(x) and x.shape[2] % 2 == x.shape[3] % 2 == 0

    @staticmethod
    def forward(context, x):
        """Pool ``(B, C, H, W)`` to ``(B, C, H / 2, W / 2)``."""
        _require(MaxPool2x.takes(x), x)
        batch, channels, height, width = x.shape
        y = _map(x, (batch, channels, height // 2, width // 2))
        which = torch.empty_like(y, dtype=torch.uint8)
        context.sizes = c_int64(batch * height // 2), c_int64(width // 2), c_int(channels)
        call("pool", x.dtype, x, y, which, *context.sizes)
        context.save_for_backward(which)
        return y

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        """Return the gradient of x."""
        (which,) = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = gradient.shape
        dx = _map(gradient, (batch, channels, 2 * height, 2 * width))
        call("pool_backward", gradient.dtype, gradient, which, dx, *context.sizes)
        return dx


def outruns(x):
    """Tell whether ``convolve`` is no slower than torch on such maps.

    It is slower where torch multiplies bfloat16 by AMX, at sixteen times the rate of float32.
    """
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)  # torch names it privately
    return x.dtype == torch.float32 or not amx()


def convolve(x, conv, norm, slope):
    """Convolve 3x3, batch-normalise with the running statistics, and apply leaky ReLU, as in prediction.

    Winograd's F(4x4, 3x3) in float32, a quarter of the multiplications; the result has x's dtype.

    Args:
        x (Tensor): ``(B, C, H, W)``.
        conv (nn.Conv2d): C to K channels, a multiple of 16, stride 1, zeros beyond the edges, float32.
        norm (nn.BatchNorm2d): Of K channels, float32.
        slope (float): Of the leaky ReLU below 0.

    Returns:
        Tensor | None: ``(B, K, H, W)``, or None where ``usable`` does not hold or the layers are others.
    """
    weight, bias = conv.weight, conv.bias
    tensors = bias, norm.weight, norm.bias, norm.running_mean, norm.running_var
    if not (
        usable(x)
        and (conv.stride, conv.padding, conv.dilation) == ((1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and plain(weight)
        and weight.dtype == torch.float32
        and weight.shape == (conv.out_channels, x.shape[1], 3, 3)
        and 0 < conv.out_channels <= 2**16
        and conv.out_channels % LANES == 0
        and _vectors(conv.out_channels, tensors[bias is None :])
    ):
        return None
    batch, channels, height, width = x.shape
    y = _map(x, (batch, conv.out_channels, height, width))
    sizes = c_int64(batch), c_int64(height), c_int64(width), c_int(channels), c_int(conv.out_channels)
    strides = (c_int64 * 4)(*weight.stride())
    call("convolve", x.dtype, x, weight, strides, *tensors, c_float(norm.eps), y, *sizes, c_float(slope))
    return y


def label(logits):
    """Label every pixel by each network's logits and, of two or more networks, by the mean of their probabilities.

    Args:
        logits (list[Tensor]): M ``(B, K, H, W)`` maps for which ``usable(*logits, multiple=1)`` holds, K up to 256.

    Returns:
        Tensor: ``(M, B, H, W)`` uint8, or ``(M + 1, B, H, W)`` with the mean's labels last.

    Raises:
        ValueError: The shapes differ, K is more than uint8 counts, or ``usable`` does not hold.
    """
    if any(each.shape != logits[0].shape for each in logits) or logits[0].shape[1:2].numel() > 256:
        raise ValueError(f"logits: expected one shape, of up to 256 classes, got {[tuple(x.shape) for x in logits]}")
    _require(usable(*logits, multiple=1), *logits)
    networks, (batch, classes, height, width) = len(logits), logits[0].shape
    labels = torch.empty(networks + (networks > 1), batch, height, width, dtype=torch.uint8, device="cpu")
    pointers = (c_void_p * networks)(*(each.data_ptr() for each in logits))
    call("label", logits[0].dtype, pointers, c_int(networks), c_int64(labels[0].numel()), c_int(classes), labels)
    return labels


def score_labels(reference, predictions, num_classes, spacing, hd95=True):
    """Count the voxels of every class and measure the 95th-percentile Hausdorff distance; other threads run meanwhile.

    Args:
        reference (np.ndarray): ``(D, H, W)`` of integers; fastest if uint8 and contiguous.
        predictions (list[np.ndarray]): M of the same kind and shape.
        num_classes (int): K, up to 256; higher and negative labels are nobody's.
        spacing (sequence[float]): (slice, row, column); the distance has its unit.
        hd95 (bool): Measure distances.

    Returns:
        tuple[np.ndarray, np.ndarray | None]: ``(M, 3, K)`` int64 voxels of the reference, the prediction and both, 0
        for the background; ``(M, K)`` float64 distances, nan where either has no voxel.

    Raises:
        ValueError: One of these is otherwise.
        RuntimeError: The kernels are not there.
    """
    library, reason = load()
    if library is None:
        raise RuntimeError(f"compiled kernels: {reason}")
    if reference.ndim != 3 or max(reference.shape) > 2**21 or not 1 <= num_classes <= 256:
        raise ValueError(f"expected (D, H, W) and 1 to 256 classes, got {reference.shape} and {num_classes}")
    if any(each.shape != reference.shape for each in predictions):
        raise ValueError(f"expected predictions of {reference.shape}, got {[each.shape for each in predictions]}")
    shape, spacing = np.array(reference.shape, np.int64), np.array(spacing, float)
    if spacing.shape != (3,) or not np.isfinite(spacing).all():
        raise ValueError(f"expected a spacing of three numbers, got {spacing.tolist()}")
    reference, *predictions = (_labels(each, num_classes) for each in (reference, *predictions))
    counts = np.empty((len(predictions), 3, num_classes), np.int64)
    distances = np.empty((len(predictions), num_classes)) if hd95 else None
    pointer = lambda array: c_void_p(None if array is None else array.ctypes.data)  # noqa: E731
    check(
        library.score_labels(
            pointer(reference),
            (c_void_p * len(predictions))(*(each.ctypes.data for each in predictions)),
            c_int(len(predictions)),
            pointer(shape),
            c_int(num_classes),
            *(pointer(array) for array in (spacing, counts, distances)),
        )
    )
    return counts, distances


def _labels(array, num_classes):
    """Return labels as contiguous uint8."""
    if array.dtype.kind not in "iub":
        raise ValueError(f"expected labels of an integer type, got {array.dtype}")
    if array.dtype.itemsize > 1 or array.dtype.kind == "i":
        array = np.where((array >= 0) & (array < num_classes), array, 0)
    return np.ascontiguousarray(array, np.uint8)


def _map(like, shape):
    return torch.empty(shape, dtype=like.dtype, device="cpu", memory_format=torch.channels_last)


def _vectors(size, tensors):
    """Tell whether all are ``(size,)`` float32 without gaps."""
    return all(plain(t) and t.dtype == torch.float32 and t.shape == (size,) and t.is_contiguous() for t in tensors)


def _require(taken, *tensors):
    if not taken:
        said = (f"{tuple(t.shape)} {t.dtype} {t.device} {t.stride()}" if plain(t) else str(type(t)) for t in tensors)
        raise ValueError(f"the compiled kernels do not take {', '.join(said)}")
