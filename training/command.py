"""How the tools run as commands: they say what they do, and Ctrl-C ends them with a line."""

import sys
from collections.abc import Callable

from vsf_cli.cli.error_boundary import reporting_errors

__all__ = ["run", "say"]


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
