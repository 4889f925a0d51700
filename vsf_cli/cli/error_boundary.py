"""Where errors become lines and exit codes: around every command."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from vsf_cli.errors import VSFError

__all__ = ["bounded"]


def bounded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that a person can mend into one line and its exit code; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from vsf_cli.cli.console import Talk

        try:
            command(*args, **kwargs)
        except VSFError as error:
            Talk().error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            Talk().error(f"interrupted; what was finished is kept{'; ' * bool(str(error))}{error}")
            raise typer.Exit(130) from error

    return run
