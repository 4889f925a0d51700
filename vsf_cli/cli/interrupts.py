"""Ctrl-C while nothing is unfinished: the process ends at once, with one line."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["INTERRUPTED", "leaving_at_interrupt", "raising_at_interrupt"]

INTERRUPTED = "interrupted; finished files are kept"
SHOW_CURSOR = b"\x1b[?25h"
"""What a terminal needs where a progress bar was shown."""


def leaving_at_interrupt() -> Any:
    """Ends the process at Ctrl-C inside a `with`: in the middle of an import, an exception would be lost or changed."""
    return _handling(_leave)


def raising_at_interrupt() -> Any:
    """Raises `KeyboardInterrupt` at Ctrl-C inside a `with`, as Python does by default: what is half written is removed."""
    return _handling(signal.default_int_handler)


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    # Neither where somebody ignores it, as `nohup` does, nor handles it.
    if before not in (_leave, signal.default_int_handler):
        yield
        return
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # Outside of the main thread, where no signal arrives.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    newline = b"\r\n" + SHOW_CURSOR if os.isatty(2) else b""
    os.write(2, newline + f"error: {INTERRUPTED}\n".encode())
    os._exit(130)
