"""The tests' own environment, held against a hostile one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.environment import without_settings
from tests.processes import ROOT, TIMEOUT, run_python, running_vsf, wait_until
from vsf_cli.settings.presets import Settings

HOSTILE = {
    **dict.fromkeys(("VSF_STEPS", "VSF_ALPHA", "VSF_METHOD", "HF_HUB_OFFLINE", "COLUMNS", "TERM"), "nonsense"),
    **dict.fromkeys(("FORCE_COLOR", "TRANSFORMERS_OFFLINE", "SLURM_ARRAY_TASK_ID"), "1"),
}


def test_settings_are_those_of_the_presets_alone() -> None:
    settings = Settings({})
    assert settings.preset.name == "tiny-sd3-turbo" and not settings.chosen


def test_a_child_has_the_same_settings() -> None:
    found = run_python("-m", "vsf_cli", "presets", "list")
    assert found.returncode == 0 and "* tiny-sd3-turbo" in found.stdout and "\x1b" not in found.stdout, found.stderr


def test_a_child_can_be_interrupted() -> None:
    found = run_python("-c", "import signal; signal.raise_signal(signal.SIGINT)")
    assert found.returncode == -signal.SIGINT and "KeyboardInterrupt" in found.stderr


def test_libraries_keep_their_files_in_the_tests_own_home() -> None:
    from huggingface_hub import constants

    home = os.environ["HOME"]
    assert Path(home).name.startswith("vsf-tests-") and constants.HF_HOME.startswith(home)


def test_only_variables_that_decide_something_go() -> None:
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "x"}
    assert without_settings({**kept, **HOSTILE, "XDG_CONFIG_HOME": "x", "MPLCONFIGDIR": "x"}) == kept


@pytest.mark.parametrize("name", ["first", "second"])
def test_what_a_test_leaves_in_the_environment_is_taken_away(name: str) -> None:
    assert "LEFT_BY_A_TEST" not in os.environ
    os.environ["LEFT_BY_A_TEST"] = name


def test_a_child_that_goes_on_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", "import time; time.sleep(60)", timeout=0.5)
    with running_vsf("--help", timeout=0.01, OMP_NUM_THREADS="2") as process:  # With such a variable it is not forked.
        process.wait(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(TimeoutError):
        wait_until(lambda: False, timeout=0.01)


@pytest.mark.skipif(os.name == "nt", reason="the signal is ignored by a shell")
def test_the_home_the_variables_and_the_signals_of_a_person_reach_no_test(tmp_path: Path) -> None:
    """Runs the tests above as a background job of a person whose every setting is wrong."""
    for folder in (tmp_path / "vsf", tmp_path / ".config" / "vsf"):
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text('preset = "sd3.5-large-turbo"\nnonsense = [')
    names = [test.__name__ for test in OTHERS]
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", __file__, "-k", " or ".join(names)]
    homes = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "VSF_CONFIG": str(tmp_path / "vsf" / "config.toml")}
    found = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command],
        cwd=ROOT,
        env={**os.environ, **HOSTILE, **homes},
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0 and f"{len(OTHERS)} passed" in found.stdout, found.stdout + found.stderr


OTHERS: tuple[Callable[[], None], ...] = (
    test_settings_are_those_of_the_presets_alone,
    test_a_child_has_the_same_settings,
    test_a_child_can_be_interrupted,
    test_libraries_keep_their_files_in_the_tests_own_home,
)
