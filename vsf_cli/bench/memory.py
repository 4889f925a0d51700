"""The peak memory of a call, as the device or the operating system measures it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["peak_memory"]

PROC = Path("/proc/self")


def peak_memory(device: torch.device, call: Callable[[], Any]) -> int | None:
    """Calls a function, and returns the peak memory during the call in bytes, weights included.

    On CUDA it is that of PyTorch's allocator. On the CPU under Linux it is that of the process, which may keep memory that it
    has freed. On other systems it is None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or not _reset():
        call()
        return None
    call()
    status = (PROC / "status").read_text("ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _reset() -> bool:
    """Resets the process's peak; returns whether it could."""
    try:
        (PROC / "clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True
