"""The command lines of README.md, docs/ and examples/ work as they stand there, each page from its first line to its last.

They run up to where a model would, in whose place a picture of one colour is drawn; those that need a download are planned.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.drawn import AnyPipe
from tests.processes import ROOT, TIMEOUT
from vsf_cli.cli import attn_map, bench, evaluate, plans
from vsf_cli.cli.app import app
from vsf_cli.generation import choosing, run
from vsf_cli.generation.generate import Result

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
DRY = {"video", "batch", "again"}
"""Commands that are planned, since their files take long."""
READS_A_RUN = {("eval", name) for name in ("judge", "report", "tradeoff", "calibrate")}
"""Commands on what a model, a judge or a person has made: only their options are read."""
SLURM = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "8"}


def commands(page: Path) -> list[list[str]]:
    """The words of each command line of a page: of its blocks, and of its texts where a whole command is quoted."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.S | re.M)
    lines = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r'`(vsf \w+ "[^`]+)`', re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    words = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("vsf ") and "$" not in line]
    return [one[1:] for one in words if "..." not in one]


def commands_of_script(script: Path) -> list[list[str]]:
    """The words of each command line that a script runs."""
    stubs = "vsf() { printf '%s\\037' \"$@\"; printf '\\n'; }; python() { :; }; . \"$0\""
    done = subprocess.run(["bash", "-c", stubs, str(script)], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    return [line.split("\x1f")[:-1] for line in done.stdout.splitlines()]


def draw(_: Any, request: Any, *__: Any) -> Result:
    return Result((Image.new("RGB", (32, 32), (request.seed % 256, 0, 0)),), request, 6, 5, 0.1)


@pytest.fixture(autouse=True)
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the files that the pages speak of, and nothing that computes."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copy(ROOT / "examples" / "prompts.csv", "prompts.csv")
    (tmp_path / "work" / "benchmarks").symlink_to(ROOT / "benchmarks")
    Path("outputs/tradeoff").mkdir(parents=True)
    Path("outputs/tradeoff/chosen.toml").write_text('[vsf]\nmethod = "vsf"\n')
    for name in ("photo.jpg", "mask.png", "bike.jpg", "hat.jpg"):
        Image.new("RGB", (96, 96), "white").save(name)
    monkeypatch.setattr(plans, "quiet_libraries", lambda _: None)
    monkeypatch.setattr(plans, "load_for", lambda *_: AnyPipe())
    monkeypatch.setattr(choosing, "generate", draw)
    monkeypatch.setattr(choosing, "generate_batch", lambda pipe, requests, *_: [draw(pipe, one) for one in requests])
    monkeypatch.setattr(run, "capture", lambda pipe, request, *_: SimpleNamespace(result=draw(pipe, request)))
    monkeypatch.setattr(run, "write_capture", lambda *_: [])
    monkeypatch.setattr(run, "describe_result", _describe)
    monkeypatch.setattr(attn_map, "_run", lambda plan, *_: None)
    monkeypatch.setattr(evaluate, "_make", lambda *_: None)
    monkeypatch.setattr(evaluate, "_search", lambda *_: None)
    for name in ("_measure_random", "_measure_pipeline"):
        monkeypatch.setattr(bench, name, _stop)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    yield


def _describe(_: Any, result: Result, *__: Any, **facts: Any) -> dict[str, Any]:
    return run.describe(result.request.to_json(), **facts, size=result.image.size)


def _stop(*_: Any) -> None:
    raise typer.Exit


def check(words: list[str]) -> None:
    """Runs a command line as far as it can be."""
    words = [word.replace("/shared/", "shared/") for word in words]
    if tuple(words[:2]) in READS_A_RUN:
        _parse(words)
        return
    for number, word in enumerate(words):
        if word == "-m" and "/" not in words[number + 1]:
            shutil.copytree(ROOT / "vsf_cli" / "toy" / "weights" / "tiny-wan", words[number + 1])
        if word == "--lora":
            path = Path(words[number + 1].partition(":")[0])
            path.parent.mkdir()
            shutil.copy(next((ROOT / "vsf_cli" / "toy" / "weights").glob("tiny-wan-*lora.safetensors")), path)
    planned = words[0] in DRY or (words[0] == "image" and {"--preset", "-m", "--compare"} & {*words})
    found = CliRunner().invoke(app, [*words, *(["--dry-run"] if planned else [])])
    assert found.exit_code == 0, (words, found.output, found.exception)
    assert "has no effect" not in found.stderr, (words, found.stderr)


def _parse(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "list_commands"):
        command = command.get_command(command.context_class(command), words.pop(0))
    command.make_context("vsf", words)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_command_lines_of_a_page_work_in_their_order(page: Path) -> None:
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_command_lines_of_a_script_work(script: Path) -> None:
    lines = commands_of_script(script)
    assert len(lines) > 4
    for words in lines:
        check([*words])


def test_command_lines_are_found_in_blocks_and_in_texts() -> None:
    first = 'image "a red car on a road" --neg "wheels" --alpha 3 --seed 1 --upscale 4'
    assert shlex.split(first) in commands(ROOT / "README.md")
    assert ["image", "a bike", "-n", "wheels", "--preset", "sd-turbo"] in commands(ROOT / "docs" / "negative-prompts.md")
    with pytest.raises(AssertionError):
        check(["image", "a red bike", "--alpha", "3"])
