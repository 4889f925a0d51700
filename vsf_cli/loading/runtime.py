"""The device, offload, network and dtype of a model."""

import gc
from dataclasses import dataclass
from typing import Any

from vsf_cli.config.names import check_choice
from vsf_cli.config.option import MODEL, run_option
from vsf_cli.errors import RequestError

__all__ = ["OFFLOADS", "Runtime", "check_dtype", "check_runtime", "device_named", "free_memory"]

OFFLOADS = ("auto", "none", "model", "group", "sequential")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs; none of it changes the image on a CPU.

    Arguments:
        device: "auto", or a device of torch.
        offload: One of `OFFLOADS`; each needs less memory than the one before it.
        offline: Whether the network may not be used.
        compile: Whether the blocks of the denoiser are compiled.

    Raises:
        RequestError: If `offload` is not known.
    """

    device: str = run_option("auto", "-d", "--device", help="auto, cpu, cuda, cuda:1, mps ...", panel=MODEL, setting=True)
    offload: str = run_option("auto", "--offload", help=f"{', '.join(OFFLOADS)}.", panel=MODEL, setting=True)
    offline: bool = run_option(False, "--offline", off=None, help="Never use the network.", panel=MODEL, setting=True)
    compile: bool = run_option(
        False, "--compile", help="Compile the model: slow at first, then faster.", panel=MODEL, setting=True
    )

    def __post_init__(self) -> None:
        check_choice("--offload", self.offload, OFFLOADS)


def check_dtype(dtype: str) -> None:
    """Raises a `RequestError` if a dtype is not one of `DTYPES`."""
    check_choice("--dtype", dtype, DTYPES)


def check_runtime(runtime: Runtime) -> None:
    """Raises a `RequestError` if this machine lacks the device or the compiler of a runtime; the usual one needs no torch."""
    if runtime.device in ("auto", "cpu") and not runtime.compile:
        return
    device = device_named(runtime.device)
    if runtime.compile:
        from vsf_cli.models.compile import check_compiler

        check_compiler(device)


def device_named(name: str) -> Any:
    """Returns a device of torch by its name; for "auto" the accelerator of this machine, or else the CPU.

    Raises:
        RequestError: If this machine does not have it.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    # For an unknown name, a build of torch without the device, and a missing plug-in.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise RequestError(f"--device is '{name}', which this machine does not have: see 'vsf doctor'") from error
    return device


def free_memory() -> None:
    """Frees memory that is no longer used: a pipeline with hooks is a reference cycle, which only the collector breaks."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
