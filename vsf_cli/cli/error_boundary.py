"""Turns the errors of commands into lines and exit codes."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vsf_cli.cli.interrupts import INTERRUPTED, raising_at_interrupt
from vsf_cli.errors import OutOfMemory, VSFError, causes, is_out_of_memory

__all__ = ["handle_errors", "reporting_errors"]

NO_MEMORY = "out of memory: end other programs, or choose a smaller model, --size or --batch-size"

PREFIX, FILE = "VSF_", "VSF_CONFIG"
"""How our variables of the environment begin, and the one that is no setting."""


def handle_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that a person can mend into one line and its exit code; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from vsf_cli.cli.console import Console
        from vsf_cli.loading.libraries import restore_libraries

        for text in _unknown_variables():
            Console().warn(text)
        try:
            with reporting_errors(), raising_at_interrupt():
                command(*args, **kwargs)
        finally:
            restore_libraries()

    return run


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turns errors inside a `with` as `handle_errors` does.

    Raises:
        SystemExit: With the exit code.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        line = _line_of(error)
        if line is None:
            raise
        from vsf_cli.cli.console import Console

        Console().error(line[0])
        sys.exit(line[1])


def _line_of(error: BaseException) -> tuple[str, int] | None:
    """Returns the line and the exit code of an error; None if it is a bug, or a command that ends as it should."""
    if isinstance(error, VSFError):
        return str(error), error.exit_code
    if is_out_of_memory(error):
        return NO_MEMORY, OutOfMemory.exit_code
    # Some libraries raise an error of their own where an import is interrupted.
    if interrupt := next((one for one in causes(error) if isinstance(one, KeyboardInterrupt)), None):
        return f"{INTERRUPTED}{'; ' * bool(str(interrupt))}{interrupt}", 130
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        return f"{error.filename or 'the system refused'}: {error.strerror}", VSFError.exit_code
    return None


def _unknown_variables() -> list[str]:
    """Returns a warning for each variable of the environment that looks like a setting, and is none."""
    names = [name for name, value in os.environ.items() if name.startswith(PREFIX) and name != FILE and value]
    if not names:
        return []
    from vsf_cli.settings.options import SETTINGS

    legal = {one.key: one.variable for one in SETTINGS.values() if not one.of_run}
    unknown = [name for name in names if name not in legal.values()]
    return [f"{name} has no effect: it is no setting.{_meaning(name, legal)}" for name in unknown]


def _meaning(name: str, legal: Mapping[str, str]) -> str:
    """Returns the option or the variable that another name means, as text; `legal` has variables by their keys."""
    from vsf_cli.config.names import meant
    from vsf_cli.settings.options import OF_REQUEST

    advice = {key: f" Pass {one.flag} instead" if one.setting or one.names else "" for key, one in OF_REQUEST.items()}
    advice |= {key: f" Did you mean '{variable}'?" for key, variable in legal.items()}
    spelled = {other: one.key for one in OF_REQUEST.values() for other in one.column_names}
    return advice.get(meant(name.removeprefix(PREFIX), advice, spelled) or "", "")
