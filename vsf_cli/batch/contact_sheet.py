"""Contact sheets of a run: labelled PNG files beside its images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from vsf_cli.batch.facts import axes_of, columns_of, in_common
from vsf_cli.batch.grids import CELLS_OF_A_SHEET, Grid, captions, sheets_of
from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.formats import write_image
from vsf_cli.media.montage import Montage, text_width
from vsf_cli.media.reading import read_middle

__all__ = ["check_sheets", "write_sheets"]

MAX_SHEETS = 50
MAX_IMAGES = CELLS_OF_A_SHEET * MAX_SHEETS
MAX_SIDE = 384
"""Pixels of an image on a sheet; larger images are reduced."""
MIN_SIDE = 160
"""Smaller images are shown at twice their size."""
MAX_LABEL_WIDTH = 150
"""Pixels of the labels of rows."""


def check_sheets(items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Checks the number of sheets before a run starts.

    Raises:
        RequestError: If there would be too many.
    """
    if len(items) > MAX_IMAGES:
        raise RequestError(f"--sheet is for {MAX_IMAGES} images at most, but there are {len(items)}: look at index.html")
    facts, varying, swept = columns_of(items, rows)
    count = len(sheets_of(facts, axes_of(varying, swept)))
    if count > MAX_SHEETS:
        raise RequestError(f"--sheet is for {MAX_SHEETS} sheets at most, but there would be {count}: look at index.html")


def write_sheets(folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[Path]:
    """Writes `sheet-1.png` and so on, with a cell for each image, and returns their paths. Cells of missing images are empty.

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
            write_image(paths[-1], _draw_sheet(grids, images, below, footer), "png", None)
    return paths


def _image(path: Path, item: Item) -> Image.Image | None:
    """Returns the image, or the middle frame of a video; None if it does not exist."""
    try:
        image = read_middle(path, item.middle)
    except MediaError:
        return None
    if max(image.size) < MIN_SIDE:
        return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image


def _label_width(grids: Sequence[Grid]) -> int:
    """Returns the pixels of the labels of rows; 0 if there are none."""
    labels = [label for grid in grids for label in (grid.corner, *(label for label, _ in grid.rows))]
    return min(MAX_LABEL_WIDTH, max(map(text_width, labels))) if any(labels) else 0


def _draw_sheet(grids: Sequence[Grid], images: Mapping[int, Image.Image], captions: Sequence[str], footer: str) -> Image.Image:
    """Returns a sheet, whose cells all have the same size."""
    size = max(image.width for image in images.values()), max(image.height for image in images.values())
    montage = Montage(size, max(len(grid.heads) for grid in grids), _label_width(grids))
    for grid in grids:
        if grid.title:
            montage.add_text(grid.title)
        if any((grid.corner, *grid.heads)):
            montage.add_heads(grid.heads, grid.corner)
        for label, row in grid.rows:
            # A cell without an item has no caption, and stays white.
            shown = [None if number is None else images.get(number) for number in row]
            montage.add_row(shown, [None if number is None else captions[number] for number in row], label)
    montage.add_text(footer, "gray")
    return montage.draw()
