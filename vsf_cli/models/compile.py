"""Compiles the blocks of a denoiser, which are alike, so that it takes seconds and not minutes.

Guidance is compiled with them: another alpha or beta does not recompile them, and another length of the prompts does once.
"""

import os
import shutil
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import RequestError
from vsf_cli.models.table import family_of

if TYPE_CHECKING:
    import torch

__all__ = ["check_compiler", "compile_blocks", "compiled_blocks"]

MOST_VARIANTS = 64
"""The maximum number of compiled variants of a block, for other shapes, for the last block, for unguided steps, and so on."""


def compile_blocks(transformer: Any, device: "torch.device", backend: str = "inductor") -> None:
    """Lets the blocks of a supported denoiser be compiled at their first call, by a backend of `torch.compile`.

    Raises:
        RequestError: If the device's compiler is missing.
    """
    import torch

    if backend == "inductor":
        check_compiler(device)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    for block in family_of(transformer).blocks_of(transformer):
        block.compile(backend=backend)


def compiled_blocks(pipe: Any) -> int:
    """Returns how many blocks of a pipeline's first denoiser are compiled."""
    family = family_of(pipe)
    blocks = family.blocks_of(family.denoisers_of(pipe)[0])
    return sum(getattr(block, "_compiled_call_impl", None) is not None for block in blocks)


def check_compiler(device: "torch.device") -> None:
    """Raises a `RequestError` that would else come in the first step, if the compiler of a device is missing."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise RequestError("--compile on the CPU needs a C++ compiler, which is not here: install g++ or clang") from error
    elif device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RequestError("--compile on CUDA needs Triton, which is not here: pip install triton, or leave --compile out")
        if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))):
            raise RequestError("--compile on CUDA needs a C compiler, which is not here: install gcc, or leave --compile out")
