"""The scripts behind README.md and docs/: the pages are what the results say, and every suite is a command that parses."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from vsf_cli.cli import bench as command
from vsf_cli.cli.app import app
from vsf_cli.evaluation.variants import choose_variants, load_variants
from vsf_cli.generation.plan import request_of
from vsf_cli.methods import resolved
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings, load_preset

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    modules = {}
    for name in ("run", "tables"):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec and spec.loader
        modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[name])
        spec.loader.exec_module(modules[name])
    return modules


def test_the_pages_are_what_the_results_say(scripts: dict[str, ModuleType]) -> None:
    tables = scripts["tables"]
    pages = {path: path.read_text("utf-8") for path in tables.pages()}
    for path, page in pages.items():
        assert tables.filled(page) == page, path
    assert set(tables.TITLES) == set(scripts["run"].SUITES)
    # And they would be filled if somebody had changed a figure.
    benchmark = pages[tables.ROOT / "docs" / "benchmark.md"]
    assert "1.0021" in benchmark and tables.filled(benchmark.replace("1.0021", "1.0000")) == benchmark
    readme = pages[tables.ROOT / "README.md"]
    assert "-->93%<!--" in readme and tables.filled(readme.replace("-->93%<!--", "-->90%<!--")) == readme


def test_every_result_is_on_a_page(scripts: dict[str, ModuleType]) -> None:
    tables = scripts["tables"]
    comments = [match[2] for path in tables.pages() for match in tables.BLOCK.finditer(path.read_text("utf-8"))]
    named = {*re.findall(r'result\("([^"]+)"\)', (FOLDER / "tables.py").read_text("utf-8")), *" ".join(comments).split()}
    on_gpu = {path.stem for path in (FOLDER / "results").glob("gpu-*h200*.json")}
    assert on_gpu and on_gpu | {path.stem for path in (FOLDER.parent / "docs" / "results").glob("*.json")} <= named


def test_every_suite_parses(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(command, "measure", lambda given, options, talk, as_json: parsed.append(options))
    suites = scripts["run"].SUITES
    for name, arguments in suites.items():
        for extra in ([], scripts["run"].small(name)):
            result = CliRunner().invoke(app, ["bench", *arguments, *extra])
            assert result.exit_code == 0, result.output
    assert len(parsed) == 2 * len(suites) and all(options.count or options.rounds >= 1 for options in parsed)


def as_shown(row: dict[str, Any]) -> str:
    """A row of a report as docs/results.md has it."""
    rates = (
        f"{row[kind]:.3f} [{', '.join(f'{end:.2f}' for end in row[f'{kind}_interval'])}]" for kind in ("positive", "negative")
    )
    chance = "" if row["both_p"] is None else f"{row['both_p']:.1g}"
    return f"| {row['label']} | {' | '.join(rates)} | {row['both']:.3f} | {row['quality']:.3f} | {chance} |"


@pytest.mark.parametrize(
    ("name", "start", "end"), [("table", "## Table 1", "## Figures 8"), ("layouts", "## Section 4.8", "## Figure 2")]
)
def test_the_tables_of_the_results_are_what_the_reports_say(name: str, start: str, end: str) -> None:
    docs = FOLDER.parent / "docs"
    part = (docs / "results.md").read_text("utf-8").split(start)[1].split(end)[0].replace("**", "")
    head = "| method | object right | part absent | both | quality | p of both against VSF |"
    shown = [line.replace("|  |", "| |") for table in part.split(f"{head}\n{'| --- ' * 6}|\n")[1:] for line in lines(table)]
    report = json.loads((docs / "results" / f"{name}.json").read_text("utf-8"))
    expected = [as_shown(row).replace("|  |", "| |") for row in report["rows"]]
    assert sorted(shown) == sorted(expected) and len(shown) >= 7
    assert report["not_judged"] == 0 and {row["pictures"] for row in report["rows"]} == {400}


def lines(table: str) -> list[str]:
    """The rows of a table, up to the first line that is not one."""
    return table.split("\n\n")[0].strip().split("\n")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_what_is_measured_is_legal(path: Path) -> None:
    preset = load_preset("tiny-wan-causvid" if path.stem.startswith("video") else "tiny-sd3-turbo")
    for arm in choose_variants(load_variants(path), "everything", preset):
        settings = Settings({"preset": preset.name, **arm.settings}, video=preset.video)
        method, _ = resolved(arm.settings["method"])
        assert request_of(Texts("a car", ("wheels",)), 0, settings, (), preset.video)[0].method == method


def test_every_part_of_the_results_is_made_and_no_other() -> None:
    script = (FOLDER / "results.sh").read_text("utf-8")
    (parts,) = re.findall(r'^all="(.*)"$', script, re.MULTILINE)
    assert parts and {part.replace("-", "_") for part in parts.split()} <= {*re.findall(r"^(\w+)\(\)", script, re.MULTILINE)}
    lines = re.findall(r"^#     (\w.*)", script[: script.index("set -eu")], re.MULTILINE)
    described = [names for line in lines for names in re.findall(r"(?:^|  )([a-z, -]+): .*?docs/\w", line)]
    assert sorted(name for names in described for name in names.strip().split(", ")) == sorted(parts.split())
    for words in (["outputs", "table", "vidoe"], ["video"], ["outputs", "ls"]):
        done = subprocess.run(["sh", FOLDER / "results.sh", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
