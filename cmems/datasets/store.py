"""The training slices: one array, on the device when it fits, else read from its file a batch at a time."""

import os
from mmap import mmap

import numpy as np
import torch

from cmems.errors import InputError
from cmems.memory import free_bytes


class SliceStore:
    """Serves batches of slices by index. It holds images only: no label is reachable from it.

    Args:
        images (np.ndarray): ``(N, S, S)`` float16 in [0, 1], usually a memory map. What does not fit on the device is
            read slice by slice from the map's file: mapped pages would count as this process's memory, and stay.
        device (torch.device | str): Where batches are needed.
        limit (int | None): Most bytes to hold on the device. Default: half of its free memory.
    """

    def __init__(self, images, device="cpu", limit=None):
        self.device = torch.device(device)
        limit = free_bytes(self.device) // 2 if limit is None else limit
        self.resident = images.nbytes <= limit
        self._images = torch.from_numpy(np.array(images)).to(self.device) if self.resident else images
        # A view of a map has the map's offset, not its own; Windows has no preadv.
        readable = isinstance(images, np.memmap) and isinstance(images.base, mmap) and hasattr(os, "preadv")
        self._file = open(images.filename, "rb", buffering=0) if readable and not self.resident else None  # noqa: SIM115

    def __len__(self):
        return len(self._images)

    def __getitem__(self, rows):
        """Return slices as ``(B, 1, S, S)`` float32 on the device.

        Args:
            rows (Tensor): ``(B,)`` int64.
        """
        if self.resident:
            return self._images[rows.to(self.device)].unsqueeze(1).float()
        return self._read(rows.tolist()).to(self.device, non_blocking=True).unsqueeze(1).float()

    def _read(self, rows):
        if self._file is None:
            return torch.from_numpy(self._images[rows])
        shape = (len(rows), *self._images.shape[1:])
        slices = torch.empty(shape, dtype=torch.float16, pin_memory=self.device.type == "cuda")
        for target, row in zip(slices.numpy(), rows, strict=True):
            view = memoryview(target).cast("B")
            if os.preadv(self._file.fileno(), [view], self._images.offset + row * len(view)) != len(view):
                raise InputError(f"{self._images.filename}: truncated; check with `cmems check`")
        return slices
