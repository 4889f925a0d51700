"""Pictures without a model, for tests of what is done with them."""

from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from vsf_cli.generation.generate import Result

__all__ = ["AnyPipe", "drawn"]


class SD3Transformer2DModel(torch.nn.Module):
    """A model that is known by its name, without blocks."""


class AnyPipe:
    """Stands where a pipeline would, and holds itself as those with hooks do."""

    def __init__(self, device: str = "cpu") -> None:
        self.components: dict[str, Any] = {}
        self._execution_device, self.transformer, self.itself = torch.device(device), SD3Transformer2DModel(), self
        self.transformer.transformer_blocks, self.scheduler = torch.nn.ModuleList(), SimpleNamespace()


def drawn(_: Any, requests: Any, *__: Any, **___: Any) -> list[Any]:
    """Pictures and clips of one color, without a model."""
    frames = [(request.num_frames or 1) - request.drop_frames for request in requests]
    return [
        Result((Image.new("RGB", (32, 32), (request.seed % 256, 0, 0)),) * count, request, 0, 0, 0.1)
        for request, count in zip(requests, frames, strict=True)
    ]
