"""Contact sheets of a run: labelled PNG files beside its pictures."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vsf_cli.batch.facts import axes_of, columns_of, in_common
from vsf_cli.batch.grids import CELLS_OF_A_SHEET, Grid, captions, sheets_of
from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.formats import write_image
from vsf_cli.media.reading import read_middle

__all__ = ["check_sheets", "write_sheets"]

MOST_SHEETS = 50
MOST_PICTURES = CELLS_OF_A_SHEET * MOST_SHEETS
LARGEST_SIDE = 384
"""Pixels of a picture on a sheet; larger ones are made smaller."""
SMALLEST_SIDE = 160
"""Pictures that are smaller are shown at twice their size."""
MARGIN, LINE, TEXT_SIZE = 6, 16, 12
LABEL_WIDTH = 150
MOST_LINES = 8
NOTHING = (228, 228, 228)


def check_sheets(items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Refuses a run of which there would be too many sheets, before it begins.

    Raises:
        RequestError: If so.
    """
    if len(items) > MOST_PICTURES:
        raise RequestError(f"--sheet is for {MOST_PICTURES} pictures at most, but there are {len(items)}: look at index.html")
    facts, varying, swept = columns_of(items, rows)
    count = len(sheets_of(facts, axes_of(varying, swept)))
    if count > MOST_SHEETS:
        raise RequestError(f"--sheet is for {MOST_SHEETS} sheets at most, but there would be {count}: look at index.html")


def write_sheets(folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[Path]:
    """Writes `sheet-1.png` and so on, with a place for each picture, be it there or not.

    Raises:
        MediaError: If one cannot be written.
    """
    facts, varying, swept = columns_of(items, rows)
    axes = axes_of(varying, swept)
    below = captions(facts, varying, [name for name in axes.values() if name])
    footer = " · ".join(f"{name} {value}" for name, value in in_common(items, facts, varying)[1].items())
    paths = []
    for number, grids in enumerate(sheets_of(facts, axes), 1):
        shown = {each for grid in grids for _, row in grid.rows for each in row if each is not None}
        images = {each: image for each in sorted(shown) if (image := _image(folder / items[each].name, items[each]))}
        if images:
            paths.append(folder / f"sheet-{number}.png")
            write_image(paths[-1], _drawn(grids, images, below, footer), "png", None)
    return paths


def _image(path: Path, item: Item) -> Image.Image | None:
    """The picture, or the middle frame of a clip; None if it is not there."""
    try:
        image = read_middle(path, item.middle)
    except MediaError:
        return None
    if max(image.size) < SMALLEST_SIDE:
        return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image


class _Sheet:
    """A sheet that is drawn from top to bottom, and grows as it is; all pictures have places of one size."""

    def __init__(self, grids: Sequence[Grid], images: Mapping[int, Image.Image], captions: Sequence[str]) -> None:
        self.images, self.captions = images, captions
        self.box = max(image.width for image in images.values()), max(image.height for image in images.values())
        labels = [label for grid in grids for label in (grid.corner, *(label for label, _ in grid.rows))]
        self.left = min(LABEL_WIDTH, max(map(_width, labels))) + 2 * MARGIN if any(labels) else MARGIN
        self.width = self.left + max(len(grid.heads) for grid in grids) * (self.box[0] + MARGIN)
        self.strips: list[Image.Image] = []

    def strip(self, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """Room below what is there."""
        self.strips.append(Image.new("RGB", (self.width, height), "white"))
        return self.strips[-1], ImageDraw.Draw(self.strips[-1])

    def text(self, text: str, color: str = "black") -> None:
        """Text over the whole width."""
        lines = _wrapped(text, self.width - 2 * MARGIN)
        _, draw = self.strip(len(lines) * LINE + MARGIN)
        _write(draw, lines, MARGIN, MARGIN, color)

    def heads(self, grid: Grid) -> None:
        """The labels of the columns."""
        texts = [_wrapped(head, self.box[0]) for head in grid.heads]
        _, draw = self.strip(max(map(len, texts)) * LINE + MARGIN)
        _write(draw, _wrapped(grid.corner, self.left), MARGIN, MARGIN, "gray")
        for column, lines in enumerate(texts):
            _write(draw, lines, self.left + column * (self.box[0] + MARGIN), MARGIN)

    def row(self, label: str, numbers: Sequence[int | None]) -> None:
        """Pictures with what stands below them, and their label beside them."""
        texts = [[] if number is None else _wrapped(self.captions[number], self.box[0]) for number in numbers]
        pictures = [self.images.get(-1 if number is None else number) for number in numbers]
        high = max((picture.height for picture in pictures if picture), default=self.box[1])
        canvas, draw = self.strip(MARGIN + high + max(map(len, texts)) * LINE)
        _write(draw, _wrapped(label, self.left - 2 * MARGIN), MARGIN, MARGIN)
        for column, (number, picture, lines) in enumerate(zip(numbers, pictures, texts, strict=True)):
            if number is None:
                continue
            x = self.left + column * (self.box[0] + MARGIN)
            image = picture or Image.new("RGB", (self.box[0], high), NOTHING)
            canvas.paste(image, (x + (self.box[0] - image.width) // 2, MARGIN + (high - image.height) // 2))
            _write(draw, lines, x, MARGIN + high)

    def whole(self) -> Image.Image:
        """The sheet."""
        canvas = Image.new("RGB", (self.width, sum(strip.height for strip in self.strips) + MARGIN), "white")
        top = 0
        for strip in self.strips:
            canvas.paste(strip, (0, top))
            top += strip.height
        return canvas


def _drawn(grids: Sequence[Grid], images: Mapping[int, Image.Image], captions: Sequence[str], footer: str) -> Image.Image:
    sheet = _Sheet(grids, images, captions)
    for grid in grids:
        if grid.title:
            sheet.text(grid.title)
        if any((grid.corner, *grid.heads)):
            sheet.heads(grid)
        for label, numbers in grid.rows:
            sheet.row(label, numbers)
    sheet.text(footer, "gray")
    return sheet.whole()


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Matplotlib's, which has more letters than Pillow's own."""
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), TEXT_SIZE)


def _width(text: str) -> int:
    return round(_font().getlength(text)) + 1


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, color: str = "black") -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * LINE), line, color, _font())


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that are no wider; words that are have their end cut off, and so has the text after some lines."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_cut(word, width))
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], _cut(f"{lines[MOST_LINES - 1]} …", width)]


def _cut(text: str, width: int) -> str:
    while len(text) > 1 and _width(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text
