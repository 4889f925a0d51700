"""Changes modules of a model for the length of a `with`; the same objects come back, whatever happens inside."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Processor", "hooked", "patched", "replaced_forward"]

Processor = Any
"""An attention processor of diffusers: any object that `Attention` can call."""

Hook = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


@contextmanager
def patched(processors: Mapping[Any, Processor]) -> Iterator[None]:
    """Swaps attention processors for the length of a `with` block.

    Arguments:
        processors: The new processor of each attention module.

    Raises:
        PatchError: If there is no attention module.
    """
    if not processors:
        raise PatchError("no attention module to patch: the model has no attention that sees both image and text")

    originals = {attention: attention.processor for attention in processors}
    try:
        for attention, processor in processors.items():
            attention.set_processor(processor)
        yield
    finally:
        for attention, original in originals.items():
            attention.set_processor(original)


@contextmanager
def hooked(module: "nn.Module", hook: Hook) -> Iterator[None]:
    """Lets a hook change the arguments of a module's `forward` for the length of a `with` block."""
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
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
