"""Writes messages and progress to stderr, and data to stdout."""

import functools
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.markup import escape

from vsf_cli.errors import MediaError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vsf_cli.generation.generate import Progress as Callback

__all__ = ["Console", "as_line", "move_all", "writing_to_stdout"]

ESTIMATE_PERIOD = 30 * 24 * 3600.0
"""Seconds whose progress tells how long the rest will take: Rich's usual 30 seconds are too few if one image takes minutes."""
MIN_ROOM = 30
"""Columns of a terminal that a text needs beside its name."""
GAP = 2
"""Spaces between the columns of a table."""


def as_line(value: Any) -> str:
    """Returns JSON on one line, with escapes where stdout lacks letters."""
    letters = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    return json.dumps(value, ensure_ascii=not letters, allow_nan=False)


@contextmanager
def writing_to_stdout() -> Iterator[None]:
    """Raises the error of a full disk inside a `with` as a `MediaError`; those of closed pipes and of files stay."""
    try:
        yield
    except OSError as error:
        if error.filename or isinstance(error, BrokenPipeError):
            raise
        _discard(sys.stdout)
        raise MediaError(f"stdout cannot be written: {error.strerror or error}") from error


def _discard(stream: Any) -> None:
    """Lets what a stream could not write go nowhere: Python would try it again, and fail, when it ends."""
    with suppress(OSError, ValueError):
        descriptor, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class Console:
    """Writes messages to stderr and data to stdout.

    Arguments:
        quiet: Whether to write only warnings and errors.
        verbose: Whether to write details.
    """

    _bars: "ClassVar[_Bars | None]" = None
    """The bars that are shown. A terminal has one cursor, so that data on stdout has to know them."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        # Rich honours NO_COLOR and a pipe by itself. `:x:` is no emoji.
        self.stderr = RichConsole(stderr=True, soft_wrap=True, highlight=False, emoji=False)

    def _say(self, text: str, style: str | None = None, label: str = "") -> None:
        """Writes a line to stderr, its label in colour. Where that is full or closed, the work goes on without."""
        # A terminal would break lines inside words; others search them, so that they stay whole there.
        if _is_terminal(self.stderr.file):
            text = "\n".join(_wrapped(label + text, self.stderr.width))[len(label) :]
        markup = f"[{style}]{label}[/]{escape(text)}" if label else escape(text)
        try:
            self.stderr.print(markup, style=None if label else style)
        except OSError:
            _discard(sys.stderr)

    def info(self, text: str) -> None:
        """Writes a line, unless quiet."""
        if not self.quiet:
            self._say(text)

    def always(self, text: str) -> None:
        """Writes a line that is needed later, even when quiet."""
        self._say(text)

    def detail(self, text: str) -> None:
        """Writes a line if verbose."""
        if self.verbose and not self.quiet:
            self._say(text, "dim")

    def warn(self, text: str) -> None:
        """Writes a warning, even when quiet."""
        self._say(text, "yellow", "warning: ")

    def error(self, text: str) -> None:
        """Writes an error on one line."""
        self._say(" ".join(text.split()), "red", "error: ")

    @classmethod
    def data(cls, text: str) -> None:
        """Writes a line of data to stdout, above a bar that is on the same terminal.

        Raises:
            MediaError: If it cannot be written.
        """
        with writing_to_stdout(), cls._bars.hidden() if cls._bars and sys.stdout.isatty() else nullcontext():
            print(text, flush=True)

    @classmethod
    def data_text(cls, text: str) -> None:
        """Writes a line of data that is no path and no JSON: on a terminal it breaks between words."""
        cls.data("\n".join(_wrapped(text, _columns())) if _is_terminal(sys.stdout) else text)

    @classmethod
    def data_pairs(cls, pairs: Iterable[tuple[str, str]], width: int) -> None:
        """Writes names, which have a column of `width` letters, and their texts.

        On a terminal a long text goes on under its beginning; without room for that it follows its name as "name: text".
        """
        room = _columns() - width - 1
        for name, text in pairs:
            if not _is_terminal(sys.stdout):
                cls.data(f"{name:{width}} {text}".rstrip())
            elif room >= MIN_ROOM:
                cls.data(f"{name:{width}} " + f"\n{' ' * (width + 1)}".join(_wrapped(text, room)))
            else:
                cls.data("\n    ".join(_wrapped(f"{name}: {text}", _columns() - 4)))

    @staticmethod
    def data_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table to stdout, as wide as it needs to be; on a terminal, as tables below each other."""
        with writing_to_stdout():
            _print_table(RichConsole(highlight=False, emoji=False), heads, rows)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table to stderr, unless quiet."""
        if not self.quiet:
            with suppress(OSError):
                _print_table(RichConsole(stderr=True, highlight=False, emoji=False), heads, rows)

    @contextmanager
    def progress(self, *labels: str) -> "Iterator[Sequence[Callback | None]]":
        """Shows bars, and yields the function that moves each; None when quiet or piped. Only the first bar shows at once."""
        if self.quiet or not sys.stderr.isatty():
            yield [None] * len(labels)
            return
        # Imported here, since most commands need no bar.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=self.stderr, speed_estimate_period=ESTIMATE_PERIOD)
        tasks = [progress.add_task(escape(label), total=None, visible=label is labels[0]) for label in labels]
        bars = Console._bars = _Bars(progress)
        try:
            yield [functools.partial(_move, progress, task) for task in tasks]
        finally:
            bars.stop()
            Console._bars = None


class _Bars:
    """Bars on a terminal, which can be hidden for a while. Each show is a `Live` of its own: a stopped one remembers where
    its lines were, and would write over what came after them."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._start()

    def _start(self) -> None:
        from rich.live import Live

        # Without redirection: data must reach stdout even while a bar is shown on stderr.
        options: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
        self._live = Live(console=self._progress.console, get_renderable=self._progress.get_renderable, **options)
        self._live.start()

    def stop(self) -> None:
        """Erases them."""
        self._live.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Erases them inside a `with`."""
        self.stop()
        try:
            yield
        finally:
            self._start()


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text, which break between words alone: a word that is longer than `width` stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for number, word in enumerate(paragraph.split(" ")):
            longer = f"{lines[-1]} {word}" if number else word
            if number and cell_len(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _print_table(console: RichConsole, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table. On a terminal that is too narrow, it is several tables, each with the first column."""
    from rich.table import Table

    widths = [max(cell_len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    if not _is_terminal(console.file):
        console.width = sum(widths) + GAP * len(widths)
    first = min(widths[0], max(console.width - GAP - max(widths[1:]), MIN_ROOM // 2))
    for number, columns in enumerate(_blocks(widths, console.width - first)):
        table = Table(box=None, pad_edge=False)
        table.add_column(escape(heads[0]), width=first, overflow="fold")
        for column in columns:
            table.add_column(escape(heads[column]), no_wrap=True)
        for row in rows:
            table.add_row(*(escape(row[column]) for column in (0, *columns)))
        if number:
            console.print()
        console.print(table)


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Returns the columns that stand in each table beside the first one: as many as there is room for."""
    blocks: list[list[int]] = [[]]
    for column, width in enumerate(widths[1:], 1):
        if blocks[-1] and sum(widths[other] + GAP for other in blocks[-1]) + width + GAP > room:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def move_all(bars: "Sequence[Callback | None]", done: int, total: int) -> None:
    """Moves those bars of `Console.progress` that are shown."""
    for move in bars:
        if move is not None:
            move(done, total)


def _move(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total, visible=True)
