"""Reads a table of prompts: CSV, TSV, semicolons, JSON lines or TOML. All that is wrong with it is said at once."""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from vsf_cli.config.ranges import parse_range
from vsf_cli.config.values import parse_given_seeds, parse_size
from vsf_cli.errors import RequestError
from vsf_cli.settings.presets import SETTINGS

__all__ = ["Row", "TableErrors", "parse_table", "read_table", "usual_name"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompts", "text", "caption"),
    "negative": ("neg", "negative_prompt", "negative_prompts"),
    "seed": (),
    "alpha": ("scale", "vsf_scale"),
    "beta": ("offset",),
    "guidance": ("cfg", "cfgs", "cfg_scale", "guidance_scale"),
    "steps": ("num_inference_steps",),
    "frames": ("num_frames",),
    "lora": ("loras",),
    "width": (),
    "height": (),
    "name": ("id", "file_name", "filename", "output"),
}
"""The columns with other names in the wild, and those names."""
_MACHINE = {"device", "offload", "offline", "compile"}
NOT_OF_A_PICTURE = {*_MACHINE, "output", "exists", "video_preset"}
LARGEST_CELL = 100_000
LARGEST_TABLE = 200_000_000
LONGEST_NAME, LONGEST_PATH = 200, 1000
"""Bytes of a part of a name, and of the whole: systems take 255 and 1,024 or more, and the endings have room."""
_HALF = re.compile("[\ud800-\udfff]")
TOML = re.compile(r"(?:\s|#.*\n)*\[\[rows\]\]")


class TableErrors(RequestError):
    """Everything that is wrong with a table, a line each, from top to bottom."""

    def __init__(self, place: str, lines: list[str]) -> None:
        lines = sorted(lines, key=_line_of)
        super().__init__(f"{place} has {len(lines)} error{'s' if len(lines) > 1 else ''}, and nothing was made: {lines[0]}")
        self.lines = lines


def _line_of(error: str) -> int:
    found = re.match(r"line (\d+)", error)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Arguments:
        line: Where it begins in the file, from 1.
        prompt: What is wanted.
        negative: What is not wanted; None takes that of the command line.
        seeds: Its seeds; None takes those of the command line, and none draws one from what the row asks for.
        settings: The settings of its cells; those with several values are `Numbers`.
        loras: Its LoRA files; None takes those of the command line.
        name: Its pictures' name; None takes it from the prompt.
        cells: All cells as they were read, by the names of the columns.
    """

    line: int
    prompt: str
    negative: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    loras: tuple[str, ...] | None = None
    name: str | None = None
    cells: Mapping[str, str] = field(default_factory=dict)


def read_table(path: Path, text: str) -> list[Row]:
    """The rows of a table, all of which must be legal, as `parse_table` has it.

    Raises:
        TableErrors: If it cannot be read, has no row, lacks the column `prompt`, or has columns or cells that are not legal.
    """
    rows, errors = parse_table(path, text)
    if errors:
        raise TableErrors(str(path), errors)
    return rows


def parse_table(path: Path, text: str) -> tuple[list[Row], list[str]]:
    """The rows of a table that are legal, and what is wrong with the others.

    Arguments:
        path: Where it was read, whose ending says its format; without one it is sniffed.
        text: What was read.
    """
    if len(text) > LARGEST_TABLE:
        return [], [f"it has {len(text)} characters, but may have {LARGEST_TABLE}"]
    text = text.removeprefix("\ufeff")
    errors: list[str] = []
    rows = []
    columns: dict[str, str] = {}
    for line, named, cells in _records(path, text, errors):
        for name in cells:
            if name not in columns:
                columns[name] = _column(name, errors, named)
        if row := _row(line, cells, columns, errors):
            rows.append(row)
    if not errors and not rows:
        errors.append("it has no rows: write a line 'prompt', and a prompt on each line below")
    return rows, errors


def _records(path: Path, text: str, errors: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Each row's line, the line that names its columns, and its cells."""
    if "\0" in text:
        errors.append(f"line {text[: text.index(chr(0))].count(chr(10)) + 1}: it has a NUL byte, and is no text")
    elif path.suffix.lower() in (".jsonl", ".ndjson") or (not path.suffix and text.lstrip().startswith("{")):
        yield from _json_lines(text, errors)
    elif path.suffix.lower() == ".toml" or (not path.suffix and TOML.match(text)):
        yield from _toml(text, errors)
    else:
        yield from _separated(text, errors, path.suffix.lower() == ".tsv")


