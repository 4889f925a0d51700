"""How the tools run as commands: what their options take, what they say, and the line with which Ctrl-C ends them."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable

from vsf_cli.cli.error_boundary import reporting_errors

__all__ = ["at_least", "run", "say"]


def run(main: Callable[[], None]) -> None:
    """Runs the command of a tool.

    Raises:
        SystemExit: After a line, if a person can mend the error, or pressed Ctrl-C.
    """
    with reporting_errors():
        main()


def say(text: str) -> None:
    """Writes a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def at_least(least: int) -> Callable[[str], int]:
    """Returns the type of an option that is a whole number from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"'{text}' is not a whole number of {least} or more")
        return int(text)

    return number
