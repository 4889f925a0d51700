"""Labelled sheets of pictures: `python -m vsf_cli.media.montage sheet.png a.png b.png --columns 5 --scale 2 --label alpha`.

The labels come from the pictures' own metadata.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vsf_cli.errors import MediaError
from vsf_cli.media.formats import write_image
from vsf_cli.media.reading import read_metadata

__all__ = ["label_of", "main", "sheet"]

MARGIN = 6
TEXT_HEIGHT = 16


def sheet(images: Sequence[Image.Image], labels: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """Lays pictures of one size out in rows, each with its label beneath.

    Arguments:
        images: The pictures.
        labels: A line for each.
        columns: How many stand in a row.
        scale: Every pixel becomes `scale` x `scale`, with smooth edges.
    """
    width, height = images[0].width * scale, images[0].height * scale
    rows = -(-len(images) // columns)
    cell = (width + MARGIN, height + TEXT_HEIGHT + MARGIN)
    canvas = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = MARGIN + number % columns * cell[0], MARGIN + number // columns * cell[1]
        canvas.paste(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (x, y))
        while len(label) > 1 and draw.textlength(label, font) > width:
            label = label.removesuffix("…")[:-1] + "…"
        draw.text((x + (width - draw.textlength(label, font)) / 2, y + height + 1), label, "black", font)
    return canvas


def label_of(description: dict[str, Any] | None, field: str) -> str:
    """What a label says of a picture: fields of its request, or of its method's hyper-parameters, joined by commas."""
    if "," in field:
        return ", ".join(label_of(description, name.strip()) for name in field.split(","))
    if description is None:
        return "?"
    request = description["request"]
    if field == "negative":
        return ", ".join(request["negative"]) or "none"
    if field in request["parameters"] or field == "alpha":
        if not request["negative"] or request["method"] == "none":
            return "no guidance"
        value = request["parameters"].get(field)
        return request["method"] if value is None else f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}"
    return f"{field} {request.get(field, '?')}" if field != "prompt" else str(request["prompt"])


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m vsf_cli.media.montage", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument(
        "--label", default="alpha", help="alpha, beta, seed, method, prompt, negative, ..., or several: alpha,beta"
    )
    options = parser.parse_args()
    if options.columns < 1 or options.scale < 1:
        parser.error("--columns and --scale must be at least 1")
    try:
        labels = [label_of(read_metadata(path).description, options.label) for path in options.pictures]
        images = [_opened(path) for path in options.pictures]
        write_image(options.output, sheet(images, labels, options.columns, options.scale), "png", None)
    except MediaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(options.output)


if __name__ == "__main__":
    main()
