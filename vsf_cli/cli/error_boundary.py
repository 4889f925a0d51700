"""Turns the errors of commands into lines and exit codes."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from vsf_cli.errors import VSFError

__all__ = ["handle_errors"]


def handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that a person can mend into one line and its exit code; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from vsf_cli.cli.console import Console
        from vsf_cli.cli.libraries import restore_libraries

        try:
            command(*args, **kwargs)
        except VSFError as error:
            Console().error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            Console().error(f"interrupted; what was finished is kept{'; ' * bool(str(error))}{error}")
            raise typer.Exit(130) from error
        finally:
            restore_libraries()

    return run
