"""Reads a table of prompts: its columns are options, and its cells values. All of its errors are reported at once."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vsf_cli.batch.records import MAX_TABLE_LENGTH, Record, read_records
from vsf_cli.config.names import counted
from vsf_cli.config.option import Option, Value, read_bool
from vsf_cli.config.ranges import ValueList, parse_range
from vsf_cli.config.strengths import is_auto
from vsf_cli.config.values import parse_given_seeds
from vsf_cli.errors import RequestError
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.options import COLUMNS, Given

__all__ = [
    "OF_RESULT",
    "Row",
    "TableErrors",
    "key_of",
    "near_column",
    "parse_table",
    "read_table",
    "texts_cell",
    "unused_columns",
]

NAME_COLUMNS = ("name", "file_name", "filename", "output")
"""Spellings of the column of image names; an `id` is one where there is no other. Other columns are options."""
MAX_CELL_LENGTH = 100_000
MAX_NAME_BYTES, MAX_PATH_BYTES = 200, 1000
"""Bytes of a part of a path, and of the whole: file systems take 255 and 1,024 or more, which leaves room for endings."""
OF_RESULT = "vsf_"
"""What begins the name of a column of results, where the table has one of that name."""
_HALF = re.compile("[\ud800-\udfff]")
_SHORTENED = re.compile(r"\d[eE][+-]?\d")
_SHEET_ERRORS = ("#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#SPILL!")


class TableErrors(RequestError):
    """All errors of a table, a line each, from top to bottom; `advice` is a sentence about several of them."""

    def __init__(self, source: str, lines: list[str], advice: str = "") -> None:
        self.lines, self.advice = sorted(lines, key=_line_of), advice
        super().__init__(f"{source} has {counted(len(lines), 'error')}, and nothing was made: {self.lines[0]}")


def _line_of(error: str) -> int:
    match = re.match(r"line (\d+)", error)
    return int(match[1]) if match else 0


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Arguments:
        line: The number of its first line in the file, from 1.
        prompt: The prompt.
        negative, keep, loras: The negative prompts, the kept prompts and the LoRA files; None takes those of the command line.
        seeds: The seeds; None takes those of the command line, and () draws one from the request.
        settings: The settings of its cells; those with several values are `ValueList`.
        name: The name of its images; None derives it from the prompt.
        cells: All cells as they were read, by the names of the columns.
        notes: What was read in a way that may not be meant.
    """

    line: int
    prompt: str
    negative: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    loras: tuple[str, ...] | None = None
    name: str | None = None
    cells: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def texts(self, given: Given) -> Texts:
        """Returns its texts; those of the command line stand in for what it has not."""
        default = given.texts(self.prompt)
        negative = default.negative if self.negative is None else self.negative
        return Texts(self.prompt, negative, default.keep if self.keep is None else self.keep)


def read_table(path: Path, text: str) -> list[Row]:
    """Returns the rows of a table, as `parse_table` does, if all of them are legal.

    Raises:
        TableErrors: If it cannot be read, has no row, lacks the column `prompt`, or has columns or cells that are not legal.
    """
    rows, errors = parse_table(path, text)
    if errors:
        raise TableErrors(str(path), errors)
    return rows


def parse_table(path: Path, text: str) -> tuple[list[Row], list[str]]:
    """Returns the legal rows of the text of a table, and the errors of the others.

    The suffix of the path decides the format; without one, the text does.
    """
    if len(text) > MAX_TABLE_LENGTH:
        return [], [f"it has {len(text)} characters, but may have {MAX_TABLE_LENGTH}"]
    text = text.removeprefix("\ufeff")
    errors: list[str] = []
    rows = []
    columns: dict[str, str] = {}
    for record in read_records(path, text, errors, _names_prompts):
        for name in record.cells:
            if name not in columns:
                columns[name] = _column(name, errors, record.header or record.line)
        if record.header and "prompt" not in columns.values():
            errors += [] if errors else [_no_header(record.header, list(record.cells))]
            break
        if row := _row(record, columns, errors):
            rows.append(row)
    if not errors and not rows:
        errors.append("it has no rows under a header such as prompt,negative: give at least one prompt")
    return rows, errors


