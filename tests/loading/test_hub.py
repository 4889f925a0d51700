"""What is said of the hub: what forbids it, that it cannot be reached, and what a stranger's file would fetch."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from vsf_cli.cli.app import app
from vsf_cli.errors import ModelError
from vsf_cli.judges.clip import ClipJudge
from vsf_cli.loading import hub
from vsf_cli.loading.hub import as_model_error, not_cached, stays_offline
from vsf_cli.loading.loras import Lora, _file_of, load_lora
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.metadata import describe
from vsf_cli.settings.request import Request


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that never answers."""
    end = threading.Event()

    class Session:
        def head(self, *_: object, **__: object) -> None:
            end.wait()

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.01)
    yield
    end.set()


def test_the_hub_is_waited_for_less_than_5_seconds() -> None:
    assert hub.REACH_SECONDS < 5


@pytest.mark.usefixtures("silent")
def test_a_hub_that_is_silent_is_said_or_done_without() -> None:
    assert stays_offline("owner/name", True, False) is True
    unreachable = "'owner/name' is not in the cache, and the hub cannot be reached: check the network"
    with pytest.raises(ModelError, match=unreachable):
        stays_offline("owner/name", False, False)
    with pytest.raises(ModelError, match=unreachable):
        load("owner/name", "float32")
    with pytest.raises(ModelError, match=f"^LoRA {unreachable}"):
        _file_of(Lora.parse("owner/name"), False)
    with pytest.raises(ModelError, match=unreachable):
        _ = ClipJudge("owner/name")._loaded


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("command", ["image", "video"])
def test_no_download_is_said_before_the_hub_has_answered(command: str) -> None:
    found = CliRunner().invoke(app, [command, "a red bike", "-m", "owner/name"])
    assert found.exit_code == 4 and "the hub cannot be reached" in " ".join(found.stderr.split())
    assert "downloading" not in found.stderr and found.stderr.count("error:") == 1


def test_a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def head(self, url: str, **_: object) -> str:
            assert url == constants.ENDPOINT
            return "a page"

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert stays_offline("owner/name", True, False) is stays_offline("owner/name", False, False) is False


@pytest.mark.parametrize(
    ("variable", "offline", "name"),
    [
        ("HF_HUB_OFFLINE", False, "HF_HUB_OFFLINE"),
        ("TRANSFORMERS_OFFLINE", False, "TRANSFORMERS_OFFLINE"),
        ("VSF_OFFLINE", True, "VSF_OFFLINE"),
        ("OTHER", True, "--offline"),
    ],
)
@pytest.mark.parametrize("value", ["1", "true"])
def test_what_forbids_the_network_is_named(
    variable: str, value: str, offline: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not offline)
    message = f"and {name} forbids to download it: run once without {name}"
    assert message in str(not_cached("owner/name", offline))
    with pytest.raises(ModelError, match=message), as_model_error("owner/name", offline):
        raise huggingface_hub.errors.LocalEntryNotFoundError("gone")
    with pytest.raises(ModelError, match=f"^LoRA 'owner/name' is not in the cache, {message}"):
        load_lora(SimpleNamespace(), Lora.parse("owner/name"), "x", offline)
    with pytest.raises(ModelError, match=message):
        load("owner/name", "float32", Runtime(offline=offline))
    options = ["--offline"] if name == "--offline" else []
    for dry in ([], ["--dry-run"]):
        found = CliRunner().invoke(app, ["image", "a red bike", "-m", "owner/name", *options, *dry])
        assert found.exit_code == 4 and message in " ".join(found.stderr.split()) and "downloading" not in found.stderr


@pytest.mark.parametrize(
    ("changes", "options", "names"),
    [
        ({"model": "owner/name"}, [], ["the model owner/name"]),
        ({"model": "owner/name", "loras": ["owner/lora:0.5"]}, [], ["the model owner/name", "the LoRA owner/lora"]),
        ({"model": "owner/name"}, ["-m", "builtin:tiny-sd3-turbo"], []),
        ({"loras": ["owner/lora:x.safetensors"]}, [], ["the LoRA owner/lora"]),
    ],
)
@pytest.mark.parametrize("command", ["again", "attn-map"])
def test_what_a_strangers_file_would_fetch_is_said_first(
    command: str, changes: dict[str, Any], options: list[str], names: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise ModelError("it would be fetched now")

    for module in ("cli.plans", "cli.attn_map"):
        monkeypatch.setattr(f"vsf_cli.{module}.prepare", stop)
    request = Request(prompt="a red bike", model="builtin:tiny-sd3-turbo", seed=1, negative=("wheels",)).to_json()
    (here / "x.json").write_text(json.dumps(describe({**request, **changes})))
    found = CliRunner().invoke(app, [command, "x.json", *options, "-q"])
    lines = [line for line in found.stderr.splitlines() if line.startswith("warning: x.json names")]
    assert found.exit_code == 4 and [line.removeprefix("warning: x.json names ").partition(",")[0] for line in lines] == names
    assert all("is not on this machine: it is looked for on https://huggingface.co" in line for line in lines)
