"""Maps and images that no model made, for tests of plots and pages."""

import numpy as np
from PIL import Image

from vsf_cli.maps.data import Maps, Token

TOKENS = (
    Token("positive", "clip", 1, "bike</w>", "bike", 2),
    Token("positive", "t5", 21, "\u2581bike", "bike", 2),
    Token("negative", "clip", 0, "whe", "wheels", 0),
    Token("negative", "clip", 1, "els</w>", "wheels", 0),
    Token("negative", "t5", 2, "\u2581wheels", "wheels", 0),
)


def example_maps(steps: int = 3, blocks: int = 6, side: int = 4, frames: int = 1) -> Maps:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(steps, blocks, 1, len(TOKENS), frames, side, side)).astype(np.float16)
    share = rng.random((steps, blocks, 1, frames, side, side)).astype(np.float32)
    sigmas = tuple(1 - step / steps for step in range(steps))
    return Maps(logits, share, TOKENS, tuple(range(1, steps + 1)), sigmas, tuple(range(1, blocks + 1)), (), 32, {"schema": 1})


def example_images(steps: int = 3, frames: int = 1) -> tuple[list[Image.Image], list[Image.Image], list[list[Image.Image]]]:
    """Returns images as `vsf_cli.generation.capture.Capture` has them: final, unguided, and the estimates."""
    colors = np.random.default_rng(1).integers(0, 256, (steps + 2, frames, 3))
    final, unguided, *estimates = [[Image.new("RGB", (96, 96), tuple(color.tolist())) for color in row] for row in colors]
    return final, unguided, estimates
