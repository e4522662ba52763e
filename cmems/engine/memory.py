"""How freed memory is kept."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt


def keep_freed_memory(on=True):
    """Let the C library keep what a step frees for the next step, instead of returning it to the system.

    A step frees and takes the same gigabytes again; returned ones come back page by page, zeroed by the system. It acts
    on glibc alone. ``on=False`` sets what glibc's own adjustment ends at.

    Returns:
        bool: Whether the C library complied.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    if on:
        wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    else:
        wishes = ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 64 << 20), (_MMAP_THRESHOLD, 32 << 20))
    return all(mallopt(key, value) for key, value in wishes)
