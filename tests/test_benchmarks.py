"""The scripts behind docs/performance.md: the page is what the results say, and every suite is a command that parses."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from vsf_cli.bench import command
from vsf_cli.cli import app

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = {}
    for name in ("run", "tables"):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec and spec.loader
        found[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found[name])
        spec.loader.exec_module(found[name])
    return found


def test_the_page_is_what_the_results_say(scripts: dict[str, ModuleType]) -> None:
    tables = scripts["tables"]
    page = tables.PAGE.read_text("utf-8")
    assert tables.filled(page) == page and "| VSF with bias | " in page
    # And it would be filled if somebody had changed a figure.
    assert tables.filled(page.replace("1.0021", "1.0000")) == page
    assert set(tables.TITLES) == set(scripts["run"].SUITES)


def test_every_suite_parses(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(command, "run", lambda options, talk: asked.append(options))
    suites = scripts["run"].SUITES
    for name, arguments in suites.items():
        for extra in ([], scripts["run"].small(name)):
            result = CliRunner().invoke(app, ["bench", *arguments, *extra])
            assert result.exit_code == 0, result.output
    assert len(asked) == 2 * len(suites) and all(options["count"] or options["rounds"] >= 1 for options in asked)
