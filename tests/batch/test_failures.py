"""Failures of models and machines in `vsf batch`: said once, and tried again by the same command."""

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner, Result

from tests.drawn import AnyPipe, drawn
from vsf_cli.batch import engines, worker
from vsf_cli.batch.worker import Worker
from vsf_cli.cli import running
from vsf_cli.cli.app import app
from vsf_cli.errors import ModelError, OutOfMemory, PictureError, RequestError
from vsf_cli.loading.libraries import restore_libraries
from vsf_cli.loading.runtime import Runtime

MANY = 50
MISSING = "model 'owner/name' is not in the cache, and the hub cannot be reached: check the network"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "generate_batch", drawn)
    monkeypatch.setattr(worker, "load_for", load)
    return tmp_path


def load(request: Any, _: Runtime) -> Any:
    if request.model.startswith("owner/"):
        raise ModelError(MISSING)
    return AnyPipe()


def batch(*arguments: str, table: str, code: int = 0) -> Result:
    Path("t.csv").write_text(table, "utf-8")
    result = CliRunner().invoke(app, ["batch", "t.csv", "--steps", "2", *arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(("error:", "warning:"))]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("header", "cell", "options", "code", "message"),
    [
        ("prompt", "", ["-m", "/no/such/folder"], 4, "error: model '/no/such/folder' is neither a folder"),
        ("prompt", "", ["-m", "builtin:nope"], 4, "error: model 'builtin:nope' is not in this package"),
        ("prompt", "", ["--lora", "nope.safetensors"], 4, "error: --lora 'nope.safetensors': there is no such file"),
        ("prompt", "", ["--preset", "nope"], 6, "nothing was made: line 2, and 49 more lines: preset 'nope' does not exist"),
        ("prompt,model", ",nope", [], 4, "error: t.csv, line 2, column model, and 49 more lines: model 'nope' is neither"),
        ("prompt,alpha", ",-1", [], 6, "line 2, column alpha, and 49 more lines: alpha is -1"),
    ],
)
def test_what_all_rows_lack_is_one_line(
    header: str, cell: str, options: list[str], code: int, message: str, dry: list[str]
) -> None:
    found = batch(*options, *dry, table=f"{header}\n" + f"a red bike{cell}\n" * MANY, code=code)
    assert found.stderr.count("error:") == 1 and message in " ".join(found.stderr.split()), found.stderr
    assert found.stdout == "" and not Path("outputs").exists()


def test_a_model_that_cannot_be_loaded_is_one_failure_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "prompt,seed\n" + "".join(f"a red bike,{seed}\n" for seed in range(5))
    monkeypatch.setattr(running, "download_of", lambda *_: None)
    found = batch("-m", "owner/name", table=table, code=4)
    none = "error: none of 5 images was made, since their model cannot be loaded; the same command tries them again"
    assert lines(found) == [f"warning: {MISSING}: its images fail", none] and found.stdout == ""
    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    assert len(batch("-m", "owner/name", table=table).stdout.split()) == 5


def test_what_does_not_fit_a_model_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "load_for", Mock(side_effect=RequestError("small.safetensors does not fit this model")))
    found = batch(table="prompt,seed\na red bike,1..3\n", code=6)
    none = "error: none of 3 images was made, since their model cannot be loaded; outputs/t/manifest.csv says why"
    assert lines(found) == ["warning: small.safetensors does not fit this model: its images fail", none]


def test_a_shard_without_images_says_so() -> None:
    for dry in (["--dry-run"], []):
        found = [batch("--shard", f"{number}/2", *dry, table="prompt,seed\na red bike,1\n") for number in (1, 2)]
        told = [result.stdout if dry else result.stderr for result in found]
        assert sum("/2 has none of 1 image" in text for text in told) == 1 and not any("of 0 images" in text for text in told)


def test_another_model_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "download_of", lambda *_: None)
    table = "prompt,model,seed\n" + "a red bike,owner/name,1..5\na red bike,builtin:tiny-sd3-turbo,1..5\n"
    found = batch("--json", table=table, code=3)
    assert lines(found)[0] == f"warning: {MISSING}: its images fail" and len(lines(found)) == 2
    assert "5 of 10 images failed" in lines(found)[1] and "--retry-failed" not in lines(found)[1]
    errors = [json.loads(line)["error"] for line in found.stdout.splitlines()]
    assert errors.count(None) == errors.count(MISSING) == 5


