"""Counts what a call costs without a clock: FLOPs, calls of attention, and the memory of its tensors.

The counts do not depend on how busy a machine is, so tests can compare them with exact numbers.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["Costs", "TensorTracker", "count_costs"]

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Costs:
    """The costs of one call.

    Arguments:
        flops: Multiplications and additions of matrix products, convolutions and attention.
        attention_calls: The number of calls of an attention kernel.
        peak_bytes: The peak memory of the tensors that the call made; weights and inputs do not count.
    """

    flops: int
    attention_calls: int
    peak_bytes: int


class TensorTracker(TorchDispatchMode):
    """Tracks the tensors that are made inside a `with`.

    Attributes:
        calls: How often each operation was called.
        shapes: The shapes of all tensors that were made, except views.
        peak: The peak number of bytes in use.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()
        self.alive: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # An output that shares its memory with an input is a view, or the input itself, changed in place.
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket._qualified_op_name] += 1
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in inputs:
                self._add(leaf)
        return output

    @property
    def attention_calls(self) -> int:
        """The number of calls of an attention kernel."""
        return sum(count for name, count in self.calls.items() if "scaled_dot_product" in name)

    def has_square(self, side: int) -> bool:
        """Returns whether a tensor with two axes of at least this length was made."""
        return any(sum(length >= side for length in shape) >= 2 for shape in self.shapes)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.alive:
            return
        self.shapes.add(tuple(tensor.shape))
        self.alive[storage._cdata] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.bytes -= self.alive.pop(key, 0)


class _FlashOnMeta(TorchFunctionMode):
    """Uses the CPU's flash attention on the device "meta", where PyTorch itself would store all logits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_flash if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _flash(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    if query.device.type != "meta":
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **kwargs)
    output: Tensor = KERNEL(query, key, value, attn_mask=attn_mask)[0]
    # The kernel's output is as wide as the queries, for which it takes the values to be.
    return output if value.shape[-1] == query.shape[-1] else query.new_empty(*query.shape[:-1], value.shape[-1])


def count_costs(call: Callable[[], Any]) -> Costs:
    """Calls a function twice, and returns its costs.

    On the device "meta", where tensors have no values, models of any size take seconds. Attention uses the CPU's kernel there,
    which has the FLOPs and outputs of flash attention on other devices.
    """
    # This comes first, so that the bytes include what a method makes once and keeps.
    tracker = TensorTracker()
    with tracker, _FlashOnMeta():
        call()
    # The counter knows every attention kernel except the CPU's.
    with FlopCounterMode(display=False, custom_mapping={KERNEL: _cpu_attention_flops}) as counter, _FlashOnMeta():
        call()
    return Costs(counter.get_total_flops(), tracker.attention_calls, tracker.peak)


def _cpu_attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))
