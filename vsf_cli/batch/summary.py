"""The table of a run's items, written beside them when the run ends, and durations as text."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsf_cli.batch.chosen import chosen_request
from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import MANIFEST, read_journals
from vsf_cli.batch.table import OF_RESULT, Row, key_of, texts_cell
from vsf_cli.config.option import idle
from vsf_cli.media.files import write_bytes
from vsf_cli.methods import method_options, setting_name
from vsf_cli.settings.request import UNCHOSEN

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
    named = {name: f"{OF_RESULT}{name}" if {name, key_of(name)} & taken else name for name in names}
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, [*columns, *named.values()], extrasaction="ignore", restval="")
    writer.writeheader()
    for item, line in zip(items, lines, strict=True):
        cells = _chosen_cells(rows[item.row].cells, line) if "keep" in line else rows[item.row].cells
        writer.writerow({**cells, **{named[name]: value for name, value in line.items()}})
    path = folder / f"{MANIFEST}.csv"
    write_bytes(path, buffer.getvalue().encode())
    return path


def _chosen_cells(cells: Mapping[str, str], line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the cells of a row with what a judge chose in place of what it chose from, and without the judge."""
    decided = {"seed", "method", "keep", *method_options(), *UNCHOSEN}
    return {name: line.get(key, "") if (key := key_of(name)) in decided else cell for name, cell in cells.items()}


def _results(item: Item, path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of an item that was made, or is left; what has to stay is among them if a judge chose."""
    if known.get("status") == "done" and not path.exists():
        known = {}
    chosen = known.get("chosen", {})
    request = chosen_request(item.request, chosen)
    # As columns of another run those without an effect would be warned of.
    idle_fields = {one.field for one, _ in idle(request.guidance.options(), request, request.guidance)}
    numbers = {name: value for name, value in request.numbers.items() if name not in idle_fields}
    return {
        "id": item.id,
        "status": known.get("status", "left"),
        "file": item.name,
        "seconds": known.get("seconds", ""),
        "error": known.get("error", ""),
        "seed": request.seed,
        "steps": request.num_inference_steps,
        **({"runs": chosen.get("runs", "")} if item.request.chooses else {}),
        **({"method": request.method} if request.uses_method else {}),
        **{setting_name(request.method, name): value for name, value in numbers.items()},
        **({"keep": texts_cell(request.keep)} if chosen else {}),
    }


def duration(seconds: float) -> str:
    """Returns seconds as text, such as "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
