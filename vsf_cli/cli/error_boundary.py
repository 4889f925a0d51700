"""Turns the errors of commands into lines and exit codes."""

import functools
import os
from collections.abc import Callable
from typing import Any

import typer

from vsf_cli.errors import VSFError

__all__ = ["handle_errors"]

PREFIX, FILE = "VSF_", "VSF_CONFIG"
"""How our variables of the environment begin, and the one that is no setting."""


def handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that a person can mend into one line and its exit code; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from vsf_cli.cli.console import Console
        from vsf_cli.cli.libraries import restore_libraries

        for text in _unknown_variables():
            Console().warn(text)
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


def _unknown_variables() -> list[str]:
    """Returns a warning for each variable of the environment that looks like a setting, and is none."""
    names = [name for name, value in os.environ.items() if name.startswith(PREFIX) and name != FILE and value]
    if not names:
        return []
    from vsf_cli.config.names import nearest
    from vsf_cli.settings.options import OF_REQUEST, SETTINGS

    legal = [one.variable for one in SETTINGS.values() if not one.of_run]
    options = {one.variable: f" Pass {one.flag} instead" for one in OF_REQUEST.values()}
    unknown = [name for name in names if name not in legal]
    return [f"{name} has no effect: it is no setting.{options.get(name) or nearest(name, legal)}" for name in unknown]
