"""Changes modules of a model for the length of a `with`; the same objects come back, whatever happens inside."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Processor", "hooked", "patched", "replaced_forward"]

Processor = Any
"""An attention processor of diffusers: any object that `Attention` can call."""

Before = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None]
After = Callable[[Any, tuple[Any, ...], Any], None]


@contextmanager
def patched(processors: Mapping[Any, Processor]) -> Iterator[None]:
    """Swaps attention processors for the length of a `with` block.

    Arguments:
        processors: The new processor of each attention module.
    """
    originals = {attention: attention.processor for attention in processors}
    try:
        for attention, processor in processors.items():
            attention.set_processor(processor)
        yield
    finally:
        for attention, original in originals.items():
            attention.set_processor(original)


@contextmanager
def hooked(module: "nn.Module", before: Before, after: After) -> Iterator[None]:
    """Lets hooks change the arguments of a module's `forward`, and see its end, for the length of a `with` block."""
    # Offloading by accelerate replaces `forward`, which native hooks stand around: they see every call.
    handles = module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_forward(module: "nn.Module", forward: Callable[..., Any]) -> Iterator[None]:
    """Calls another function instead of a module's `forward` for the length of a `with` block."""
    # Offloading gives the instance a `forward` of its own; else it is the class's.
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
