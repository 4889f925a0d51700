"""What a terminal shows: runs a function under a pseudo-terminal, and renders what it wrote there."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

__all__ = ["Screen", "terminal"]

_TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\r|\n|[^\x1b\r\n]")


class Screen:
    """A screen of a number of columns, as long as what was written on it.

    It knows what Rich writes: colours, which it leaves out, moves of the cursor, and the erasing of lines.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.continued: set[int] = set()
        self.row = self.column = 0

    @property
    def lines(self) -> list[str]:
        """Its lines as a person reads them: a row that was full goes on in the next one."""
        lines: list[str] = []
        for number, row in enumerate(self.rows):
            lines[len(lines) - (number in self.continued) :] = [(lines[-1] if number in self.continued else "") + "".join(row)]
        return [line.rstrip() for line in lines]

    def write(self, text: str) -> None:
        """Shows what a program wrote."""
        for token in _TOKEN.finditer(text):
            if token[2]:
                self._control(token[1], token[2])
            elif token[0] == "\r":
                self.column = 0
            elif token[0] == "\n":
                self._next_line()
            elif not token[0].startswith("\x1b"):
                self._letter(token[0])

    def _next_line(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def _letter(self, letter: str) -> None:
        if self.column == self.columns:
            self._next_line()
            self.column = 0
            self.continued.add(self.row)
        row = self.rows[self.row]
        row.extend(" " * (self.column + 1 - len(row)))
        row[self.column] = letter
        self.column += 1

    def _control(self, values: str, letter: str) -> None:
        count = int(values) if values.isdigit() else 1
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "K" and values == "2":
            self.rows[self.row] = []
            self.continued.discard(self.row)
        elif letter not in "mhl":
            raise NotImplementedError(f"the screen knows no \\x1b[{values}{letter}")


@contextmanager
def terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A terminal that this process writes stdout and stderr to inside a `with`; the screen is whole after it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
    screen, pieces = Screen(columns), []
    reader = threading.Thread(target=_read, args=(ours, pieces.append))
    reader.start()
    try:
        with monkeypatch.context() as patch, os.fdopen(theirs, "w", encoding="utf-8", buffering=1) as stream:
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, stream)
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", str(columns))
            yield screen
    finally:
        reader.join()
        os.close(ours)
        screen.write(b"".join(pieces).decode())


def _read(descriptor: int, add: Callable[[bytes], object]) -> None:
    try:
        while piece := os.read(descriptor, 4096):
            add(piece)
    except OSError:  # The other end is closed.
        pass
