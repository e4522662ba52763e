"""The training slices: one memory-mapped array, on the device when it fits."""

import numpy as np
import torch


class SliceStore:
    """Serves batches of slices by index. It holds images only: no label is reachable from it.

    Args:
        images (np.ndarray): ``(N, S, S)`` float16 in [0, 1], usually a memory map.
        device (torch.device | str): Where batches are needed.
        limit (int | None): Most bytes to hold on the device. Default: half of its free memory.
    """

    def __init__(self, images, device="cpu", limit=None):
        self.device = torch.device(device)
        limit = _free_bytes(self.device) // 2 if limit is None else limit
        self.resident = images.nbytes <= limit
        self._images = torch.from_numpy(np.array(images)).to(self.device) if self.resident else images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, rows):
        """Return slices as ``(B, 1, S, S)`` float32 on the device.

        Args:
            rows (Tensor): ``(B,)`` int64.
        """
        if self.resident:
            return self._images[rows.to(self.device)].unsqueeze(1).float()
        slices = torch.from_numpy(self._images[rows.cpu().numpy()])
        return slices.to(self.device, non_blocking=True).unsqueeze(1).float()


def _free_bytes(device):
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30
