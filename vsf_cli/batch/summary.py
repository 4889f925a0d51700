"""What a run leaves when it ends: a table of its items beside them, and a summary on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import read_journals, write_table
from vsf_cli.batch.table import Row
from vsf_cli.methods import setting_name

__all__ = ["duration", "write_manifest"]


def write_manifest(folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> Path:
    """Writes `manifest.csv` of all items of the table in its order, by the journals of all shards.

    Raises:
        MediaError: If it cannot be written.
    """
    known = read_journals(folder)
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    lines = [_results(item, _as_it_is(folder / item.name, known.get(item.key, {}))) for item in items]
    names = dict.fromkeys(name for line in lines for name in line)
    named = {name: f"vsf_{name}" if name in columns else name for name in names}
    return write_table(
        folder,
        [*columns, *named.values()],
        [
            {**rows[item.row].cells, **{named[name]: value for name, value in line.items()}}
            for item, line in zip(items, lines, strict=True)
        ],
    )


def _as_it_is(path: Path, line: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the journal says of a file; nothing of one that is no longer there."""
    return {} if line.get("status") == "done" and not path.exists() else line


def _results(item: Item, known: Mapping[str, Any]) -> dict[str, Any]:
    asked = item.request
    return {
        "id": item.id,
        "status": known.get("status", "left"),
        "file": item.name,
        "seconds": known.get("seconds", ""),
        "error": known.get("error", ""),
        "seed": asked.seed,
        "method": asked.method,
        "steps": asked.num_inference_steps,
        **{setting_name(asked.method, name): value for name, value in asked.parameters.items()},
    }


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
