"""Changes modules of a model inside a `with`, and then restores the same objects, whatever happens inside."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["followed", "hooked", "patched", "replaced_forward"]

Before = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
After = Callable[[Any, tuple[Any, ...], Any], None]


@contextmanager
def patched(processors: Mapping[Any, Any]) -> Iterator[None]:
    """Gives each attention module the twin of its processor inside a `with` block.

    What others set inside stays, and a twin that somebody has kept is a stock processor afterwards.
    """
    originals = {attention: attention.processor for attention in processors}
    try:
        for attention, processor in processors.items():
            attention.set_processor(processor)
        yield
    finally:
        for attention, original in originals.items():
            if attention.processor is processors[attention]:
                attention.set_processor(original)
            processors[attention].__class__ = type(original)


@contextmanager
def hooked(module: "nn.Module", before: Before, after: After) -> Iterator[None]:
    """Calls hooks before and after a module's `forward` inside a `with` block; the first one may change its arguments.

    The second one is called after an error, too. Copies of the module have neither.
    """
    # PyTorch calls them also where accelerate replaces `forward` for offloading.
    handles = [module.register_forward_pre_hook(_Hook(before), with_kwargs=True)]
    try:
        handles.append(module.register_forward_hook(_Hook(after), always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    """A hook that does nothing in copies of its module, pickled ones too."""

    def __init__(self, hook: Callable[..., Any] | None = None) -> None:
        self.hook = hook

    def __call__(self, *args: Any) -> Any:
        return self.hook(*args) if self.hook else None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Hook, ()


class _Followed:
    """A method of an object, and what follows it. In copies of the object, pickled ones too, it is the stock method."""

    def __init__(self, owner: Any, name: str, follow: Callable[[Any, Sequence[Any]], Any]) -> None:
        self.owner, self.name, self.stock, self.follow = owner, name, getattr(owner, name), follow
        # Pipelines pass what the signature names, such as a generator.
        self.__signature__ = inspect.signature(self.stock)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.follow(self.stock(*args, **kwargs), args)

    def __reduce__(self) -> tuple[Any, ...]:
        # The copy of the owner has no attribute of its own yet.
        return getattr, (self.owner, self.name)


@contextmanager
def followed(owner: Any, name: str, follow: Callable[[Any, Sequence[Any]], Any]) -> Iterator[None]:
    """Calls a function with the output and the positional arguments of an object's method, inside a `with` block.

    The function returns what the method shall return.
    """
    own = vars(owner).get(name)
    setattr(owner, name, _Followed(owner, name, follow))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def replaced_forward(module: "nn.Module", forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces a module's `forward` inside a `with` block."""
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
