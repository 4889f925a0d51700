"""The networks of the built-in judges.

A judge that chooses among images is content with its own mistakes, too. `scenes-2` has no weight in common with `scenes`, and
tells how many there are.
"""

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsf_cli.toy.drawing import SIDE
from vsf_cli.toy.judge import CELLS, CLASSES, STATES, Judge
from vsf_cli.toy.scenes import PARTS

__all__ = ["NETWORKS", "ConvolutionalJudge", "TransformerJudge", "VideoJudge"]


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU())


class ConvolutionalJudge(Judge):
    """The judge `scenes`: a pyramid of convolutions, whose map of parts decides with the features of the whole image."""

    name = "judge"

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
        """Returns the logits of `Judge`."""
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


class VideoJudge(ConvolutionalJudge):
    """The judge `scenes-video`: the network of `scenes`, which went on learning from frames of videos."""

    name = "judge-video"


class TransformerJudge(Judge):
    """The judge `scenes-2`: a transformer over 12 x 12 places, with a token of its own for each question."""

    name = "judge-2"
    width, depth, heads = 128, 5, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2), nn.SiLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.SiLU(), nn.Conv2d(64, self.width, 3, 2, 1)
        )
        side = SIDE // 8
        self.positions = nn.Parameter(0.02 * torch.randn(side**2, self.width))
        self.questions = nn.Parameter(0.02 * torch.randn(2 + len(PARTS), self.width))
        layer = nn.TransformerEncoderLayer(
            self.width, self.heads, 3 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, self.depth, nn.LayerNorm(self.width), enable_nested_tensor=False)
        logits = (CELLS // side) ** 2 * (1 + 2 * len(PARTS))
        self.places = nn.Sequential(nn.Linear(self.width, logits), nn.Unflatten(1, (side, side)))
        self.objects = nn.Linear(self.width, len(CLASSES))
        self.quality = nn.Linear(self.width, 1)
        self.parts = nn.Linear(self.width, len(STATES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the logits of `Judge`."""
        places = self.stem(images).flatten(2).mT + self.positions
        tokens = self.blocks(torch.cat([self.questions.expand(len(images), -1, -1), places], dim=1))
        thing, quality, *parts = tokens[:, : len(self.questions)].unbind(1)
        cells = F.pixel_shuffle(self.places(tokens[:, len(self.questions) :]).permute(0, 3, 1, 2), CELLS * 8 // SIDE)
        return self.objects(thing), self.parts(torch.stack(parts, dim=1)), self.quality(quality)[:, 0], cells


NETWORKS: Mapping[str, type[Judge]] = MappingProxyType(
    {"scenes": ConvolutionalJudge, "scenes-2": TransformerJudge, "scenes-video": VideoJudge}
)
"""The networks by the names of the judges."""
