"""Judges: small networks that classify the object and the parts of an image, and score its quality."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from vsf_cli.toy.drawing import SIDE
from vsf_cli.toy.scenes import OBJECTS, PARTS

__all__ = ["CELLS", "CLASSES", "NOTHING", "STATES", "Judge", "Verdict"]

NOTHING = "nothing"
CLASSES = (*OBJECTS, NOTHING)
STATES = ("present", "absent", "damaged")
"""The states of a part. A faded, smeared, bent or incomplete part is damaged, and not absent."""

CELLS = 24
"""The side of a judge's map of parts, in cells."""

WEIGHTS = Path(str(resources.files("vsf_cli.toy"))) / "weights"


@dataclass(frozen=True)
class Verdict:
    """A judge's answer for an image.

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


class Judge(nn.Module):
    """A network from 96 x 96 pixels to logits of objects, of the parts' states and of the quality.

    It also classifies each of `CELLS` x `CELLS` cells of the image. Training has a loss for that, since incomplete parts are
    easier to learn from their cells than from a label of the whole image.
    """

    name: ClassVar[str]
    """The name of its folder, and of its checkpoint in training."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns logits for pixels of -1 to 1, with shape (B, 3, 96, 96).

        They are of classes (B, classes), of the parts' states (B, parts, states), of the quality (B,), and of the classes of
        each cell (B, 1 + 2 parts, cells, cells): no part, each part whole, each part damaged.
        """
        raise NotImplementedError

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
    def file(cls) -> Path:
        """Returns the file of its weights in the package."""
        return WEIGHTS / cls.name / "model.safetensors"

    @classmethod
    def card(cls) -> Path:
        """Returns the file of its agreement with human labels, as JSON. `training.labels` writes it."""
        return WEIGHTS / cls.name / "agreement.json"

    @classmethod
    def load(cls) -> Self:
        """Returns the judge in the package."""
        judge = cls()
        judge.load_state_dict({key: tensor.float() for key, tensor in load_file(cls.file()).items()})
        return judge.eval()

    @classmethod
    def read_card(cls) -> dict[str, Any]:
        """Returns the agreement with human labels, by `training.labels.agreement`."""
        return json.loads(cls.card().read_text("utf-8"))
