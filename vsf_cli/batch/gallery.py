"""`index.html` of a run: its pictures in a grid with labelled axes, in one file that opens from disk."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from vsf_cli.batch.items import Item
from vsf_cli.batch.table import ALIASES, Row
from vsf_cli.errors import MediaError
from vsf_cli.html import rendered
from vsf_cli.media import read_frames, write_bytes
from vsf_cli.methods import METHODS, setting_name

__all__ = ["MOST_CELLS", "columns_of", "gallery", "write_gallery"]

MOST_CELLS = 2_000
"""A page with more would be slow to open; the others are in `manifest.csv`."""
SIDE, SMALL_SIDE, MANY = 160, 112, 300
"""Pixels of a thumbnail; the smaller ones where there are many."""
QUALITY = 72
CLIPS = (".mp4", ".webm")
BEFORE = "before --sr"
"""The prompt as it stands in the table, where words were replaced."""


def write_gallery(folder: Path, items: Sequence[Item], rows: Sequence[Row], known: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes the page beside the pictures. Thumbnails of pictures that are as they were are taken from the page before.

    Arguments:
        folder: The folder of the run.
        items: All items of the table.
        rows: The table's rows.
        known: The last line of the journals for each item, by id.

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
    known: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The HTML. Thumbnails are in it, full files are linked.

    Arguments:
        folder: The folder of the run.
        items: All items of the table.
        rows: The table's rows.
        known: The last line of the journals for each item, by id.
        before: The cells of an earlier page, by the names of their files.
    """
    shown = items[:MOST_CELLS]
    side = SMALL_SIDE if len(shown) > MANY else SIDE
    facts, varying, swept = columns_of(shown, rows)
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    cells = [
        {**_cell(folder, item, known.get(item.id, {}), side, (before or {}).get(item.name, {})), "facts": fact}
        for item, fact in zip(shown, facts, strict=True)
    ]
    usual = {name: _text(value) for item in shown[:1] for name, value in _usual(item).items()}
    common = {name: facts[0][name] for name in names if name not in varying and facts[0].get(name)} if facts else {}
    told = {name: value for name, value in common.items() if usual.get(name) != value}
    data = {"cells": cells, "varying": varying, "common": common, "told": told, "axes": _axes(varying, swept), "side": side}
    return rendered("batch.html.j2", title=folder.name or "run", data=data, left_out=len(items) - len(shown))


def _cells_before(path: Path) -> dict[str, dict[str, Any]]:
    """The cells of the page that is there, by the names of their files; none if it is not there, or not ours."""
    try:
        found = re.search(r"^const data = (.*);$", path.read_text("utf-8"), re.MULTILINE)
        return {cell["name"]: cell for cell in json.loads(found[1])["cells"]} if found else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def columns_of(items: Sequence[Item], rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """What a run's items were asked, as texts by name.

    Returns:
        The settings and columns of each item; the names of those in which items differ; and of those that were swept: what
        `--sr` replaced, and those in which items of one row differ, the seed last.
    """
    facts = [{**_settings(item), **_own_columns(rows[item.row], item)} for item in items]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    varying = [name for name in names if len({fact.get(name, "") for fact in facts}) > 1]
    own = {name: {(item.row, fact.get(name, "")) for item, fact in zip(items, facts, strict=True)} for name in varying}
    several = {name for name in varying if name.endswith("=>") or len(own[name]) > len({item.row for item in items})}
    swept = [name for name in varying if name in several and name not in ("prompt", "negative")]
    return facts, varying, sorted(swept, key=lambda name: name == "seed")


def _axes(varying: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """What stands across, down and apart at first; "" for nothing. Unless something was swept, pictures flow."""
    rows = [name for name in (BEFORE if any(name.endswith("=>") for name in swept) else "prompt",) if name in varying]
    order = [*swept[:2], *rows, *swept[2:]]
    return dict(zip(("across", "down", "apart"), [*order, "", "", ""] if swept else ["", "", ""], strict=False))


def _settings(item: Item) -> dict[str, str]:
    """What was asked, by the names of the command line."""
    asked = item.request
    numbers = {setting_name(asked.method, name): value for name, value in asked.parameters.items()}
    size = f"{asked.width}x{asked.height}" if asked.width else None
    found = {
        "prompt": asked.prompt,
        "negative": ", ".join(asked.negative),
        "seed": asked.seed,
        "method": asked.method,
        **numbers,
        "steps": asked.num_inference_steps,
        "guidance": asked.guidance_scale,
        "size": size,
        "frames": asked.num_frames,
        "shift": asked.flow_shift,
        "model": asked.to_json()["model"],
        "preset": asked.preset,
        "dtype": asked.dtype,
        "lora": ", ".join(asked.to_json()["loras"]),
    }
    return {name: _text(value) for name, value in found.items() if value is not None and value != ""}


def _usual(item: Item) -> dict[str, Any]:
    """The hyper-parameters of the item's method that a method has by itself."""
    return {setting_name(item.request.method, name): value for name, value in METHODS[item.request.method]().parameters.items()}


def _own_columns(row: Row, item: Item) -> dict[str, str]:
    """The columns of the table that are no settings."""
    used = {"prompt", "negative", "seed", "alpha", "beta", "neg", "name", "width", "height", *_settings(item)}
    own = {name: value for name, value in row.cells.items() if name.lower() not in used and value}
    if not any(name.endswith("=>") for name in own):
        return own
    prompts = ("prompt", *ALIASES["prompt"])
    return {BEFORE: next(value for name, value in row.cells.items() if name.strip().lower() in prompts), **own}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(folder: Path, item: Item, line: Mapping[str, Any], side: int, before: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / item.name
    whole = path / "0000.png" if path.is_dir() else path
    file = quote(str(whole.relative_to(folder)).replace(os.sep, "/"))
    cell = {"file": file, "name": item.name, "error": "", "thumb": "", "clip": path.suffix in CLIPS, "stamp": ""}
    if line.get("status") == "failed":
        return {**cell, "error": str(line.get("error", "failed"))}
    if not whole.is_file():
        return cell
    facts = whole.stat()
    stamp = f"{facts.st_size} {facts.st_mtime_ns} {side}"
    thumb = before["thumb"] if before.get("stamp") == stamp else next(_thumbnails(path, side), "")
    return {**cell, "thumb": thumb, "stamp": stamp}


def _thumbnails(path: Path, side: int) -> Iterator[str]:
    """The picture, or the middle frame of a clip, made small; nothing if it is not there, or not whole."""
    try:
        frames = read_frames(path)
    except MediaError:
        return
    if not frames:
        return
    small: Image.Image = frames[len(frames) // 2].convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=2)
    yield "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
