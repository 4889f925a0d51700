"""The lock of a run's folder, and its journal with a line for each attempt."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsf_cli.errors import MediaError
from vsf_cli.media.files import encode_json, write_bytes

__all__ = ["MANIFEST", "Journal", "read_journals"]

MANIFEST = "manifest"


class Journal:
    """The journal of a shard in the folder of a run; `suffix` is that of the names of the shard's own files."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.path = folder / f"{MANIFEST}{suffix}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from running the same shard. The lock of a dead process does not block.

        Raises:
            MediaError: If another process runs it, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        owner = self.path.with_suffix(".owner")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
            lock.acquire()
        except Timeout as error:
            advice = "wait for it, choose another folder with -o, or share the work with --shard"
            raise MediaError(f"{self.path.parent} is being written by {_describe_owner(owner)}: {advice}") from error
        except OSError as error:
            raise MediaError(f"{self.path.parent} cannot be written: {error.strerror}; choose another place with -o") from error
        try:
            facts = {"host": platform.node(), "pid": os.getpid(), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
            write_bytes(owner, json.dumps(facts).encode())
            self._mend()
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _mend(self) -> None:
        """Ends an incomplete last line, so that the next line is complete."""
        if self.path.is_file() and (text := self.path.read_bytes()) and not text.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds a line. A crash of the machine may lose it: its item is then recognised by its file.

        Raises:
            MediaError: If it cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write(encode_json(dict(line)) + b"\n")
        except OSError as error:
            raise MediaError(f"{self.path} cannot be written: {error.strerror}") from error


def _describe_owner(owner: Path) -> str:
    try:
        facts = json.loads(owner.read_text("utf-8"))
        return f"process {facts['pid']} on {facts['host']} since {facts['time']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def read_journals(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the last line of each item in all journals of a folder, by the item's key. Incomplete lines are skipped."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{MANIFEST}*.jsonl")):
        for text in path.read_text("utf-8", errors="replace").split("\n"):
            try:
                line = json.loads(text)
                key = line["id"], line["path"]
                known = lines.get(key)
                # An item is done if any journal has it as done.
                if known is None or known["status"] != "done" or line["status"] == "done":
                    lines[key] = line
            except (ValueError, KeyError, TypeError):
                continue
    return lines
