"""Labelled montages of images: `python -m vsf_cli.media.montage out.png a.png b.png --columns 5 --scale 2 --label alpha`.

The labels come from the images' own metadata.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vsf_cli.errors import MediaError
from vsf_cli.media.formats import write_image
from vsf_cli.media.reading import read_metadata
from vsf_cli.methods import METHODS

__all__ = ["Montage", "draw_montage", "label_of", "main", "shorten", "text_width", "wrap"]

MARGIN = 6
LINE_HEIGHT = 16
FONT_SIZE = 12
MAX_LINES = 8
MISSING = (228, 228, 228)
"""The colour of a missing image."""
VERBS = {"negative": ("against", "no negative prompt"), "keep": ("keeping", "")}
"""What stands before the texts of a field, and what stands there if there are none."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Montage:
    """Rows of images and lines of text on white, drawn from top to bottom.

    Arguments:
        image_size: The width and height of an image's cell, in pixels.
        columns: The number of images in a row.
        label_width: The width of the rows' labels to the left of the images, in pixels.
        centered: Whether the lines of a caption are centred.
    """

    def __init__(self, image_size: tuple[int, int], columns: int, label_width: int = 0, centered: bool = False) -> None:
        self.image_size, self.centered = image_size, centered
        self.left = label_width + 2 * MARGIN if label_width else MARGIN
        self.width = self.left + columns * (image_size[0] + MARGIN)
        self.strips: list[Image.Image] = []

    def _add_strip(self, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        self.strips.append(Image.new("RGB", (self.width, height), "white"))
        return self.strips[-1], ImageDraw.Draw(self.strips[-1])

    def _x(self, column: int) -> int:
        return self.left + column * (self.image_size[0] + MARGIN)

    def add_text(self, text: str, color: str = "black") -> None:
        """Adds text over the whole width."""
        lines = wrap(text, self.width - 2 * MARGIN)
        _, draw = self._add_strip(len(lines) * LINE_HEIGHT + MARGIN)
        _write(draw, lines, MARGIN, MARGIN, color)

    def add_heads(self, heads: Sequence[str], corner: str = "") -> None:
        """Adds the labels of the columns, and the title of the rows' labels."""
        texts = [wrap(head, self.image_size[0]) for head in heads]
        _, draw = self._add_strip(max(map(len, texts)) * LINE_HEIGHT + MARGIN)
        _write(draw, wrap(corner, self.left), MARGIN, MARGIN, "gray")
        for column, lines in enumerate(texts):
            _write(draw, lines, self._x(column), MARGIN)

    def add_row(self, images: Sequence[Image.Image | None], captions: Sequence[str | None], label: str = "") -> None:
        """Adds images with captions below them and a label to their left.

        An image that is None becomes gray, and a caption that is None leaves its cell empty.
        """
        width = self.image_size[0]
        texts = [self._fit(caption or "") for caption in captions]
        height = max((image.height for image in images if image), default=self.image_size[1])
        canvas, draw = self._add_strip(MARGIN + height + max(map(len, texts)) * LINE_HEIGHT)
        _write(draw, wrap(label, self.left - 2 * MARGIN), MARGIN, MARGIN)
        for column, (image, caption, lines) in enumerate(zip(images, captions, texts, strict=True)):
            if caption is None:
                continue
            shown, x = image or Image.new("RGB", (width, height), MISSING), self._x(column)
            canvas.paste(shown, (x + (width - shown.width) // 2, MARGIN + (height - shown.height) // 2))
            if self.centered:
                for number, line in enumerate(lines):
                    middle = x + (width - _plain_font().getlength(line)) / 2
                    draw.text((middle, MARGIN + height + 1 + number * LINE_HEIGHT), line, "black", _plain_font())
            else:
                _write(draw, lines, x, MARGIN + height)

    def _fit(self, caption: str) -> list[str]:
        width = self.image_size[0]
        # Centred captions of neighbours need white between them.
        return wrap(caption, width - MARGIN, _plain_font().getlength) if self.centered else wrap(caption, width)

    def draw(self) -> Image.Image:
        """Returns the montage."""
        canvas = Image.new("RGB", (self.width, sum(strip.height for strip in self.strips) + MARGIN), "white")
        top = 0
        for strip in self.strips:
            canvas.paste(strip, (0, top))
            top += strip.height
        return canvas


def draw_montage(images: Sequence[Image.Image], labels: Sequence[str], columns: int, scale: int = 1) -> Image.Image:
    """Returns images in rows, each with its label below it, at `scale` times the size of the first image."""
    size = images[0].width * scale, images[0].height * scale
    montage = Montage(size, columns, centered=True)
    larger = [image.convert("RGB").resize(size, Image.Resampling.BICUBIC) for image in images]
    for start in range(0, len(larger), columns):
        row = slice(start, start + columns)
        montage.add_row(larger[row], labels[row])
    return montage.draw()


@cache
def _font() -> Font:
    """Matplotlib's font, which has more letters than Pillow's own."""
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE)


@cache
def _plain_font() -> Font:
    """Pillow's own font, which is narrower."""
    return ImageFont.load_default(FONT_SIZE)


def text_width(text: str) -> int:
    """Returns the width of wrapped text in pixels."""
    return round(_font().getlength(text)) + 1


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, color: str = "black") -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * LINE_HEIGHT), line, color, _font())


def wrap(text: str, width: int, measure: Callable[[str], float] = text_width) -> list[str]:
    """Returns text as at most eight lines of a width in pixels; longer words and texts are cut off."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, width, measure))
    last = MAX_LINES - 1
    return lines if len(lines) <= MAX_LINES else [*lines[:last], shorten(f"{lines[last]} …", width, measure)]


def shorten(text: str, width: int, measure: Callable[[str], float] = text_width) -> str:
    """Returns text that is cut off at a width in pixels."""
    while len(text) > 1 and measure(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def label_of(description: dict[str, Any] | None, field: str) -> str:
    """Returns the label of an image: fields of its request or hyper-parameters of its method, joined by commas."""
    if not field:
        return ""
    if "," in field:
        return ", ".join(filter(None, (label_of(description, name.strip()) for name in field.split(","))))
    if description is None:
        return "?"
    request = description["request"]
    if field in VERBS:
        verb, without = VERBS[field]
        return f"{verb} {', '.join(request[field])}" if request.get(field) else without
    if field == "method":
        return METHODS[request["method"]].label if request["method"] in METHODS else str(request["method"])
    if field in request["parameters"] or field == "alpha":
        return _label_of_number(request, field)
    return str(request["prompt"]) if field == "prompt" else _named(field, request.get(field, "?"))


def _label_of_number(request: dict[str, Any], field: str) -> str:
    if not request["negative"] or request["method"] == "none":
        return "no guidance"
    value = request["parameters"].get(field)
    return str(request["method"]) if value is None else _named(field, value)


def _named(field: str, value: Any) -> str:
    return f"{field.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m vsf_cli.media.montage", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument(
        "--label", default="alpha", help="alpha, beta, seed, method, prompt, negative, ..., several: alpha,beta, or none: ''"
    )
    options = parser.parse_args()
    if options.columns < 1 or options.scale < 1:
        parser.error("--columns and --scale must be at least 1")
    try:
        labels = [label_of(read_metadata(path).description, options.label) for path in options.images]
        images = [Image.open(path) for path in options.images]
        write_image(options.output, draw_montage(images, labels, options.columns, options.scale), "png", None)
    except MediaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(options.output)


if __name__ == "__main__":
    main()
