"""`index.html` of a run: its pictures in a grid with labelled axes, in one file that opens from disk."""

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError
from vsf_cli.media import read_frames, write_bytes
from vsf_cli.methods import METHODS, setting_name

__all__ = ["MOST_CELLS", "columns_of", "gallery", "write_gallery"]

MOST_CELLS = 2_000
"""A page with more would be slow to open; the others are in `manifest.csv`."""
SIDE, SMALL_SIDE, MANY = 160, 112, 300
"""Pixels of a thumbnail; the smaller ones where there are many."""
QUALITY = 72
CLIPS = (".mp4", ".webm")


def write_gallery(folder: Path, items: Sequence[Item], rows: Sequence[Row], known: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes the page beside the pictures.

    Arguments:
        folder: The folder of the run.
        items: All items of the table.
        rows: The table's rows.
        known: The last line of the journals for each item, by id.

    Raises:
        MediaError: If it cannot be written.
    """
    path = folder / "index.html"
    write_bytes(path, gallery(folder, items, rows, known).encode())
    return path


def gallery(folder: Path, items: Sequence[Item], rows: Sequence[Row], known: Mapping[str, Mapping[str, Any]]) -> str:
    """The HTML. Thumbnails are in it, full files are linked."""
    shown = items[:MOST_CELLS]
    side = SMALL_SIDE if len(shown) > MANY else SIDE
    facts, varying, swept = columns_of(shown, rows)
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    cells = [
        {**_cell(folder, item, known.get(item.id, {}), side), "facts": fact} for item, fact in zip(shown, facts, strict=True)
    ]
    usual = {name: _text(value) for item in shown[:1] for name, value in _usual(item).items()}
    common = {name: facts[0][name] for name in names if name not in varying and facts[0].get(name)} if facts else {}
    told = {name: value for name, value in common.items() if usual.get(name) != value}
    data = {"cells": cells, "varying": varying, "common": common, "told": told, "axes": _axes(varying, swept), "side": side}
    environment = Environment(loader=PackageLoader("vsf_cli"), autoescape=True, undefined=StrictUndefined)
    # As they stand, not by their letters.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    left_out = len(items) - len(shown)
    return environment.get_template("batch.html.j2").render(title=folder.name or "run", data=data, left_out=left_out)


def columns_of(items: Sequence[Item], rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """What a run's items were asked, as texts by name.

    Returns:
        The settings and columns of each item; the names of those in which items differ; and among them those that were swept.
    """
    facts = [{**_settings(item), **_own_columns(rows[item.row], item)} for item in items]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    varying = [name for name in names if len({fact.get(name, "") for fact in facts}) > 1]
    columns = {name for row in rows for name in row.cells if not name.endswith("=>")}
    return facts, varying, [name for name in varying if name not in ("prompt", "negative", "seed") and name not in columns]


def _axes(varying: Sequence[str], swept: Sequence[str]) -> list[str]:
    """What stands across and down at first: what is swept, then prompts and seeds; "" for none."""
    order = [*swept, *(name for name in ("prompt", "seed") if name in varying)]
    if not swept:
        return ["", ""]
    return [order[0], order[1] if len(order) > 1 else ""]


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
    return {name: value for name, value in row.cells.items() if name.lower() not in used and value}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(folder: Path, item: Item, line: Mapping[str, Any], side: int) -> dict[str, Any]:
    path = folder / item.name
    cell = {"file": quote(item.name.replace(os.sep, "/")), "name": item.name, "error": "", "thumb": "", "clip": False}
    if line.get("status") == "failed":
        return {**cell, "error": str(line.get("error", "failed"))}
    thumb = next(_thumbnails(path, side), "")
    whole = quote(f"{item.name}/0000.png") if path.is_dir() else cell["file"]
    return {**cell, "file": whole, "thumb": thumb, "clip": path.suffix in CLIPS}


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
