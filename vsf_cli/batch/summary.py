"""The table of a run's items, written beside them when the run ends, and durations as text."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import MANIFEST, read_journals
from vsf_cli.batch.table import Row, key_of
from vsf_cli.config.option import idle
from vsf_cli.media.files import write_bytes
from vsf_cli.methods import setting_name

__all__ = ["duration", "write_manifest"]


def write_manifest(folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> Path:
    """Writes `manifest.csv` of all items in the order of the table, from the journals of all shards, and returns its path.

    Raises:
        MediaError: If it cannot be written.
    """
    known = read_journals(folder)
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    lines = [_results(item, folder / item.name, known.get(item.key, {})) for item in items]
    # By their options, so that the file is a table again, in which no column says the same as another.
    taken = {*columns, *filter(None, map(key_of, columns))}
    names = dict.fromkeys(name for line in lines for name in line)
    named = {name: f"vsf_{name}" if {name, key_of(name)} & taken else name for name in names}
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [*columns, *named.values()], extrasaction="ignore", restval="")
    writer.writeheader()
    for item, line in zip(items, lines, strict=True):
        writer.writerow({**rows[item.row].cells, **{named[name]: value for name, value in line.items()}})
    path = folder / f"{MANIFEST}.csv"
    write_bytes(path, buffer.getvalue().encode())
    return path


def _results(item: Item, path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    request = item.request
    idle_fields = {one.field for one, _ in idle(request.guidance.options(), request, request.guidance)}
    if known.get("status") == "done" and not path.exists():
        known = {}
    chosen = known.get("chosen", {})
    method = chosen.get("method", request.method)
    numbers = {name: value for name, value in request.numbers.items() if name not in idle_fields}
    # What a judge chose, so that the table makes the same images without one.
    numbers = {name: chosen.get(name, value) for name, value in numbers.items()} if method == request.method else {}
    return {
        "id": item.id,
        "status": known.get("status", "left"),
        "file": item.name,
        "seconds": known.get("seconds", ""),
        "error": known.get("error", ""),
        "seed": chosen.get("seed", request.seed),
        "steps": request.num_inference_steps,
        **({"runs": chosen.get("runs", "")} if request.chooses else {}),
        # As columns of another run those without an effect would be warned of.
        **({"method": method} if request.uses_method else {}),
        **{setting_name(method, name): value for name, value in numbers.items()},
    }


def duration(seconds: float) -> str:
    """Returns seconds as text, such as "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
