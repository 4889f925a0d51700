"""Teaches the base model's image tokens what they show: a second loss that binds the words of parts to their places.

Flow matching alone learns last what VSF lives on: that the word of a part, and the colour before it, belong to a few image
tokens. A scene knows which part is where, so two linear heads are asked for each token's name and colour; they are thrown
away after training.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsf_cli.toy.drawing import part_map
from vsf_cli.toy.image_recipe import IMAGE_TOKENS_SIDE, WIDTH
from vsf_cli.toy.scenes import COLORS, OBJECTS, PARTS, Scene

__all__ = ["RegionHeads", "Regions"]

NAMES = (*OBJECTS, *PARTS)
MAX_CHANNELS = 1 + max(len(parts) for parts in OBJECTS.values())
BLOCK = 3
"""The block whose output is asked: the text must have been read before it."""


class Regions:
    """Which share of each image token every part of a scene covers.

    Arguments:
        scenes: The scenes.
        shares: Bytes of 0 to 255 with shape (scenes, tokens, channels): the body, then the object's parts.
    """

    def __init__(self, scenes: list[Scene], shares: Tensor) -> None:
        self.shares = shares
        names, colors = [], []
        for scene in scenes:
            parts = OBJECTS[scene.object]
            there = {part.name: part.color for part in scene.parts}
            spare = [""] * (MAX_CHANNELS - 1 - len(parts))
            names.append([1 + NAMES.index(name) if name else 0 for name in (scene.object, *parts, *spare)])
            found = (scene.color, *(there.get(part) for part in parts), *spare)
            colors.append([1 + list(COLORS).index(color) if color else 0 for color in found])
        self.names, self.colors = torch.tensor(names), torch.tensor(colors)

    @staticmethod
    def measure(scenes: list[Scene], side: int = IMAGE_TOKENS_SIDE) -> np.ndarray:
        """The shares of scenes on side x side tokens, as `Regions` takes them."""
        return np.stack([_shares(scene, side) for scene in scenes])

    def targets(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """What the heads should say of the chosen scenes: distributions with shape (B, tokens, names) and (.., colours).

        The first name and the first colour are the background's.
        """
        shares = self.shares[chosen].float() / 255
        return tuple(  # type: ignore[return-value]
            _distribution(shares, ids[chosen], size)
            for ids, size in ((self.names, 1 + len(NAMES)), (self.colors, 1 + len(COLORS)))
        )


def _shares(scene: Scene, side: int) -> np.ndarray:
    picture = part_map(scene)
    cell = picture.shape[0] // side
    cells = picture.reshape(side, cell, side, cell)
    channels = [(cells == number).mean((1, 3)).ravel() for number in range(1, 1 + MAX_CHANNELS)]
    return (np.stack(channels, -1) * 255).round().astype(np.uint8)


def _distribution(shares: Tensor, ids: Tensor, size: int) -> Tensor:
    result = torch.zeros(*shares.shape[:2], size)
    result.scatter_add_(-1, ids[:, None].expand_as(shares), shares)
    result[..., 0] += 1 - shares.sum(-1)
    return result


class RegionHeads(nn.Module):
    """Two linear maps from a token's hidden state, with width `WIDTH`, to logits of names and of colours."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.name = nn.Linear(WIDTH, 1 + len(NAMES))
        self.color = nn.Linear(WIDTH, 1 + len(COLORS))
        self._hidden: Tensor | None = None
        blocks[BLOCK].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, args: tuple[object, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
        self._hidden = output if isinstance(output, Tensor) else output[1]

    def forward(self, names: Tensor, colors: Tensor) -> Tensor:
        """The cross entropy of the transformer's last call, with more weight on tokens that show the object."""
        assert self._hidden is not None
        hidden, self._hidden = self.norm(self._hidden.float()), None
        weight = 1.25 - names[..., 0]
        errors = [
            F.cross_entropy(head(hidden).transpose(1, 2), target.transpose(1, 2), reduction="none")
            for head, target in ((self.name, names), (self.color, colors))
        ]
        return sum((error * weight).sum() / weight.sum() for error in errors)  # type: ignore[return-value]
