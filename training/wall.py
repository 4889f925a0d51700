"""A wall of images: three pairs of every object, without and with guidance: `python -m training.wall wall.png`.

The pairs of an object are its first ones of `vsf_cli.toy.scenes.pairs`. Nothing is chosen by hand.
"""

import argparse
from pathlib import Path

from PIL import Image

from training.command import run
from training.score import generate_pairs
from vsf_cli.loading.pipelines import load
from vsf_cli.media.formats import write_image
from vsf_cli.media.montage import draw_montage
from vsf_cli.methods import NoGuidance
from vsf_cli.settings.presets import DEFAULT_PRESET, Preset, load_preset
from vsf_cli.toy.scenes import OBJECTS, pairs

__all__ = ["main", "wall"]

PAIRS = 3
POOL = 600
"""The number of pairs among which the first of each object are taken."""


def wall(preset: Preset) -> Image.Image:
    """An image with a row for each object: every pair without guidance, then with the preset's."""
    pipe = load(preset.model, preset.dtype)
    candidates = pairs("test", POOL)
    triples = [triple for name in OBJECTS for triple in [each for each in candidates if each[1] == name][:PAIRS]]
    columns = [
        [image for _, image in generate_pairs(pipe, preset, triples, method, preset.guidance_scale)]
        for method in (NoGuidance(), preset.guidance())
    ]
    images = [image for both in zip(*columns, strict=True) for image in both]
    labels = [label for _, name, part in triples for label in (name, f"no {part}")]
    return draw_montage(images, labels, 2 * PAIRS)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.wall", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    options = parser.parse_args()
    write_image(options.image, wall(load_preset(options.preset)), "png", None)


if __name__ == "__main__":
    run(main)
