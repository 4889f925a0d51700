"""Processes that are forked for the tests are as those that Python starts, and end with the tests."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.processes import run_python, run_vsf, running_vsf, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked where the system can")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [["presets", "where", "steps"], ["nonsense"], ["info", "x.png"], ["batch", "-", "--dry-run"]]
)
def test_a_forked_process_is_as_one_that_is_started(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSF_STEPS", "3")
    forked, started = run_vsf(*arguments, COLUMNS="90"), run_python("-m", "vsf_cli", *arguments, COLUMNS="90")
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


def test_the_libraries_of_a_forked_process_are_there_before_it_asks(here: Path) -> None:
    with running_vsf("image", "a red bike", "--seed", "1..5000", "-o", "out/") as process:
        process.stdout.readline()
        assert "tests.forking" in psutil.Process(process.pid).cmdline() and Path(psutil.Process(process.pid).cwd()) == here
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0)
        assert process.poll() is None
    assert process.poll() == process.wait() == -signal.SIGKILL and not psutil.pid_exists(process.pid)


ONE_RUNNING = """
import os, signal, tests.processes
tests.processes.IMPORTED = ()
with tests.processes.running_vsf("image", "a red bike", "--seed", "1..5000", "-o", "out/") as process:
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_they_end_with_the_tests_that_are_killed(here: Path) -> None:
    found = run_python("-c", ONE_RUNNING)
    assert found.returncode == -signal.SIGKILL, found.stderr
    wait_until(lambda: is_over(int(found.stdout)))


def is_over(number: int) -> bool:
    """Whether a process is gone, or is a zombie where nobody asks for its exit code."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
