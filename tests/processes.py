"""Child processes of the tests: from this tree, in the tests' environment, and never for longer than a limit."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "TIMEOUT", "run_python", "run_vsf", "running_vsf", "wait_until"]

ROOT = Path(__file__).parents[1]
TIMEOUT = 240.0  # Seconds, less than pytest gives to a test, so that a child is ended before its test is.


def run_python(*arguments: str, timeout: float = TIMEOUT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python and returns what it wrote; `variables` are added to its environment.

    Raises:
        subprocess.TimeoutExpired: If it takes more than `timeout` seconds. It is killed.
    """
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=_environment(variables), timeout=timeout, check=False
    )


def run_vsf(*arguments: str, timeout: float = TIMEOUT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `vsf` in a process of its own."""
    return run_python("-m", "vsf_cli", *arguments, timeout=timeout, **variables)


@contextmanager
def running_vsf(*arguments: str, timeout: float = TIMEOUT, stderr: int = subprocess.PIPE, **variables: str) -> Iterator[Any]:
    """`vsf` as it runs, a `subprocess.Popen`. It is killed after `timeout` seconds, which ends every read, and at the end."""
    command = [sys.executable, "-m", "vsf_cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment(variables)) as process:
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def wait_until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Waits for a condition.

    Raises:
        TimeoutError: If it does not hold within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing within {timeout:g} s")
        time.sleep(0.02)  # A loop without it takes a core from the process that is waited for.


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}
