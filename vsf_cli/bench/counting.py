"""What a call costs, counted and not timed: FLOPs, calls of attention, and the memory of its tensors.

Nothing here depends on how busy a machine is, so that tests can hold costs to numbers.
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

__all__ = ["Costs", "Watch", "counted"]

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Costs:
    """What one call costs.

    Arguments:
        flops: Multiplications and additions of matrix products, convolutions and attention.
        attention_calls: Calls of an attention kernel.
        peak_bytes: The most memory that tensors made in the call had at a time; weights and inputs are not among them.
    """

    flops: int
    attention_calls: int
    peak_bytes: int


class Watch(TorchDispatchMode):
    """Watches the tensors that come into being.

    Attributes:
        calls: How often each operation was called.
        shapes: The shapes of all tensors that were made, views apart.
        peak: The most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()
        self.alive: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What was there before has its memory from elsewhere: an output that shares it is a view, or was changed in place.
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket._qualified_op_name] += 1
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._born(leaf)
        return output

    @property
    def attention_calls(self) -> int:
        """Calls of an attention kernel."""
        return sum(count for name, count in self.calls.items() if "scaled_dot_product" in name)

    def has_square(self, side: int) -> bool:
        """Whether a tensor was made of which two axes are at least so long."""
        return any(sum(length >= side for length in shape) >= 2 for shape in self.shapes)

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive:
            return
        self.shapes.add(tuple(tensor.shape))
        self.alive[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._died, key)

    def _died(self, key: int) -> None:
        self.bytes -= self.alive.pop(key, 0)


class _FlashOnPaper(TorchFunctionMode):
    """Has tensors without numbers attend by the kernel of the CPU: PyTorch itself would hold all logits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_flash if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _flash(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    if query.device.type != "meta":
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **kwargs)
    output: Tensor = KERNEL(query, key, value, attn_mask=attn_mask)[0]
    return output


def counted(call: Callable[[], Any]) -> Costs:
    """Calls a function twice, and counts what it costs.

    On the device "meta", where tensors have no numbers, models of any size are counted in seconds: with the CPU's kernel, whose
    FLOPs and outputs are those of flash attention elsewhere.
    """
    # First, so that what a method makes once and keeps is among the bytes.
    watch = Watch()
    with watch, _FlashOnPaper():
        call()
    # The counter knows every attention kernel but the CPU's.
    with FlopCounterMode(display=False, custom_mapping={KERNEL: _cpu_attention_flops}) as counter, _FlashOnPaper():
        call()
    return Costs(counter.get_total_flops(), watch.attention_calls, watch.peak)


def _cpu_attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))
