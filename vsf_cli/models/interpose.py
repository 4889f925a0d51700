"""The twin of a stock attention processor: the same processor, but its code calls another attention function.

Every processor of diffusers has one call: `dispatch_attention_fn(query, key, value, ...)` with tokens before heads, or
`F.scaled_dot_product_attention(query, key, value, ...)` with heads before tokens. Projections, norms, rotary embeddings, gates
and adapters around that call stay the library's own.
"""

import dis
import sys
from collections.abc import Callable, Hashable
from functools import lru_cache
from itertools import count
from types import FunctionType, ModuleType
from typing import Any
from weakref import finalize

import torch.nn.functional as F
from torch import Tensor

from vsf_cli.errors import PatchError

__all__ = ["Attend", "attention_calls", "called_code", "is_twin", "twin_class", "twin_of"]

Attend = Callable[..., Tensor | None]
"""Takes query, key and value of shape (B, H, L, D) and the call's options; returns None to call the stock function."""

_NUMBERS = count()
DISPATCH, SDPA = "dispatch_attention_fn", "scaled_dot_product_attention"


class _Functional:
    """`torch.nn.functional` with another attention."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        self.scaled_dot_product_attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)


def attention_calls(processor: type) -> int:
    """Returns how many calls of a known attention function a processor has, in its code and in functions that it calls."""
    return _counted_calls(*called_code(processor))


@lru_cache(maxsize=64)
def _counted_calls(function: Any, *values: Any) -> int:
    """Returns how many calls a function has, whose names stand for `values`; counted once, since it takes long."""
    return _calls_in(function)


def _calls_in(function: Any) -> int:
    code = getattr(function, "__code__", None)
    loaded = [one.argval for one in dis.get_instructions(code) if one.opname.startswith("LOAD")] if code else []
    helpers = [function.__globals__.get(name) for name in loaded if name not in (DISPATCH, SDPA)]
    own = [helper for helper in helpers if isinstance(helper, FunctionType) and helper.__module__ == function.__module__]
    return sum(name in (DISPATCH, SDPA) for name in loaded) + sum(map(_calls_in, own))


def called_code(processor: type) -> tuple[Any, ...]:
    """Returns a processor's code and what its names stand for: a twin that was made of other code is not its twin."""
    stock: Any = processor.__call__
    if not isinstance(stock, FunctionType):
        return (stock,)
    values = map(stock.__globals__.get, stock.__code__.co_names)
    return stock, *(value for value in values if isinstance(value, Hashable))


def twin_class(processor: type, attend: Attend) -> type:
    """Returns a subclass of a processor's class whose code calls `attend`. Copies of its instances are of the stock class.

    Raises:
        PatchError: If the processor calls no known attention function.
    """
    stock: Any = processor.__call__
    code: Any = getattr(stock, "__code__", None)
    names = () if code is None else code.co_names
    if DISPATCH in names:
        replaced: dict[str, Any] = {DISPATCH: _dispatching(stock.__globals__[DISPATCH], attend)}
    elif SDPA in names and stock.__globals__.get("F") is F:
        replaced = {"F": _Functional(_scaled_dot_product(attend))}
    else:
        raise PatchError(f"{processor.__name__} calls no attention function that can be guided")

    # The compiler looks up the names of code in the module of its `__name__`: without a module of our own it would silently
    # run the stock attention.
    module = ModuleType(f"{__name__}.{processor.__name__}_{next(_NUMBERS)}")
    vars(module).update({**stock.__globals__, **replaced, "__name__": module.__name__})
    call = FunctionType(code, vars(module), stock.__name__, stock.__defaults__, stock.__closure__)
    call.__kwdefaults__ = stock.__kwdefaults__

    def reduce(self: Any, protocol: Any) -> Any:
        return object.__new__, (processor,), vars(self) or None

    members = {"__call__": call, "__reduce_ex__": reduce, "_is_vsf_twin": True}
    twin = type(processor.__name__, (processor,), members)
    sys.modules[module.__name__] = module
    finalize(twin, sys.modules.pop, module.__name__, None)
    return twin


def twin_of(processor: Any, kind: type) -> Any:
    """Returns a twin with the attributes of a processor: what is set on one, such as a backend, is set on both."""
    return _sharing_state(kind, processor)


def is_twin(processor: Any) -> bool:
    """Returns whether a processor is the twin of another one."""
    return getattr(type(processor), "_is_vsf_twin", False)


def _sharing_state(kind: type, processor: Any) -> Any:
    other: Any = object.__new__(kind)
    other.__dict__ = processor.__dict__
    return other


def _dispatching(stock: Callable[..., Tensor], attend: Attend) -> Callable[..., Tensor]:
    def dispatch(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        output = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), *args, **options)
        return stock(query, key, value, *args, **options) if output is None else output.transpose(1, 2)

    return dispatch


def _scaled_dot_product(attend: Attend) -> Callable[..., Tensor]:
    def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        output = attend(query, key, value, *args, **options)
        return F.scaled_dot_product_attention(query, key, value, *args, **options) if output is None else output

    return scaled_dot_product_attention