@cache
def _known() -> Mapping[str, str]:
    """Returns the key of the option of every known column."""
    names = {**{key: one.column_names for key, one in COLUMNS.items()}, "name": NAME_COLUMNS, "id": ("id",)}
    return {spelled: key for key, known in names.items() for name in known for spelled in (name, name.replace("_", "-"))}


def key_of(column: str) -> str:
    """Returns the key of the option of a column; "" if it is not one."""
    return _known().get(_plain(column), "")


def unused_columns(rows: Sequence[Row]) -> list[str]:
    """Returns the columns of rows that are neither options nor words of `--sr`."""
    names = dict.fromkeys(name for row in rows for name in row.cells)
    idle = ("", "id") if "name" in map(key_of, names) else ("",)
    return [name for name in names if key_of(name) in idle and not name.endswith("=>")]


def near_column(column: str, alike: float) -> str:
    """Returns the name of an option's column that another name is like, by a ratio of at least `alike`; "" if none is."""
    if column.startswith(OF_RESULT) and key_of(column.removeprefix(OF_RESULT)):
        return ""
    return next(iter(difflib.get_close_matches(_plain(column), _known(), 1, alike)), "")


def _plain(column: str) -> str:
    """Returns a name in snake case: of `cfgScale` and `CFG Scale` it is `cfg_scale`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", column.strip())
    return re.sub(r"[\s_]+", "_", words.lower())


def _names_prompts(names: Sequence[str]) -> bool:
    return any(key_of(name) == "prompt" for name in names)


def _no_header(line: int, names: Sequence[str]) -> str:
    found = ", ".join(f"'{name[:40]}'" for name in names[:5])
    return f"line {line}: it names no column 'prompt', but {found}: the header is missing, a first line such as prompt,negative"


def _column(name: str, errors: list[str], line: int) -> str:
    """Returns `key_of`, and adds an error if the name seems misspelled."""
    key = key_of(name)
    if not key and (near := near_column(name, 0.8)):
        own = "Give a column of your own a name that is less like it"
        errors.append(f"line {line}: the column '{name}' is no option. Did you mean '{near}'? {own}")
    return key


def _numbers(value: Any, option: Option) -> ValueList | Value:
    if option.auto and is_auto(value):
        return option.convert(value)
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    numbers = value if isinstance(value, list) else [value]
    return parse_range(",".join(str(number) for number in numbers), option.type)


def _pointed(column: str, cell: Any) -> Any:
    """Returns a cell with a point for its comma, if its column has numbers and it is one with a decimal comma."""
    kind = int if column == "seed" else COLUMNS[column].type if column in COLUMNS else str
    pattern = {int: r"\s*[+-]?\d+,0+\s*", float: r"\s*[+-]?\d+,\d+\s*"}.get(kind)
    return cell.replace(",", ".") if pattern and re.fullmatch(pattern, cell) else cell


def texts_cell(texts: Sequence[str]) -> str:
    """Returns texts as one cell: several as a JSON list."""
    return texts[0] if len(texts) == 1 else json.dumps([*texts], ensure_ascii=False) if texts else ""


def _listed(value: Any) -> Any:
    """Returns the list that `texts_cell` wrote; any other value as it is."""
    try:
        return json.loads(value) if isinstance(value, str) and value.startswith('["') else value
    except ValueError:
        return value


def _texts(value: Any) -> tuple[str, ...]:
    value = _listed(value)
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{value!r} is not a text")
    return tuple(text.strip() for text in texts if text.strip())


def _text(value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a text")
    return str(value).strip()


def _name(value: Any) -> str:
    text = _text(value)
    parts = Path(text).parts
    if Path(text).is_absolute() or not parts or ".." in parts or any(char in "\\:" or ord(char) < 32 for char in text):
        raise ValueError(f"'{text[:80]}' is no plain path inside the run's folder")
    if any(part.startswith(".") or len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"'{text[:80]}' has a part that begins with a dot, or is longer than {MAX_NAME_BYTES} bytes")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"'{text[:80]}' has {len(text.encode())} bytes, but may have {MAX_PATH_BYTES}: name fewer folders")
    return str(Path(*parts))


def _seeds(value: Any) -> tuple[int, ...]:
    text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
    if _SHORTENED.search(text):
        raise ValueError(f"'{text}' has lost digits, as spreadsheets shorten long numbers: give the column the format of text")
    return tuple(parse_given_seeds(re.sub(r"^-1\.0*$", "-1", text)) or ())


def _parse_cell(column: str, value: Any) -> Any:
    if isinstance(value, str) and value.strip() in _SHEET_ERRORS:
        raise ValueError(f"'{value.strip()}' is an error of the spreadsheet: mend its formula")
    if column in ("name", "seed"):
        return _name(value) if column == "name" else _seeds(value)
    option = COLUMNS[column]
    if option.repeatable:
        return _texts(value)
    if option.type in (int, float):
        return _numbers(value, option)
    if option.type is bool:
        return read_bool(str(value))
    text = _text(value)
    if option.parse is not None:
        option.parse(text)
    if column == "prompt" and "{prompt}" in text:
        raise ValueError("{prompt} stands for the words of others, as in a file of styles: write a prompt in its place")
    return text


def _row(record: Record, columns: Mapping[str, str], errors: list[str]) -> Row | None:
    """Returns a row; None if it is not legal, and then its errors are added."""
    before, line = len(errors), record.line
    used, written = _used(line, record.cells, columns, errors)
    if not str(used.get("prompt", "")).strip():
        errors.append(f"line {line}, column prompt: there is no prompt")
    values, notes = {}, []
    for column, cell in used.items():
        pointed = _pointed(column, cell) if record.decimal_commas else cell
        if pointed != cell:
            notes.append(f"column {written[column]}: a comma is a decimal comma, so that 2,5 is 2.5; write '2, 5' for a list")
        try:
            values[column] = _parse_cell(column, pointed)
        except (ValueError, RequestError) as error:
            errors.append(f"line {line}, column {written[column]}: {error}")
    _join_sides(line, values, written, errors)
    if len(errors) > before:
        return None
    cells = {name: cell if isinstance(cell, str) else json.dumps(cell, default=str) for name, cell in record.cells.items()}
    taken = {key: values.pop(key, None) for key in ("prompt", "negative", "keep", "seed", "lora", "name")}
    texts = taken["prompt"], taken["negative"], taken["keep"]
    return Row(line, *texts, taken["seed"], values, taken["lora"], taken["name"], cells, tuple(notes))


def _used(
    line: int, cells: Mapping[str, Any], columns: Mapping[str, str], errors: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the cells that are options, and the names of their columns, by the keys of the options."""
    used: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in cells.items():
        if isinstance(value, str) and len(value) > MAX_CELL_LENGTH:
            errors.append(f"line {line}, column {name[:40]}: it has {len(value)} characters, but may have {MAX_CELL_LENGTH}")
        elif any(_HALF.search(text) for text in (name, *map(str, value if isinstance(value, list) else [value]))):
            errors.append(f"line {line}, column {name[:40]!a}: it has half of a character, a lone surrogate")
        elif (column := columns[name]) and value is not None and str(value).strip():
            if used.get(column, value) != value:
                errors.append(f"line {line}, column {name}: it says the same as '{written[column]}': keep one of the two")
            used[column], written[column] = value, name
    if (id := used.pop("id", None)) is not None and "name" not in used and not _is_manifest(cells):
        used["name"], written["name"] = id, written["id"]
    return used, written


def _is_manifest(cells: Mapping[str, Any]) -> bool:
    """Whether a row is one that a run wrote, whose id is that of its settings and no name of its own."""
    return {"id", "status", "file"} <= cells.keys() and "vsf_id" not in cells


def _join_sides(line: int, values: dict[str, Any], written: Mapping[str, str], errors: list[str]) -> None:
    """Replaces width and height, each of which must be one number, by the size."""
    sides = [values.pop(side, None) for side in ("width", "height")]
    if (sides[0] is None) != (sides[1] is None):
        errors.append(f"line {line}: give both width and height, or neither")
    for side, numbers in zip(("width", "height"), sides, strict=True):
        if numbers is not None and len(numbers) > 1:
            errors.append(f"line {line}, column {written[side]}: it has {len(numbers)} numbers, but must have one")
    if sides[0] and sides[1]:
        values["size"] = f"{sides[0][0]}x{sides[1][0]}"
