"""Keys in full lanes, for the kernel of CPUs.

PyTorch's kernel takes 16 keys of a row at a time, and then each of the rest alone: 26 keys take twice as long as 32 of which 6
are masked. For few queries, the copy of the keys takes longer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["are_worth_it", "in_lanes", "mask_in_lanes", "missing"]

LANES = 16
QUERIES = 128
"""From how many queries on a copy of the keys is worth it."""


def missing(keys: int) -> int:
    """Returns how many keys are missing to full lanes."""
    return -keys % LANES


def are_worth_it(queries: int, keys: int) -> bool:
    """Whether a copy of these keys, for full lanes, is less work than the rest of them."""
    return queries >= QUERIES and missing(keys) > 0


def in_lanes(states: Tensor) -> Tensor:
    """Returns keys or values with shape (B, H, K, D), and zeros behind them to full lanes."""
    return F.pad(states, (0, 0, 0, missing(states.shape[2])))


def mask_in_lanes(mask: Tensor) -> Tensor:
    """Returns what is added to logits, with the keys as its last axis, and minus infinity for zeros behind them."""
    return F.pad(mask, (0, missing(mask.shape[-1])), value=-torch.inf)
