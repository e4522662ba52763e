"""How much memory there is."""

from pathlib import Path

import torch

_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Files of a control group, version 2 and 1: its limit, what it has taken, and what of that is files' that go first.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(device="cpu"):
    """Return the bytes that are free on a device; 4 GiB where the system does not tell.

    Of the CPU's, no more than the limit of a container, or of a job on a cluster, leaves.

    Args:
        device (torch.device | str): ``cpu`` or a CUDA device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = 4 << 30
    return max(0, min([free, *_left()]))


def _left():
    """Yield what the limits of the control groups that this process is in leave of them."""
    try:
        lines = _GROUP.read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root = _GROUPS / "memory" if kinds else _GROUPS
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            limit, taken, files = _V1 if kinds else _V2
            try:
                stat = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
                own = int((folder / limit).read_text()) - int((folder / taken).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue
            yield own + int(stat.get(files, 0))
