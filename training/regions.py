"""A second loss for base models: it binds the words of parts to the image tokens that show them.

VSF needs a model in which the word of a part, and the colour before it, belong to a few image tokens. Flow matching alone
learns that last. A scene knows where each part is, so two linear heads predict the name and the colour that each token
shows. They are dropped after training.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsf_cli.toy.drawing import part_map
from vsf_cli.toy.image_recipe import IMAGE_TOKENS_SIDE
from vsf_cli.toy.scenes import COLORS, OBJECTS, PARTS, Scene

__all__ = ["RegionHeads", "Regions"]

NAMES = (*OBJECTS, *PARTS)
MAX_CHANNELS = 1 + max(len(parts) for parts in OBJECTS.values())


class Regions:
    """The fraction of each image token that every part of a scene covers.

    Arguments:
        scenes: The scenes.
        coverage: Bytes of 0 to 255 with shape (scenes, tokens, channels): the body, then the parts of the object.
    """

    def __init__(self, scenes: Sequence[Scene], coverage: Tensor) -> None:
        self.coverage = coverage
        names, colors = zip(*(_name_and_color_ids(scene) for scene in scenes), strict=True)
        self.names, self.colors = torch.tensor(names).to(coverage.device), torch.tensor(colors).to(coverage.device)

    @staticmethod
    def measure(scenes: Sequence[Scene], side: int = IMAGE_TOKENS_SIDE) -> np.ndarray:
        """The coverage of side x side tokens by the parts of scenes, as `Regions` takes it."""
        return np.stack([_coverage(scene, side) for scene in scenes])

    def targets(self, indices: Tensor | list[int], tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """The targets of the heads for some scenes, of all tokens or of the first ones.

        Returns:
            Distributions over names with shape (B, tokens, names), and over colours. The first name and the first colour are
            those of the background.
        """
        coverage = self.coverage[indices, :tokens].float() / 255
        names = _distribution(coverage, self.names[indices], 1 + len(NAMES))
        return names, _distribution(coverage, self.colors[indices], 1 + len(COLORS))


def _name_and_color_ids(scene: Scene) -> tuple[list[int], list[int]]:
    parts = OBJECTS[scene.object]
    present = {part.name: part.color for part in scene.parts}
    padding = [""] * (MAX_CHANNELS - 1 - len(parts))
    names = (scene.object, *parts, *padding)
    colors = (scene.color, *(present.get(part) for part in parts), *padding)
    return (
        [1 + NAMES.index(name) if name else 0 for name in names],
        [1 + list(COLORS).index(color) if color else 0 for color in colors],
    )


def _coverage(scene: Scene, side: int) -> np.ndarray:
    pixels = part_map(scene)
    length = pixels.shape[0] // side
    tokens = pixels.reshape(side, length, side, length)
    channels = [(tokens == number).mean((1, 3)).ravel() for number in range(1, 1 + MAX_CHANNELS)]
    return (np.stack(channels, -1) * 255).round().astype(np.uint8)


def _distribution(coverage: Tensor, ids: Tensor, size: int) -> Tensor:
    result = coverage.new_zeros(*coverage.shape[:2], size)
    result.scatter_add_(-1, ids[:, None].expand_as(coverage), coverage)
    result[..., 0] += 1 - coverage.sum(-1)
    return result


class RegionHeads(nn.Module):
    """Two linear maps from the hidden states of a block to logits of names and of colours.

    Arguments:
        block: The block whose output is used. The blocks before it must have read the text.
        width: The width of its hidden states.
    """

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.name = nn.Linear(width, 1 + len(NAMES))
        self.color = nn.Linear(width, 1 + len(COLORS))
        self._hidden: Tensor | None = None
        self._hook = block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, args: tuple[object, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
        self._hidden = output if isinstance(output, Tensor) else output[1]

    @property
    def tokens(self) -> int:
        """The image tokens of the transformer's last call."""
        assert self._hidden is not None
        return self._hidden.shape[1]

    def detach(self) -> None:
        """Removes the hook from the block."""
        self._hook.remove()

    def forward(self, names: Tensor, colors: Tensor) -> Tensor:
        """The cross entropy of the transformer's last call. Tokens that show the object have more weight.

        Arguments:
            names: Distributions with shape (B, tokens, names), as `Regions.targets` returns them.
            colors: The same of colours.
        """
        assert self._hidden is not None
        hidden, self._hidden = self.norm(self._hidden.float()), None
        weight = 1.25 - names[..., 0]
        errors = [
            F.cross_entropy(head(hidden).transpose(1, 2), target.transpose(1, 2), reduction="none")
            for head, target in ((self.name, names), (self.color, colors))
        ]
        return sum((error * weight).sum() / weight.sum() for error in errors)  # type: ignore[return-value]
