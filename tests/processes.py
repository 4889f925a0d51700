"""Child processes of the tests: from this tree, in the tests' environment, and never for longer than a limit."""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.forking import read_at_start, request_fork

__all__ = ["IMPORTED", "ROOT", "TIMEOUT", "run_python", "run_vsf", "running_vsf", "wait_until"]

ROOT = Path(__file__).parents[1]
TIMEOUT = 240.0  # Seconds, less than pytest gives to a test, so that a child is ended before its test is.

IMPORTED = (
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "diffusers.pipelines.wan.pipeline_wan",
    "peft",
    "transformers.models.clip.image_processing_pil_clip",
    "vsf_cli.batch.runner",
    "vsf_cli.cli.batch",
    "vsf_cli.cli.image",
    "vsf_cli.cli.video",
    "vsf_cli.generation.guided",
    "vsf_cli.generation.run",
)
"""What `vsf image`, `video` and `batch` import, in the processes that are forked."""


def run_python(*arguments: str, timeout: float = TIMEOUT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python and returns what it wrote; `variables` are added to its environment.

    Raises:
        subprocess.TimeoutExpired: If it takes more than `timeout` seconds. It is killed.
    """
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=_environment(variables), timeout=timeout, check=False
    )


def run_vsf(*arguments: str, timeout: float = TIMEOUT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `vsf` in a process of its own, which is forked where it can be: `run_python("-m", "vsf_cli", ...)` starts anew."""
    with running_vsf(*arguments, timeout=timeout, **variables) as process:
        stdout, stderr = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextmanager
def running_vsf(*arguments: str, timeout: float = TIMEOUT, stderr: int = subprocess.PIPE, **variables: str) -> Iterator[Any]:
    """`vsf` as it runs, a `Forked` or `subprocess.Popen`. It is killed after `timeout` seconds, which ends every read, and at
    the end."""
    with _start_vsf(list(arguments), stderr, _environment(variables)) as process:
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def _start_vsf(arguments: list[str], stderr: int, environment: dict[str, str]) -> Any:
    # That the hub's client is to stay offline, it reads when it is imported.
    if hasattr(os, "fork") and "--offline" not in arguments:
        server, known = _forker()
        if read_at_start(environment) == known:
            return request_fork(server, arguments, environment, stderr)
    return _popen(["-m", "vsf_cli", *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)


@cache
def _forker() -> tuple[socket.socket, dict[str, str]]:
    """A process that forks `vsf` for this one, and the environment that it was started in."""
    ours, theirs = socket.socketpair()
    environment = read_at_start(_environment({}))
    arguments = ["-m", "tests.forking", str(theirs.fileno()), *IMPORTED]
    process = _popen(arguments, pass_fds=[theirs.fileno()], env=environment, cwd=ROOT)
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait(TIMEOUT)

    return ours, environment


def _popen(arguments: list[str], **options: Any) -> subprocess.Popen[Any]:
    return subprocess.Popen([sys.executable, *arguments], **options)


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
