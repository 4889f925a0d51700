"""The judge: a small network that classifies the object and the parts of an image, and scores its quality."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from vsf_cli.toy.drawing import SIDE
from vsf_cli.toy.scenes import OBJECTS, PARTS

__all__ = ["CARD", "CELLS", "CLASSES", "FILE", "NOTHING", "STATES", "Judge", "Verdict", "read_card"]

NOTHING = "nothing"
CLASSES = (*OBJECTS, NOTHING)
STATES = ("present", "absent", "damaged")
"""The states of a part. A faded, smeared, bent or incomplete part is damaged, and not absent."""

CELLS = 24
"""The side of the judge's map of parts, in cells."""

FOLDER = Path(str(resources.files("vsf_cli.toy"))) / "weights" / "judge"
FILE = FOLDER / "model.safetensors"
CARD = FOLDER / "agreement.json"
"""The agreement of the judge with human labels, as JSON. `training.labels` writes it."""


@dataclass(frozen=True)
class Verdict:
    """The judge's answer for an image.

    Arguments:
        object: A key of `OBJECTS`, or `NOTHING`.
        parts: The probabilities of `STATES`, for every part of any object.
        quality: 1 for a faultless drawing. Blur, noise, over-saturation, double exposure and broken shapes lower it, down to 0.
    """

    object: str
    parts: dict[str, tuple[float, ...]]
    quality: float

    def state(self, part: str) -> str:
        """Returns the most probable of `STATES`."""
        return STATES[max(range(len(STATES)), key=self.parts[part].__getitem__)]


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU())


class Judge(nn.Module):
    """A convolutional network from 96 x 96 pixels to logits of objects, of the parts' states and of the quality.

    It also classifies each of `CELLS` x `CELLS` cells of the image. Training has a loss for that, since incomplete parts are
    easier to learn from their cells than from a label of the whole image.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b, 2), _conv(b, b)) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(width, widths[2], 1) for width in widths[2:])
        self.mix = _conv(widths[2], widths[2])
        self.places = nn.Conv2d(widths[2], 1 + 2 * len(PARTS), 1)
        self.hidden = nn.Linear(widths[-1] * (SIDE // 16) ** 2 + 2 * len(PARTS), 192)
        self.drop = nn.Dropout(0.2)
        self.objects = nn.Linear(192, len(CLASSES))
        self.parts = nn.Linear(192 + 2 * len(PARTS), len(PARTS) * len(STATES))
        self.quality = nn.Linear(192, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns logits for pixels of -1 to 1, with shape (B, 3, 96, 96).

        They are of classes (B, classes), of the parts' states (B, parts, states), of the quality (B,), and of the classes of
        each cell (B, 1 + 2 parts, cells, cells): no part, each part whole, each part damaged.
        """
        levels = []
        for layer in self.down:
            images = layer(images)
            levels.append(images)
        features: Tensor = self.up[-1](levels[-1])
        for lateral, level in zip(self.up[-2::-1], levels[-2:0:-1], strict=True):
            features = F.interpolate(features, scale_factor=2) + lateral(level)
        places: Tensor = self.places(self.mix(features))
        probabilities = places.float().softmax(1)[:, 1:].flatten(2)
        evidence = probabilities.topk(4).values.mean(-1).clamp_min(1e-4).log()
        hidden = self.drop(F.silu(self.hidden(torch.cat([levels[-1].flatten(1), evidence], dim=1))))
        parts = self.parts(torch.cat([hidden, evidence], dim=1)).unflatten(-1, (len(PARTS), -1))
        return self.objects(hidden), parts, self.quality(hidden)[:, 0], places

    @torch.no_grad()
    def verdicts(self, images: Sequence[Image.Image]) -> list[Verdict]:
        """Returns the verdicts on images, resized to 96 x 96; the training had enlarged images of 64 x 64."""
        arrays = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        objects, parts, quality, _ = self(pixels)
        rows = zip(objects.argmax(-1).tolist(), parts.softmax(-1).tolist(), quality.sigmoid().tolist(), strict=True)
        return [
            Verdict(CLASSES[index], dict(zip(PARTS, map(tuple, states), strict=True)), number) for index, states, number in rows
        ]

    @classmethod
    def load(cls) -> Self:
        """Returns the judge in the package."""
        judge = cls()
        judge.load_state_dict({key: tensor.float() for key, tensor in load_file(FILE).items()})
        return judge.eval()


def read_card() -> dict[str, Any]:
    """Returns the agreement of the judge with human labels, by `training.labels.agreement`."""
    return json.loads(CARD.read_text("utf-8"))