@pytest.mark.parametrize(("error", "tried"), [(OutOfMemory("full"), 2), (ModelError("gone"), 2), (PictureError("black"), 1)])
def test_what_failed_for_the_machines_sake_is_tried_again(
    error: Exception, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr(worker, "generate_batch", fail)
    monkeypatch.setattr(worker, "next_offload", lambda *_: None)
    table = "prompt\na red bike\n"
    for _ in range(2):
        batch(table=table, code=3)
    assert len(calls) == tried
    monkeypatch.setattr(worker, "generate_batch", drawn)
    found = batch(table=table, code=0 if tried == 2 else 3)
    assert bool(found.stdout) == (tried == 2)


def test_what_kills_its_worker_is_tried_again() -> None:
    from vsf_cli.batch.engines import KILLED
    from vsf_cli.batch.runner import OF_MACHINE

    assert OutOfMemory.exit_code in OF_MACHINE and ModelError.exit_code in OF_MACHINE
    assert "--workers" in KILLED and "--offload" not in KILLED


def test_all_pictures_are_listed_though_nothing_was_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_one(pipe: Any, requests: Any, *_: Any, **__: Any) -> Any:
        if requests[0].seed == 2:
            raise PictureError("black")
        return drawn(pipe, requests)

    monkeypatch.setattr(worker, "generate_batch", fail_one)
    table = "prompt,seed\na red bike,1..3\n"
    first = batch(table=table, code=3).stdout
    assert len(first.split()) == 2 and batch(table=table, code=3).stdout == first
    rows = [json.loads(line) for line in batch("--json", table=table, code=3).stdout.splitlines()]
    assert [row["error"] for row in rows] == [None, "black", None] and {*rows[0]} == {"id", "path", "error", "seconds"}


def test_a_download_is_said_with_its_size_and_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "check_source", lambda *_: None)
    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    options = ["--preset", "sd3.5-large-turbo"]
    text = "about 27.4 GB of stabilityai/stable-diffusion-3.5-large-turbo to "
    found = " ".join(batch(*options, table="prompt\na red bike\n").stderr.split())
    assert f"downloading {text}" in found and "licence: Stability AI Community" in found
    found = " ".join(batch(*options, "-o", "other", "--dry-run", table="prompt\na red bike\n").stdout.split())
    assert f"to be downloaded: {text}" in found


def test_no_download_is_said_before_the_hub_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ModelError(MISSING)

    monkeypatch.setattr(running, "check_source", refuse)
    assert "downloading" not in batch("-m", "owner/name", table="prompt\na red bike\n", code=4).stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_offline_nothing_is_downloaded_and_a_dry_run_says_so(dry: list[str]) -> None:
    found = batch("-m", "owner/name", "--offline", *dry, table="prompt\na red bike\n", code=4)
    assert "downloading" not in found.stderr and "to be downloaded" not in found.stdout
    if dry:
        assert "is not in the cache, and --offline forbids to download it" in " ".join(found.stderr.split())


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(engines.signal, "signal", lambda *_: None)
    monkeypatch.setattr(engines, "_STATE", [])
    numbers: queue.Queue[int] = queue.Queue()
    numbers.put(0)
    made = Worker(tmp_path, Runtime(offline=True))
    engines._start_process(made, numbers, [])
    assert engines._make([]) == []
    yield made
    restore_libraries()


def test_processes_of_workers_are_quiet_and_offline(started: Worker) -> None:
    import diffusers
    import transformers
    from huggingface_hub import constants

    for library in (diffusers, transformers):
        assert not library.utils.logging.is_progress_bar_enabled()
        assert library.utils.logging.get_verbosity() >= 40
    assert constants.HF_HUB_OFFLINE


def test_no_interrupt_reaches_a_process_that_begins() -> None:
    import signal

    with engines._uninterrupted():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_device_that_is_not_there_is_one_line() -> None:
    found = batch("--device", "gpu", table="prompt\n" + "a red bike\n" * MANY, code=RequestError.exit_code)
    assert len(lines(found)) == 1
