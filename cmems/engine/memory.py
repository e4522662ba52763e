"""How freed memory is kept."""

import ctypes

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
