"""Contact sheets of a run: labelled PNG files beside its pictures."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vsf_cli.batch.gallery import columns_of
from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media import read_frames, write_picture
from vsf_cli.sheets import sheet

__all__ = ["check_sheets", "write_sheets"]

CELLS_OF_A_SHEET = 100
MOST_SHEETS = 50
LARGEST_SIDE = 384
"""Pixels of a picture on a sheet; larger ones are made smaller."""
SMALLEST_SIDE = 160
"""Pictures that are smaller are shown at twice their size."""


def check_sheets(count: int) -> None:
    """Refuses a run of which there would be too many sheets, before it begins.

    Raises:
        RequestError: If so.
    """
    most = CELLS_OF_A_SHEET * MOST_SHEETS
    if count > most:
        raise RequestError(f"--sheet is for {most} pictures at most, but there are {count}: look at index.html instead")


def write_sheets(folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[Path]:
    """Writes `sheet-1.png` and so on, of all pictures that are there.

    Raises:
        MediaError: If one cannot be written.
    """
    facts, varying, swept = columns_of(items, rows)
    cells = [(image, fact) for item, fact in zip(items, facts, strict=True) if (image := _image(folder / item.name))]
    across = len({fact.get(swept[0], "") for _, fact in cells}) if swept else 0
    columns = across if 2 <= across <= 12 else min(10, max(1, round(len(cells) ** 0.5)))
    per_sheet = max(columns, CELLS_OF_A_SHEET // columns * columns)
    paths = []
    for number, start in enumerate(range(0, len(cells), per_sheet), 1):
        part = cells[start : start + per_sheet]
        labels = [" · ".join(fact.get(name, "") for name in varying if name != "negative") or "seed" for _, fact in part]
        scale = 2 if max(part[0][0].size) < SMALLEST_SIDE else 1
        paths.append(folder / f"sheet-{number}.png")
        write_picture(paths[-1], sheet([image for image, _ in part], labels, columns, scale), "png", None)
    return paths


def _image(path: Path) -> Image.Image | None:
    """The picture, or the middle frame of a clip; None if it is not there."""
    try:
        frames = read_frames(path)
    except MediaError:
        return None
    if not frames:
        return None
    image = frames[len(frames) // 2].convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image
