"""Which floats networks are made of, and compute in: bfloat16, where the machine computes in it."""

from contextlib import contextmanager

import torch


@contextmanager
def float32_by_default():
    """Make tensors of float32 where nothing else is said, whatever the program around has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def without_autocast(function):
    """Make a function compute in the floats that it is given, within autocast too."""
    return torch.autocast("cuda", enabled=False)(torch.autocast("cpu", enabled=False)(function))


def computes_bfloat16(device_type):
    """Tell whether the machine multiplies in bfloat16 rather than emulating it, which is many times slower."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        # torch names these probes privately; where one is gone, assume no support and stay in float32.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return device_type != "mps"  # Apple's first ones emulate it
