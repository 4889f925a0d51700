"""Gradient checkpointing, which runs parts of a model again in the backward pass."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint
from torch import nn

from vsf_cli.errors import PatchError

__all__ = ["check_checkpoints", "wrapped_checkpoints"]

Function = Callable[..., Any]


def check_checkpoints() -> None:
    """Raises a `PatchError` if the running code is in a function that PyTorch checkpoints: its next run may not be guided."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            raise PatchError(
                "the guided model, or a part of it, is checkpointed by other code, so that it may run again in the backward"
                " pass without guidance: call the model's own enable_gradient_checkpointing() in its place"
            )
        frame = frame.f_back  # type: ignore[assignment]


@contextmanager
def wrapped_checkpoints(model: nn.Module, wrap: Callable[[Function], Function]) -> Iterator[None]:
    """Lets a model of diffusers checkpoint other functions in place of its own, inside a `with` block.

    Arguments:
        model: The model; nothing is changed where its gradient checkpointing is off.
        wrap: Returns what is checkpointed in place of a function.
    """
    own = {
        module: module._gradient_checkpointing_func
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False)
    }
    try:
        for module, checkpoint in own.items():
            module._gradient_checkpointing_func = _wrapped(checkpoint, wrap)  # type: ignore[assignment]
        yield
    finally:
        for module, checkpoint in own.items():
            module._gradient_checkpointing_func = checkpoint


def _wrapped(checkpoint: Any, wrap: Callable[[Function], Function]) -> Function:
    return lambda function, *args, **kwargs: checkpoint(wrap(function), *args, **kwargs)
