"""Counts what a call costs without a clock: FLOPs, launches of kernels, bytes that are copied, and the memory of its tensors.

The counts do not depend on how busy a machine is, so tests can compare them with exact numbers. On the device "meta", where
tensors have no values, they are those of a GPU, and models of any size take seconds.
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

__all__ = ["Costs", "KernelOnMeta", "TensorTracker", "count_costs"]

CPU_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
GPU_KERNEL = torch.ops.aten._scaled_dot_product_cudnn_attention

COPIES = frozenset({"aten::copy_", "aten::clone", "aten::cat", "aten::_to_copy", "aten::repeat", "aten::index_select"})
"""The operations that only copy numbers, perhaps to another dtype."""


@dataclass(frozen=True)
class Costs:
    """The costs of one call.

    Arguments:
        flops: Multiplications and additions of matrix products, convolutions and attention.
        attention_calls: The number of calls of an attention kernel.
        peak_bytes: The peak memory of the tensors that the call made; weights and inputs do not count.
        launches: The number of operations that run a kernel: views and tensors that are not filled need none.
        copied_bytes: The bytes that were written by copies.
        tensors: The number of tensors that were made.
    """

    flops: int
    attention_calls: int
    peak_bytes: int
    launches: int
    copied_bytes: int
    tensors: int


class TensorTracker(TorchDispatchMode):
    """Tracks the tensors that are made inside a `with`.

    Attributes:
        calls: How often each operation was called.
        shapes: The shapes of all tensors that were made, except views.
        peak: The peak number of bytes in use.
        launches: The number of operations that run a kernel.
        copied: The bytes that copies wrote, by the shape of the copy.
        tensors: The number of tensors that were made.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()
        self.alive: dict[int, int] = {}
        self.copied: Counter[tuple[int, ...]] = Counter()
        self.bytes = self.peak = self.launches = self.tensors = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # An output that shares its memory with an input is a view, or the input itself, changed in place.
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket._qualified_op_name
        self.calls[name] += 1
        made = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.untyped_storage()._cdata not in inputs]
        for tensor in made:
            self._add(tensor)
        changes = func._schema.is_mutable
        if changes or (made and "empty" not in name):
            self.launches += 1
        if name in COPIES and (changes or made):
            written = args[0] if changes else output
            self.copied[tuple(written.shape)] += written.nbytes
        return output

    @property
    def attention_calls(self) -> int:
        """The number of calls of an attention kernel."""
        return sum(count for name, count in self.calls.items() if "scaled_dot_product" in name or "::attend_" in name)

    def has_square(self, side: int) -> bool:
        """Returns whether a tensor with two axes of at least this length was made."""
        return any(sum(length >= side for length in shape) >= 2 for shape in self.shapes)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.alive:
            return
        self.shapes.add(tuple(tensor.shape))
        self.tensors += 1
        self.alive[storage._cdata] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.bytes -= self.alive.pop(key, 0)


class KernelOnMeta(TorchFunctionMode):
    """Uses a kernel of CUDA on the device "meta", where PyTorch itself would store all logits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_attention if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
    if not query.is_meta:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **kwargs)
    output: Tensor = GPU_KERNEL(query, key, value, attn_mask, False)[0]
    return output


def count_costs(call: Callable[[], Any]) -> Costs:
    """Calls a function twice, and returns its costs."""
    # This comes first, so that the bytes include what a method makes once and keeps.
    tracker = TensorTracker()
    with tracker, KernelOnMeta():
        call()
    with FlopCounterMode(display=False, custom_mapping=_unknown_flops()) as counter, KernelOnMeta():
        call()
    return Costs(
        counter.get_total_flops(),
        tracker.attention_calls,
        tracker.peak,
        tracker.launches,
        tracker.copied.total(),
        tracker.tensors,
    )


def _unknown_flops() -> dict[Any, Callable[..., int]]:
    """Returns the FLOPs of the attention kernels that PyTorch's counter does not know."""
    own = torch.ops.vsf
    kernels: dict[str, Callable[..., int]] = {
        "attend_few_keys": _attention_flops,
        "attend_image_in_parts": _attention_flops,
        "guide_image": _guide_image_flops,
        "join_text": _join_text_flops,
    }
    known = {getattr(own, name): count for name, count in kernels.items() if hasattr(own, name)}
    return {CPU_KERNEL: _attention_flops, **known}


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _guide_image_flops(query: Any, base: Any, lse: Any, key: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """The image's rows alone: those of the positive prompt are copied."""
    *_, start, stop, _ = args
    batch, heads, _, dim = query
    return 4 * batch * heads * (stop - start) * key[2] * dim


def _join_text_flops(query: Any, key: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Each prompt's rows attend to its own keys."""
    batch, heads, count, dim = query
    negatives = args[-1]
    return 4 * batch * heads * dim * (negatives**2 + (count - negatives) ** 2)
