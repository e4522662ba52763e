"""How freed memory is kept, and how less of it is taken."""

import ctypes
from functools import partial, wraps

from torch.utils.checkpoint import checkpoint

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt


def keep_freed_memory():
    """Let the C library keep what a step frees for the next step, instead of returning it to the system.

    A step frees and takes the same gigabytes again; returned ones come back page by page, zeroed by the system. It acts
    on glibc alone, and on the whole process.

    Returns:
        bool: Whether the C library complied.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def recompute(model, names):
    """Let modules of a learner forget what they computed, and compute it anew for the gradient (Chen et al. 2016).

    Views then run one by one, as a gradient that is computed after its step knows of no batch of several. Where
    BatchNorm is computed anew, its running average moves twice.

    Args:
        model (nn.Module): The learner.
        names (str | list[str]): Of its modules, dotted.
    """
    for name in [names] if isinstance(names, str) else names:
        module = model.get_submodule(name)
        module.forward = wraps(module.forward)(partial(checkpoint, module.forward, use_reentrant=False))
    model.batch_views = False
