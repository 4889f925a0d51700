"""Files of JSON lines, to which each line is written at once, so that nothing is lost when a process ends."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vsf_cli.errors import MediaError

__all__ = ["append_line", "read_lines"]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON lines file; what is incomplete or none is skipped."""
    try:
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    for line in text.split("\n"):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            yield content


def append_line(path: Path, *lines: Mapping[str, Any]) -> None:
    """Appends lines of JSON to a file whose last line may be incomplete, and waits until they are on the disk."""
    added = "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            incomplete = file.read() not in (b"", b"\n")
            file.write(b"\n" * (incomplete and bool(lines)) + added)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}") from error
