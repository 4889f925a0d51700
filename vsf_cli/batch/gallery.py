"""Writes `index.html` of a run: its images in a grid with labelled axes, in one file that opens from disk."""

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vsf_cli.batch.facts import axes_of, columns_of, in_common
from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import VIDEO_ENDINGS
from vsf_cli.media.html import render
from vsf_cli.media.reading import read_middle

__all__ = ["MAX_CELLS", "gallery", "write_gallery"]

MAX_CELLS = 2_000
"""A page with more would be slow to open; the others are in `manifest.csv`."""
SIDE, SMALL_SIDE, MANY = 160, 112, 300
"""Pixels of a thumbnail; `SMALL_SIDE` if there are more than `MANY`."""
QUALITY = 72


def write_gallery(
    folder: Path, items: Sequence[Item], rows: Sequence[Row], known: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Path:
    """Writes the page, and returns its path. Thumbnails of unchanged images are taken from the old page.

    `known` has the last line of the journals for each item, by its key.

    Raises:
        MediaError: If it cannot be written.
    """
    path = folder / "index.html"
    write_bytes(path, gallery(folder, items, rows, known, _cells_before(path)).encode())
    return path


def gallery(
    folder: Path,
    items: Sequence[Item],
    rows: Sequence[Row],
    known: Mapping[tuple[str, str], Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Returns the HTML, with thumbnails and links to the full files; `before` has the cells of an old page by file name."""
    shown = items[:MAX_CELLS]
    side = SMALL_SIDE if len(shown) > MANY else SIDE
    facts, varying, swept = columns_of(shown, rows)
    cells = [
        {**_cell(folder, item, known.get(item.key, {}), side, (before or {}).get(item.name, {})), "facts": fact}
        for item, fact in zip(shown, facts, strict=True)
    ]
    common, changed = in_common(shown, facts, varying)
    data = {"cells": cells, "varying": varying, "common": common, "told": changed, "axes": axes_of(varying, swept)}
    data["side"] = side
    return render("batch.html.j2", title=folder.name or "run", data=data, left_out=len(items) - len(shown))


def _cells_before(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the cells of an old page by file name; none if there is no page of ours."""
    try:
        match = re.search(r"^const data = (.*);$", path.read_text("utf-8"), re.MULTILINE)
        return {cell["name"]: cell for cell in json.loads(match[1])["cells"]} if match else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _cell(folder: Path, item: Item, line: Mapping[str, Any], side: int, before: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / item.name
    source = path / "0000.png" if path.is_dir() else path
    file = quote(str(source.relative_to(folder)).replace(os.sep, "/"))
    cell = {"file": file, "name": item.name, "error": "", "thumb": "", "clip": path.suffix in VIDEO_ENDINGS, "stamp": ""}
    if line.get("status") == "failed":
        return {**cell, "error": str(line.get("error", "failed"))}
    if not source.is_file():
        return cell
    status = source.stat()
    stamp = f"{status.st_size} {status.st_mtime_ns} {side}"
    thumb = before["thumb"] if before.get("stamp") == stamp else _thumbnail(path, item, side)
    return {**cell, "thumb": thumb, "stamp": stamp}


def _thumbnail(path: Path, item: Item, side: int) -> str:
    """Returns the image, or the middle frame of a video, as a small data URL; "" if the file is missing or not complete."""
    try:
        small = read_middle(path, item.middle)
    except MediaError:
        return ""
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
