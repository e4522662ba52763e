"""Random numbers as a function of (seed, step, purpose, place in the batch), with no generator state to save.

The generator is counter-based: SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) applied to a key and an index, in
wrapping int64 arithmetic, so every device gives the same bits. A run resumed at step k therefore draws what an
uninterrupted run draws at step k, and an objective that draws more changes nothing for the others. A process, or a
batch of several whose gradients are accumulated, draws its part of what one process would draw for the whole batch.
"""

import copy
import hashlib
import math

import torch

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _wrap(value):
    """Wrap a Python int to int64; a tensor already wraps."""
    return value if torch.is_tensor(value) else ((value + (1 << 63)) % (1 << 64)) - (1 << 63)


def _shift(value, bits):
    """Shift right without dragging the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value):
    value = _wrap(value)
    value = _wrap((value ^ _shift(value, 30)) * _MIX_1)
    value = _wrap((value ^ _shift(value, 27)) * _MIX_2)
    return value ^ _shift(value, 31)


def derive_key(*parts):
    """Hash ints and strings to one int64 key."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Stream:
    """Random numbers for one purpose; each call continues where the last one ended.

    Args:
        key (int | Tensor): An int64 key, or ``(n,)`` int64 keys for draws whose row i depends on key i alone.
        device (torch.device | str): Where the numbers are made.
        part, parts (int): Which part of the batch is drawn for, of how many alike.

    Of every draw, dimension ``batch`` is that of the samples; None: the draw is one for all samples, in every part the
    same.
    """

    def __init__(self, key, device="cpu", part=0, parts=1):
        self.key = key
        self.device = device
        self.part, self.parts = part, parts
        self._calls = 0

    def bits(self, size, batch=0):
        """Draw uniformly distributed int64 of shape ``size``; under ``(n,)`` keys, ``size[0]`` must be n."""
        size = (size,) if isinstance(size, int) else tuple(size)
        key = self.key
        if torch.is_tensor(key) and key.dim():
            size_per_key = (1, *size[1:])
            key = key.view(-1, *[1] * (len(size) - 1))
        else:
            size_per_key = size
        index = torch.arange(math.prod(size_per_key), device=self.device).view(size_per_key)
        if self.parts > 1 and batch is not None and size_per_key == size:
            block = math.prod(size[batch:])  # lies in the whole batch's draw among those of the other parts
            index = index + (index // block * (self.parts - 1) + self.part) * block
        index = index + (self._calls << 40)
        self._calls += 1
        return _mix(_mix(index * _GAMMA + key) + _GAMMA)

    def uniform(self, size, low=0.0, high=1.0, batch=0):
        """Draw float32 in [low, high) of shape ``size``, on a grid of 2^24 steps."""
        unit = _shift(self.bits(size, batch), 40).to(torch.float32) * 2.0**-24
        return unit * (high - low) + low

    def log_uniform(self, size, low, high):
        """Draw float32 in [low, high) of shape ``size``, both above 0, whose logarithms are uniform."""
        return torch.exp(self.uniform(size, math.log(low), math.log(high)))

    def integers(self, size, high, batch=0):
        """Draw int64 in [0, high) of shape ``size``; ``high`` at most 2^31."""
        return (_shift(self.bits(size, batch), 33) * high) >> 31

    def bernoulli(self, size, probability, batch=0):
        """Draw bool of shape ``size``, True with ``probability``."""
        return self.uniform(size, batch=batch) < probability


class Draws:
    """The random numbers of one step.

    Args:
        seed (int): The run's seed.
        step (int | Tensor): Step index from 0; a 0-d int64 tensor on ``device`` where the step is captured in a graph.
        rank (int): Process rank.
        device (torch.device | str): Where the numbers are made.
        processes (int): Processes that train together.
        batches (int): Batches, one a step, whose gradients are accumulated.

    Attributes:
        number (int): The step's index, a plain number in a captured step too: which terms act is decided by it.
        update (int | Tensor): How often the weights were changed before.
        part, parts (int): Which part this process and step have of the samples that the weights change by, of how many.
    """

    def __init__(self, seed, step, rank=0, device="cpu", processes=1, batches=1, number=None):
        self.seed, self.step, self.device = seed, step, device
        self.number = step if number is None else number
        self.owner = ()
        self.update, place = (step, 0) if batches == 1 else divmod(step, batches)
        self.part, self.parts = place * processes + rank, batches * processes
        self.first = place == 0

    def of(self, owner):
        """Return draws of the same step that are independent of these, for an ``owner`` (str) of the same purposes."""
        draws = copy.copy(self)
        draws.owner = (*self.owner, owner)
        return draws

    def stream(self, *purpose):
        """Return the :class:`Stream` of this step for ``purpose`` (ints and strings)."""
        return Stream(self._key(0, purpose), self.device, self.part, self.parts)

    def key(self, *purpose):
        """Return the int64 key of this step and part for ``purpose``: an int, or a tensor when the step is one.

        It is for torch's own generator, which cannot draw a part of what another would.
        """
        return self._key(self.part, purpose)

    def _key(self, part, purpose):
        return _mix(derive_key(self.seed, part, *purpose, *self.owner) + _wrap(_wrap(self.update) * _GAMMA))

    def fixed(self, *purpose):
        """Return an int64 key for ``purpose`` that neither step nor part changes."""
        return derive_key(self.seed, *purpose, *self.owner)


def keyed_stream(key, ids):
    """Return a stream whose row i is a function of ``key`` and ``ids[i]`` alone.

    Args:
        key (int): From :meth:`Draws.fixed`.
        ids (Tensor): ``(n,)`` int64.
    """
    return Stream(_mix(ids * _GAMMA + key), ids.device)
