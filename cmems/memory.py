"""How much memory there is."""

import torch


def free_bytes(device="cpu"):
    """Return the bytes that are free on a device; 4 GiB where the system does not tell.

    Args:
        device (torch.device | str): ``cpu`` or a CUDA device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30
