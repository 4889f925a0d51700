"""Loads diffusers pipelines: weights, LoRA files, schedulers, offload."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsf_cli.loading.pipelines import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported on first use: some modules need only a part of this package.
    if name != "load":
        raise AttributeError(f"module 'vsf_cli.loading' has no attribute '{name}'")
    from vsf_cli.loading.pipelines import load

    return load
