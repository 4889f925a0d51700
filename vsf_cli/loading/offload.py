"""Moves pipelines to a device, as a whole or part by part."""

from collections.abc import Collection
from typing import Any

from vsf_cli.errors import OutOfMemory
from vsf_cli.loading.runtime import OFFLOADS
from vsf_cli.models import family_of

__all__ = ["move_to_device", "offload_of", "out_of_memory_advice"]


def move_to_device(pipe: Any, device: Any, offload: str) -> None:
    """Moves a pipeline to a device with a level of offloading, which a CPU ignores; may raise `OutOfMemory`."""
    import torch

    if offload == "auto":
        offload = _choose_offload(pipe, device)
    try:
        if device.type == "cpu" or offload == "none":
            pipe.to(device)
        elif offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif offload == "group":
            pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
        else:
            pipe.enable_sequential_cpu_offload(device=device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(out_of_memory_advice(offload)) from error


def offload_of(pipe: Any) -> str:
    """Returns the level of offloading of a loaded pipeline; "cpu" if it runs there, or on a device that shares its memory."""
    if pipe._execution_device.type in ("cpu", "mps"):
        return "cpu"
    if getattr(pipe, "_all_hooks", None):
        return "model"
    modules = [module for denoiser in family_of(pipe).denoisers_of(pipe) for module in denoiser.modules()]
    if any(hasattr(module, "_diffusers_hook") for module in modules):
        return "group"
    return "sequential" if any(hasattr(module, "_hf_hook") for module in modules) else "none"


def _choose_offload(pipe: Any, device: Any) -> str:
    """Returns "none" if all weights fit with a quarter to spare, "model" if the largest component fits, else "sequential"."""
    import torch

    if device.type != "cuda":
        return "none"
    sizes = [
        sum(tensor.numel() * tensor.element_size() for tensor in component.parameters())
        for component in pipe.components.values()
        if isinstance(component, torch.nn.Module)
    ]
    free, _ = torch.cuda.mem_get_info(device)
    if 1.25 * sum(sizes) < free:
        return "none"
    return "model" if 1.25 * max(sizes) < free else "sequential"


def out_of_memory_advice(offload: str, used: Collection[str] = ()) -> str:
    """Returns the message for a lack of memory at a level of offloading, with the option to try next.

    `used` are options like those of the message that are in use already.
    """
    order = [level for level in OFFLOADS if level != "auto"]
    after = order[order.index(offload) + 1 :] if offload in order else order[1:]
    if after and offload != "cpu":
        return f"out of memory: try --offload {after[0]}"
    options = [option for option in ("--dtype bfloat16", "--vae-tiling") if option not in used]
    return f"out of memory: try {', '.join(options)}{', or ' if options else ''}a smaller --size"
