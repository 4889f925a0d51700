"""Forks `vsf` from a process that has imported its libraries: their import is nearly all of what a start takes.

The process that is forked has one thread and has run no operation of PyTorch, so that a fork of it is as good as new. It
serves one process of the tests and ends with it: `python -m tests.forking DESCRIPTOR_OF_A_SOCKET MODULES`.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

__all__ = ["Forked", "read_at_start", "request_fork"]

LATE = {
    "COLUMNS",
    "IMAGEIO_FFMPEG_EXE",
    "NO_COLOR",
    "PYTEST_CURRENT_TEST",
    "TERM",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
}
"""The variables that are read when they are needed, beside those of vsf; others may be read when libraries are imported."""
CODE: list[int] = []
"""The exit code of a forked process, once it is known."""
HEADER = 8
"""The bytes that say how long a request is."""


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that a process which was forked could have read too early."""
    return {name: value for name, value in environment.items() if name not in LATE and not name.startswith("VSF_")}


class Forked:
    """A process that was forked, with what tests use of a `subprocess.Popen`."""

    def __init__(self, arguments: list[str], status: int, stdout: int, stderr: int | None) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self.stdout = os.fdopen(stdout, encoding="utf-8")
        self.stderr = None if stderr is None else os.fdopen(stderr, encoding="utf-8")
        self._status = os.fdopen(status, encoding="ascii")
        self.pid = int(self._status.readline())

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for stream in (self.stdout, self.stderr, self._status):
            if stream:
                stream.close()

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended the process; None if it goes on."""
        return self._poll(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end of the process and returns what `poll` does.

        Raises:
            subprocess.TimeoutExpired: If it goes on after `timeout` seconds.
        """
        code = self._poll(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        """Returns what the process writes until it ends.

        Raises:
            subprocess.TimeoutExpired: If it goes on after `timeout` seconds; it is killed.
        """
        with ThreadPoolExecutor(2) as pool:
            stdout, stderr = (pool.submit(_read, stream) for stream in (self.stdout, self.stderr))
            try:
                self.wait(timeout)
            except BaseException:
                self.kill()  # It ends the reading.
                raise
        return stdout.result() or "", stderr.result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _poll(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.readline())
        return self.returncode


def _read(stream: IO[str] | None) -> str | None:
    return stream.read() if stream else None


def request_fork(server: socket.socket, arguments: list[str], environment: Mapping[str, str], stderr: int) -> Forked:
    """Has `vsf` forked by the process at the other end of a socket; `stderr` is a descriptor or `subprocess.PIPE`."""
    status, stdout = os.pipe(), os.pipe()
    messages = os.pipe() if stderr == subprocess.PIPE else (None, os.dup(stderr))
    theirs = [os.open(os.devnull, os.O_RDONLY), stdout[1], messages[1], status[1]]
    data = json.dumps({"arguments": arguments, "environment": dict(environment), "folder": os.getcwd()}).encode()
    socket.send_fds(server, [len(data).to_bytes(HEADER, "big")], theirs)
    server.sendall(data)
    for descriptor in theirs:
        os.close(descriptor)
    return Forked(["vsf", *arguments], status[0], stdout[0], messages[0])


def serve(tests: socket.socket) -> None:
    """Forks a process for each request and says how it ended. Returns in the forked processes alone, as `vsf` is to find them.

    When the tests' process ends, its children end and this process, too.
    """
    children: dict[int, int] = {}
    wakeup, ended = socket.socketpair()
    for end in (wakeup, ended):
        end.setblocking(False)
    signal.set_wakeup_fd(ended.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready = select.select([tests, wakeup], [], [])[0]
        if wakeup in ready:
            wakeup.recv(4096)
            _say_what_ended(children)
        if tests not in ready:
            continue
        header, descriptors, *_ = socket.recv_fds(tests, HEADER, 4)
        if not header:
            for child in children:
                os.kill(child, signal.SIGKILL)
            os._exit(0)
        request = json.loads(tests.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, *children.values()):
                os.close(descriptor)
            for end in (tests, wakeup, ended):
                end.close()
            _begin(**request)
            return
        children[child] = descriptors[3]
        os.write(descriptors[3], f"{child}\n".encode())
        for descriptor in descriptors[:3]:
            os.close(descriptor)


def _say_what_ended(children: dict[int, int]) -> None:
    for child in list(children):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            descriptor = children.pop(child)
            with contextlib.suppress(BrokenPipeError):  # Where nobody asks any more.
                os.write(descriptor, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(descriptor)


def _begin(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Makes a forked process what `python -m vsf_cli` begins with."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    for name, number, mode, options in (
        ("stdin", 0, "r", {}),
        ("stdout", 1, "w", {"errors": sys.stdout.errors}),
        ("stderr", 2, "w", {"errors": "backslashreplace", "buffering": 1}),
    ):
        stream: Any = os.fdopen(number, mode, encoding=sys.stdout.encoding, closefd=False, **options)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["vsf", *arguments]
    sys.path[0] = folder


def _leave() -> None:
    """Ends a process with the code that it was to end with; Python would take seconds to take its modules apart."""
    if CODE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CODE[0])


def _run() -> None:
    """Runs `vsf`, and leaves what it raises to Python, which ends this process as it does any other."""
    try:
        runpy.run_module("vsf_cli", run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if isinstance(stopped.code, int | None):
            CODE.append(stopped.code or 0)
        raise
    finally:
        gc.unfreeze()


if __name__ == "__main__":
    # Before all that the libraries register, since Python calls last what was registered first.
    atexit.register(_leave)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    _run()
