"""The most memory that a call takes, as the device or the operating system sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["peak_memory"]

PROC = Path("/proc/self")


def peak_memory(device: torch.device, call: Callable[[], Any]) -> int | None:
    """Calls a function, and gives the most bytes that were taken meanwhile, weights included.

    On CUDA those of PyTorch's allocator; on the CPU of Linux those of the process, which also keeps what it has freed. None
    elsewhere.
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
    """Lets the process's peak begin anew."""
    try:
        (PROC / "clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True
