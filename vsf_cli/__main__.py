"""`vsf`, which is `python -m vsf_cli`, too."""

import os
import sys
from typing import TextIO

try:
    from vsf_cli.cli.interrupts import leaving_at_interrupt
except KeyboardInterrupt:
    raise SystemExit(130) from None

__all__ = ["main"]


def main() -> None:
    """Runs `vsf`."""
    with leaving_at_interrupt():
        # Where a terminal or a pipe lacks a letter, an escape stands for it: no run ends for the sake of a name.
        for stream in (_opened("stdout"), _opened("stderr")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        from vsf_cli.cli.console import writing_to_stdout
        from vsf_cli.cli.error_boundary import reporting_errors

        with reporting_errors(), writing_to_stdout():
            from vsf_cli.cli.app import app

            app()


def _opened(name: str) -> TextIO:
    """Returns a stream of `sys`, which is None where it was closed: then what is written to it goes nowhere."""
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it is open to the end
    stream: TextIO = getattr(sys, name)
    return stream


if __name__ == "__main__":
    main()
