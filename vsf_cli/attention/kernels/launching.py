"""How kernels are tuned and launched.

A few sizes of tiles are tried once for each kind of input, and the fastest is kept, also on disk.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import triton
from torch.library import triton_op

__all__ = ["key_tile", "operator", "size_class", "tuned"]

WARPS = (4, 8)
KEY_TILES = (16, 32, 64, 128)


def tuned(constant: str, sizes: tuple[int, ...], restored: str | None = None) -> Callable[[Any], Any]:
    """Returns a decorator that tunes a kernel with arguments `D`, `KEYS` and `size`.

    Arguments:
        constant: The name of a tile's size.
        sizes: The sizes that are tried, the likeliest first.
        restored: The name of an argument that the kernel changes in place, which is put back after each trial.
    """
    configs = [triton.Config({constant: size}, num_warps=warps) for size in sizes for warps in WARPS]
    # Triton's interpreter, on a CPU, has nothing to tune.
    chosen = configs[-1:] if triton.knobs.runtime.interpret else configs
    restore = None if restored is None else [restored]
    return triton.autotune(chosen, key=["D", "KEYS", "size"], restore_value=restore, cache_results=True)


def key_tile(count: int) -> int:
    """Returns the size of a tile of so many keys, 128 at most. Compiled code is the same for all that have one tile."""
    return next(size for size in KEY_TILES if count <= size)


def size_class(rows: int) -> int:
    """Returns the class of a number of rows, 4 times as many in each: inputs of one class are tuned once."""
    return next(size for size in range(6, 64, 2) if rows < 2**size)


def operator(name: str, *mutated: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that makes an operator of PyTorch of a function that launches kernels, but none on the device "meta".

    Arguments:
        name: The operator's name.
        mutated: The names of the arguments that it changes.
    """

    def decorate(launch: Callable[..., Any]) -> Callable[..., Any]:
        registered = triton_op(f"vsf::{name}", launch, mutates_args=mutated)

        @wraps(launch)
        def call(query: torch.Tensor, *arguments: Any) -> Any:
            # PyTorch's registry takes more time than a launch, and only the compiler and tensors without values need it.
            traced = torch.compiler.is_compiling() or query.is_meta or type(query) is not torch.Tensor
            return (registered if traced else launch)(query, *arguments)

        return call

    return decorate
