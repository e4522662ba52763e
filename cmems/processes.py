"""A batch that several processes share: what is a sum over it, or looks beyond its own rows, is one of the whole batch.

The batch of a step is that of process 0, then that of process 1, and so on. With one process, everything here returns
what it was given. Every process must come here as often, and in the same order.
"""

import re
import time

import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size


class _Sum(torch.autograd.Function):
    """A sum over the processes, whose gradient is the sum of the gradients that they have of it."""

    @staticmethod
    def forward(ctx, values):
        total = values.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


def add_up(*values):
    """Add values up over the processes, each by itself.

    The gradient takes the loss to be the mean of the processes' losses, as DistributedDataParallel does.

    Args:
        *values (Tensor | int): Floating point tensors of any shape, or numbers.

    Returns:
        list[Tensor | int]: The sums, of the same shapes.
    """
    processes = get_world_size()
    if processes == 1:
        return list(values)
    tensors = [value for value in values if torch.is_tensor(value)]
    totals = iter(_Sum.apply(torch.cat([tensor.flatten() for tensor in tensors])).split([t.numel() for t in tensors]))
    return [next(totals).view_as(v) if torch.is_tensor(v) else v * processes for v in values]


def whole_batch(rows):
    """Return the rows of every process, ``(processes * B, ...)``, of one's own ``(B, ...)``; gradients flow back."""
    processes = get_world_size()
    if processes == 1:
        return rows
    whole = rows.new_zeros((processes, *rows.shape))
    whole[get_rank()] = rows
    return _Sum.apply(whole).flatten(0, 1)


def neighbours(rows):
    """Return for each of ``(B, ...)`` rows of any dtype the one before it in the whole batch, for the first the last.

    No gradient flows.
    """
    last = rows[-1:].detach().contiguous()
    if get_world_size() > 1:
        every = all_gather(last.view(torch.uint8) if last.dtype == torch.bool else last)
        last = every[get_rank() - 1].view(last.dtype)
    return torch.cat([last, rows[:-1]])


def mean(values):
    """Return a dict of 0-d tensors, averaged over the processes."""
    if get_world_size() == 1 or not values:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    all_reduce(stacked, "mean")
    return dict(zip(values, stacked.unbind(), strict=True))


def highest(number):
    """Return the highest of the processes' ints."""
    if get_world_size() == 1:
        return number
    value = torch.tensor(number)
    all_reduce(value, "max")
    return int(value)


def leave():
    """Leave the process group, once its collectives are done.

    The pause gives Python's lock to a thread of gloo that may wait for it to drop the last collective: PyTorch 2.4 ends
    that thread without letting go of the lock, and waits forever.
    """
    time.sleep(0.1)
    torch.distributed.destroy_process_group()


def lost(error):
    """Tell whether a RuntimeError says that another process is not there any more."""
    kind = getattr(torch.distributed, "DistError", ())
    return isinstance(error, kind) or bool(re.search(r"gloo|NCCL|closed by peer|reset by peer", str(error)))
