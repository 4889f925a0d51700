"""What a person sees: messages and progress on stderr, data on stdout."""

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vsf_cli.generation.generate import Progress as Callback

__all__ = ["Console", "as_line"]


LONGEST_RUN = 30 * 24 * 3600.0
"""Seconds of which what was done says how long the rest will take."""


def as_line(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class Console:
    """Writes messages to stderr.

    Arguments:
        quiet: Whether to write errors and warnings alone.
        verbose: Whether to write details.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        # Rich honours NO_COLOR and a pipe by itself; lines are not wrapped, so that they can be searched.
        self.stderr = RichConsole(stderr=True, soft_wrap=True, highlight=False)

    def info(self, text: str) -> None:
        """Writes a line, unless quiet."""
        if not self.quiet:
            self.stderr.print(escape(text))

    def always(self, text: str) -> None:
        """Writes a line that is needed later, even when quiet."""
        self.stderr.print(escape(text))

    def detail(self, text: str) -> None:
        """Writes a line if verbose."""
        if self.verbose and not self.quiet:
            self.stderr.print(escape(text), style="dim")

    def warn(self, text: str) -> None:
        """Writes a warning, even when quiet."""
        self.stderr.print(f"[yellow]warning:[/] {escape(text)}")

    def error(self, text: str) -> None:
        """Writes an error on one line."""
        self.stderr.print(f"[red]error:[/] {escape(' '.join(text.split()))}")

    @staticmethod
    def data(text: str) -> None:
        """Writes a line of data to stdout."""
        print(text, flush=True)

    @staticmethod
    def data_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table to stdout, as wide as it needs to be."""
        _print_table(RichConsole(highlight=False), heads, rows)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table to stderr, unless quiet."""
        if not self.quiet:
            _print_table(RichConsole(stderr=True, highlight=False), heads, rows)

    @contextmanager
    def progress(self, *whats: str) -> "Iterator[Sequence[Callback | None]]":
        """Bars, each behind the first of which shows once it is moved; none when quiet or piped."""
        if self.quiet or not sys.stderr.isatty():
            yield [None] * len(whats)
            return
        # Imported where it shows: most commands answer before.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Without redirection: data must reach stdout even while a bar stands on stderr.
        # And with a long memory: of pictures that take minutes, the usual 30 seconds hold none.
        how: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
        with Progress(*columns, console=self.stderr, speed_estimate_period=LONGEST_RUN, **how) as bar:
            tasks = [bar.add_task(escape(what), total=None, visible=what is whats[0]) for what in whats]
            yield [functools.partial(_move, bar, task) for task in tasks]


def _print_table(console: RichConsole, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(escape(head), no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    unlimited = 1000
    console.width = max(console.width, RichConsole(width=unlimited).measure(table).maximum)
    console.print(table)


def _move(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total, visible=True)
