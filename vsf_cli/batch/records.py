"""Reads the records of a table: the cells of each row by the names of their columns, in whatever format they are."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from vsf_cli.errors import RequestError
from vsf_cli.prompts.texts import decode_text

__all__ = ["MAX_TABLE_LENGTH", "Record", "decode_table", "read_records"]

MAX_TABLE_LENGTH = 200_000_000
NOT_TEXT = {b"PK\x03\x04": "a workbook or an archive", b"\xd0\xcf\x11\xe0": "an old workbook", b"\x1f\x8b": "compressed"}
"""What a file is that is not text, by its first bytes."""
TOML = re.compile(r"(?:\s|#.*\n)*\[\[rows\]\]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATOR = re.compile(r"sep=(.)[^\S\r\n]*(\r\n|\r|\n|$)", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,]*")
"""What stands between two values of a JSON array."""


@dataclass(frozen=True)
class Record:
    """A row of a table, as it was read.

    Arguments:
        line: The number of its first line in the file, from 1.
        cells: Its cells by the names of their columns.
        header: The line that names the columns; None if each row names its own.
        decimal_commas: Whether numbers may have a comma for a point, as in tables that commas do not separate.
    """

    line: int
    cells: dict[str, Any]
    header: int | None = None
    decimal_commas: bool = False


def decode_table(source: str, data: bytes) -> str:
    """Returns the text of a table, as `decode_text` does; raises a `RequestError` if it is not text, too."""
    if kind := next((name for start, name in NOT_TEXT.items() if data.startswith(start)), None):
        raise RequestError(f"{source} is {kind}, but a table is text: export it as CSV in UTF-8")
    return decode_text(source, data)


def read_records(path: Path, text: str, errors: list[str], names_prompts: Callable[[Sequence[str]], bool]) -> Iterator[Record]:
    """Yields the records of a table, and adds an error for what is none.

    The suffix of the path decides the format; without one, the text does. A `.txt` file whose first line does not name a
    column of prompts has a prompt on each line.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        errors.append(f"line {line}: it has a NUL byte, and is not a text in UTF-8: save it as UTF-8")
        return
    kind = _format_of(path.suffix.lower(), text)
    if kind == ".txt" and not names_prompts([name.strip(' "') for name in _split_first(text)[0]]):
        lines = enumerate(_LINE_END.split(text), 1)
        yield from (Record(number, {"prompt": line.strip()}) for number, line in lines if line.strip())
    elif kind in _READERS:
        yield from _READERS[kind](text, errors)
    else:
        yield from _separated(text, errors, "\t" if kind == ".tsv" else None, names_prompts)


def _format_of(suffix: str, text: str) -> str:
    """Returns the suffix of a table's format, which its text tells if it has none."""
    if suffix:
        return suffix
    return ".toml" if TOML.match(text) else {"{": ".jsonl", "[": ".json"}.get(text.lstrip()[:1], ".csv")


def _json_record(line: int, value: Any, errors: list[str]) -> Iterator[Record]:
    if isinstance(value, dict):
        yield Record(line, value)
    else:
        errors.append(f'line {line}: it must be an object, such as {{"prompt": "a bike"}}')


def _json_lines(text: str, errors: list[str]) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield from _json_record(number, json.loads(line), errors)
            except (ValueError, RecursionError) as error:
                errors.append(f"line {number}: not JSON: {error}")


def _json(text: str, errors: list[str]) -> Iterator[Record]:
    """Yields the objects of a JSON array, or objects one after another; a text in an array is a prompt."""
    decoder, line, before = json.JSONDecoder(), 1, 0
    start = _BETWEEN.match(text)
    index = start.end() if start else 0
    if is_array := text[index : index + 1] == "[":
        index += 1
    while (index := _after_space(text, index)) < len(text) and not (is_array and text[index] == "]"):
        line, before = line + text.count("\n", before, index), index
        try:
            value, index = decoder.raw_decode(text, index)
        except json.JSONDecodeError as error:
            errors.append(f"line {error.lineno}: not JSON: {error.msg}")
            return
        except (ValueError, RecursionError) as error:
            errors.append(f"line {line}: not JSON: {error}")
            return
        yield from _json_record(line, {"prompt": value} if is_array and isinstance(value, str) else value, errors)
    if is_array and text[index:].strip() != "]":
        errors.append(f"line {line + text.count(chr(10), before)}: the array is not closed, or something follows it")


def _after_space(text: str, index: int) -> int:
    match = _BETWEEN.match(text, index)
    return match.end() if match else index


def _toml(text: str, errors: list[str]) -> Iterator[Record]:
    try:
        document = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        errors.append(f"not TOML: {error}")
        return
    rows = document.get("rows")
    if len(document) != 1 or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        errors.append("a TOML table has its rows as [[rows]], and nothing else")
        return
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line.strip() == "[[rows]]"]
    for number, row in enumerate(rows):
        yield Record(starts[number] if number < len(starts) else 1, row)


_READERS = {".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines, ".toml": _toml}


def _split_first(text: str) -> tuple[list[str], str]:
    """Returns the cells of a text's first line that is not empty, and what separates them."""
    first = next((line for line in _LINE_END.split(text[:100_000]) if line.strip()), "")
    delimiter = max(",;\t|", key=first.count)
    return first.split(delimiter), delimiter


def _separated(
    text: str, errors: list[str], delimiter: str | None, names_prompts: Callable[[Sequence[str]], bool]
) -> Iterator[Record]:
    """Yields the records of CSV and its like, after the line `sep=;` that some spreadsheets write.

    Of a table whose first line names no prompts, it yields that line alone: what follows would be misread.
    """
    csv.field_size_limit(MAX_TABLE_LENGTH)
    line = header = 1
    skipped = 0
    if told := _SEPARATOR.match(text):
        delimiter, text, skipped = told[1], text[told.end() :], 1
    delimiter = delimiter or _split_first(text)[1]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for record in reader:
            number, line = line + skipped, reader.line_num + 1
            if not any(cell.strip() for cell in record):
                continue
            if names is None:
                names, header = _names(record), number
                if repeated := sorted({name for name in names if names.count(name) > 1}):
                    errors.append(f"line {number}: the column '{repeated[0]}' is there more than once")
                    return
                if not names_prompts(names):
                    yield Record(number, dict.fromkeys(names, ""), header)
                    return
            elif any(cell.strip() for cell in record[len(names) :]):
                counts = f"it has {len(record)} cells, but the table has {len(names)} columns"
                errors.append(f"line {number}: {counts}: quote a cell")
            else:
                yield Record(number, _cells(names, record), header, delimiter != ",")
    except csv.Error as error:
        errors.append(f"line {line + skipped}: {error}: look for a quote that is not closed")


def _names(header: Sequence[str]) -> list[str]:
    """Returns the names of columns; those without one are numbered, and empty ones at the end are left out."""
    named = max((number for number, name in enumerate(header, 1) if name.strip()), default=0)
    return [name.strip() or f"column {number}" for number, name in enumerate(header[:named], 1)]


def _cells(names: Sequence[str], record: Sequence[str]) -> dict[str, Any]:
    cells = dict(zip(names, record, strict=False))
    return {name: cell for name, cell in cells.items() if cell.strip() or not re.fullmatch(r"column \d+", name)}
