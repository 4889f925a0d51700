"""The judge: a small network that looks at a picture and says which object it shows and which of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from vsf_cli.tiny.drawing import SIDE
from vsf_cli.tiny.scenes import OBJECTS, PARTS

__all__ = ["NOTHING", "Judge", "Verdict", "load_judge"]

NOTHING = "nothing"
CLASSES = (*OBJECTS, NOTHING)
FILE = Path("models") / "judge" / "model.safetensors"


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in a picture.

    Arguments:
        object: A key of `OBJECTS`, or `NOTHING`.
        parts: The probability that each part is there, for every part of any object.
    """

    object: str
    parts: dict[str, float]

    def has(self, part: str) -> bool:
        """Whether the part is there, at even odds."""
        return self.parts[part] > 0.5


class Judge(nn.Module):
    """A convolutional network: 96 x 96 pixels to logits of objects and of parts."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(widths[-1] * (SIDE // 16) ** 2, 192)
        self.objects = nn.Linear(192, len(CLASSES))
        self.parts = nn.Linear(192, len(PARTS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of classes and of parts, with a row for each picture, from pixels of -1 to 1, with shape (B, 3, 96, 96)."""
        hidden = F.silu(self.hidden(self.body(images).flatten(1)))
        return self.objects(hidden), self.parts(hidden)

    @torch.no_grad()
    def look(self, images: Sequence[Image.Image]) -> list[Verdict]:
        """Judges pictures; another size is reduced to 96 x 96 first."""
        arrays = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        objects, parts = self(pixels)
        return [
            Verdict(CLASSES[int(index)], dict(zip(PARTS, probabilities.tolist(), strict=True)))
            for index, probabilities in zip(objects.argmax(-1), parts.sigmoid(), strict=True)
        ]


def load_judge() -> Judge:
    """The judge that ships with the package."""
    judge = Judge()
    path = Path(str(resources.files("vsf_cli.tiny") / FILE))
    judge.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    return judge.eval()
