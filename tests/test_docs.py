"""README.md and docs/: links lead somewhere, and commands, options and modules exist."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli
import typer

from vsf_cli.cli.app import app
from vsf_cli.errors import VSFError
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import load_preset

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [path for folder in ("examples", "benchmarks") for path in sorted((ROOT / folder).glob("*.sh"))]
COMMANDS = typer.main.get_command(app)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line with the words that lead to it."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = command.context_class(command)
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), (*path, name))


OPTIONS = {
    path: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for path, command in commands(COMMANDS)
}


def read(path: Path) -> str:
    return path.read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", read(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_a_front_page() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 120


def test_the_page_about_presets_names_their_variables() -> None:
    page = read(ROOT / "docs" / "presets.md")
    assert all(f"`{one.variable}`" in page for one in SETTINGS.values() if one.key.endswith("preset") and not one.of_run)


def test_extras_are_those_of_the_package() -> None:
    extras = tomli.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    sources = sorted((ROOT / "vsf_cli").rglob("*.py"))
    named = {found for path in (*PAGES, *sources) for found in re.findall(r"pip install ['\"](vsf[\w-]*)\[(\w+)\]", read(path))}
    assert named == {("vsf-cli", extra) for extra in extras if extra != "test"}
    assert all(f"[{extra}]" in read(ROOT / "README.md") for extra in extras)


def test_every_command_has_a_page() -> None:
    text = "".join(map(read, PAGES))
    readme = read(ROOT / "README.md")
    for path in OPTIONS:
        assert f"vsf {path[0]}" in readme and f"vsf {' '.join(path)}" in text, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda page: page.name)
def test_commands_of_pages_and_scripts_have_their_options(page: Path) -> None:
    blocks = read(page) if page in SCRIPTS else "\n".join(re.findall(r"```\n(.*?)```", read(page), re.S))
    blocks = blocks.replace("\\\n", " ")
    lines = [*blocks.splitlines(), *re.findall(r"`([^`\n]+)`", read(page))]
    for call in (call for line in lines for call in re.findall(r"\bvsf ([a-z][^#]*)", line)):
        words = call.split()
        path = next((path for path in OPTIONS if tuple(words[: len(path)]) == path), None)
        if path:
            given = {option for option in re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", call) if not option[1:].isdigit()}
            assert given <= OPTIONS[path], (call, given - OPTIONS[path])


def test_options_of_the_pages_exist() -> None:
    known = set().union(*OPTIONS.values())
    for page in PAGES[2:]:
        for option in re.findall(r"`(--[a-z][\w-]+)[^`]*`", read(page)):
            source = ROOT.joinpath("benchmarks").glob("*.py"), ROOT.joinpath("training").glob("*.py")
            assert option in known or any(f'"{option}"' in read(path) for paths in source for path in paths), (page, option)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_scripts_and_pages_that_are_named_exist(page: Path) -> None:
    for module in re.findall(r"python -m ([\w.]+)", read(page)):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"\b(?:benchmarks|examples|tests|training|vsf_cli)/[\w./-]+\.(?:py|sh|toml|csv|json)", read(page)):
        assert (ROOT / path).is_file(), path


def test_the_python_examples_run() -> None:
    """All but the first, which needs a download."""
    _, *blocks = re.findall(r"```python\n(.*?)```", read(ROOT / "docs" / "python.md"), re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["image"].size == (96, 96) and len(names["images"]) == 3


def test_presets_say_what_the_results_say() -> None:
    score = json.loads(read(ROOT / "docs" / "results" / "score.json"))
    rates = {name: score[name]["rates"] for name in ("vsf", "none")}
    video = {row["arm"]: row for row in json.loads(read(ROOT / "docs" / "results" / "video.json"))["rows"]}
    flux = {row["arm"]: row for row in json.loads(read(ROOT / "docs" / "results" / "flux.json"))["rows"]}
    for preset, found in {"tiny-sd3-turbo": rates, "tiny-wan-causvid": video, "tiny-flux-schnell": flux}.items():
        measured = load_preset(preset).measured
        for name in ("vsf", "none"):
            for kind in ("positive", "negative"):
                assert f"{found[name][kind]:.3f}" in measured


def test_every_exit_code_is_documented() -> None:
    def classes(kind: type[VSFError]) -> set[type[VSFError]]:
        return {kind}.union(*(classes(child) for child in kind.__subclasses__()))

    page = read(ROOT / "docs" / "images.md")
    for code in {kind.exit_code for kind in classes(VSFError)} | {0, 2, 3, 130}:
        assert f"| {code} |" in page


def test_every_image_of_the_pages_is_used() -> None:
    text = "".join(map(read, PAGES))
    assert not [path.name for path in (ROOT / "docs" / "images").iterdir() if f"images/{path.name}" not in text]