def _json_lines(text: str, errors: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            errors.append(f"line {number}: not JSON: {error}")
            continue
        if isinstance(found, dict):
            yield number, number, found
        else:
            errors.append(f'line {number}: it must be an object, such as {{"prompt": "a bike"}}')


def _toml(text: str, errors: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    try:
        found = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        errors.append(f"not TOML: {error}")
        return
    rows = found.get("rows")
    if len(found) != 1 or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        errors.append("a TOML table has its rows as [[rows]], and nothing else")
        return
    places = [number for number, line in enumerate(text.split("\n"), 1) if line.strip() == "[[rows]]"]
    for number, row in enumerate(rows):
        line = places[number] if number < len(places) else 1
        yield line, line, row


def _separated(text: str, errors: list[str], tabs: bool) -> Iterator[tuple[int, int, dict[str, Any]]]:
    csv.field_size_limit(LARGEST_TABLE)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = "\t" if tabs else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = named = 1
    try:
        for record in reader:
            if not any(cell.strip() for cell in record):
                line = reader.line_num + 1
                continue
            if names is None:
                names, named = [name.strip() for name in record], line
                repeated = {name for name in names if names.count(name) > 1}
                if repeated:
                    errors.append(f"line {line}: the column '{sorted(repeated)[0]}' is there more than once")
                    return
            elif len(record) > len(names):
                errors.append(f"line {line}: it has {len(record)} cells, but the table has {len(names)} columns: quote a cell")
            else:
                yield line, named, dict(zip(names, record, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        errors.append(f"line {line}: {error}: look for a quote that is not closed")


@cache
def _known() -> Mapping[str, str]:
    """Every legal name of a column that we use, with the name that we use it by."""
    settings = [name for name in SETTINGS if name not in NOT_OF_A_PICTURE]
    return {
        spelled: name for name in (*ALIASES, *settings) for spelled in (name, name.replace("_", "-"), *ALIASES.get(name, ()))
    }


def usual_name(column: str) -> str:
    """The name by which a column is used; "" if it is not one that we use."""
    return _known().get(_plain(column), "")


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


def _column(name: str, errors: list[str], line: int) -> str:
    """The name by which a column is used; "" if it is carried through."""
    known, plain = _known(), _plain(name)
    if plain in known:
        return known[plain]
    if near := difflib.get_close_matches(plain, known, 1, 0.8):
        errors.append(f"line {line}: the column '{name}' is not known. Did you mean '{near[0]}'? Rename it if not")
    return ""


def _numbers(kind: type) -> Any:
    def parse(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"{value} is no number")
        if isinstance(value, (int, float, list)):
            value = ",".join(str(number) for number in (value if isinstance(value, list) else [value]))
        return parse_range(str(value), kind)

    return Annotated[Any, BeforeValidator(_mended(parse))]


def _mended(parse: Any) -> Any:
    """A parser whose errors pydantic collects."""

    def wrapped(value: Any) -> Any:
        try:
            return parse(value)
        except RequestError as error:
            raise ValueError(str(error)) from error

    return wrapped


def _truth(value: Any) -> Any:
    found = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"'{value}' is neither true nor false")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{value!r} is no text")
    return tuple(text.strip() for text in texts if text.strip())


def _text(value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no text")
    return str(value).strip()


def _name(value: Any) -> str:
    text = _text(value)
    parts = Path(text).parts
    if Path(text).is_absolute() or not parts or ".." in parts or any(char in "\\:" or ord(char) < 32 for char in text):
        raise ValueError(f"'{text[:80]}' leads out of the folder of the run: give a plain name")
    if any(part.startswith(".") or len(part.encode()) > LONGEST_NAME for part in parts):
        raise ValueError(f"'{text[:80]}' has a part that begins with a dot, or is longer than {LONGEST_NAME} bytes")
    if len(text.encode()) > LONGEST_PATH:
        raise ValueError(f"'{text[:80]}' has {len(text.encode())} bytes, but may have {LONGEST_PATH}: name fewer folders")
    return str(Path(*parts))


def _size(value: Any) -> str:
    text = _text(value)
    parse_size(text)
    return text


def _seeds(value: Any) -> tuple[int, ...]:
    text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
    return tuple(parse_given_seeds(text) or ())


def _kind(name: str) -> Any:
    special = {"size": _size, "negative": _texts, "lora": _texts, "name": _name, "prompt": _text, "seed": _seeds}
    if name in special:
        return Annotated[Any, BeforeValidator(_mended(special[name]))]
    kind = {"width": int, "height": int}.get(name) or SETTINGS[name]
    if kind in (int, float):
        return _numbers(kind)
    return Annotated[Any, BeforeValidator(_truth if kind is bool else _text)]


# Of the table's own columns alone: a field costs a millisecond.
@cache
def _cells_model(columns: frozenset[str]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (_kind(name), None) for name in sorted(columns)}
    return create_model("Cells", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)


def _row(line: int, cells: Mapping[str, Any], columns: Mapping[str, str], errors: list[str]) -> Row | None:
    """A row; None if it is not legal, and then what is wrong is among the errors."""
    before = len(errors)
    used: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in cells.items():
        if isinstance(value, str) and len(value) > LARGEST_CELL:
            errors.append(f"line {line}, column {name[:40]}: it has {len(value)} characters, but may have {LARGEST_CELL}")
        elif any(_HALF.search(text) for text in (name, *map(str, value if isinstance(value, list) else [value]))):
            errors.append(f"line {line}, column {name[:40]!a}: it has half of a character, a lone surrogate")
        elif (column := columns[name]) and value is not None and str(value).strip():
            if column in used:
                errors.append(f"line {line}, column {name}: it says the same as '{written[column]}': keep one of the two")
            used[column], written[column] = value, name
    if not str(used.get("prompt", "")).strip():
        errors.append(f"line {line}, column prompt: there is no prompt")
    try:
        cells_found = _cells_model(frozenset(columns.values()) - {""})(**used)
        # Not `model_dump`, which makes plain tuples of `Numbers`.
        found = {name: getattr(cells_found, name) for name in cells_found.model_fields_set}
    except ValidationError as error:
        for one in error.errors(include_url=False):
            column = str(one["loc"][0])
            errors.append(f"line {line}, column {written[column]}: {one['msg'].removeprefix('Value error, ')}")
        return None
    if ("width" in found) != ("height" in found):
        errors.append(f"line {line}: give both width and height, or neither")
    for side in ("width", "height"):
        if len(found.get(side, [0])) > 1:
            errors.append(f"line {line}, column {written[side]}: it has {len(found[side])} numbers, but must have one")
    if len(errors) > before:
        return None
    if "width" in found:
        found["size"] = f"{found.pop('width')[0]}x{found.pop('height')[0]}"
    kept = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in cells.items()}
    taken = {key: found.pop(key, None) for key in ("prompt", "negative", "seed", "lora", "name")}
    return Row(line, taken["prompt"], taken["negative"], taken["seed"], found, taken["lora"], taken["name"], kept)
