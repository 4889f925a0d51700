"""What a person sees on a terminal: bars and the paths of finished files, which share one cursor, stay apart."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from tests.drawn import AnyPipe
from tests.processes import ROOT
from tests.screens import Screen, terminal
from vsf_cli.batch import worker
from vsf_cli.cli import attn_map, evaluate, plans, running
from vsf_cli.cli.app import app
from vsf_cli.cli.console import Console
from vsf_cli.generation import choosing, run
from vsf_cli.generation.generate import Result

STEPS = 3


def draw(_: Any, request: Any, progress: Any = None) -> Result:
    """Takes steps, as a model would, and gives pictures of one colour."""
    for step in range(STEPS if progress else 0):
        progress(step + 1, STEPS)
    count = (request.num_frames or 1) - request.drop_frames
    return Result((Image.new("RGB", (32, 32), (request.seed % 256, 0, 0)),) * count, request, 6, 5, 0.1)


def capture(pipe: Any, request: Any, _: Any, progress: Any = None, *__: Any) -> Any:
    share, words = torch.zeros(1), lambda: ["wheels"]
    return SimpleNamespace(result=draw(pipe, request, progress), maps=SimpleNamespace(share=share, words=words))


@pytest.fixture(autouse=True)
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (plans, running, evaluate):
        monkeypatch.setattr(module, "quiet_libraries", lambda _: None)
    for module in (plans, worker):
        monkeypatch.setattr(module, "load_for", lambda *_: AnyPipe())
    monkeypatch.setattr(choosing, "generate", draw)
    monkeypatch.setattr(
        worker, "generate_batch", lambda pipe, requests, progress: [draw(pipe, one, progress) for one in requests]
    )
    monkeypatch.setattr(attn_map, "capture", capture)
    monkeypatch.setattr(attn_map, "write_capture", lambda _, folder, *__: [folder / "index.html"])


def shown(columns: int, monkeypatch: pytest.MonkeyPatch, *words: str) -> Screen:
    with terminal(columns, monkeypatch) as screen:
        assert not get_command(app)([*words], standalone_mode=False)
    return screen


FOLDER = "outputs/of-a-long-run-whose-name-is-longer-than-forty-columns"
COMMANDS = {
    "image": (
        ["image", "a red bike", "--neg", "wheels", "--seed", "1..3", "-o", f"{FOLDER}/"],
        [f"{FOLDER}/a-red-bike-{seed}.png" for seed in (1, 2, 3)],
    ),
    "strip": (
        ["image", "a red bike", "--neg", "wheels", "--seed", "1,2", "--compare", "none,vsf", "-o", f"{FOLDER}/x.png"],
        [f"{FOLDER}/x-{seed}.png" for seed in (1, 2)],
    ),
    "video": (
        ["video", "a red car", "--seed", "1,2", "--frames", "5", "--format", "gif", "-o", f"{FOLDER}/"],
        [f"{FOLDER}/a-red-car-{seed}.gif" for seed in (1, 2)],
    ),
    "batch": (["batch", "table.csv", "-o", FOLDER], [f"{FOLDER}/{name}.png" for name in ("bike", "car")]),
    "eval": (
        ["eval", "run", "scenes-dev", "--limit", "1", "--seeds", "2", "--method", "none,vsf", "-o", FOLDER],
        [f"{FOLDER}/pictures/{method}/scenes-dev-000-{seed}.png" for method in ("none", "vsf") for seed in (0, 1)],
    ),
    "attn-map": (["attn-map", "a red bike", "--neg", "wheels", "-o", FOLDER], [f"{FOLDER}/index.html"]),
}


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_path_of_a_finished_file_is_a_line_of_its_own(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words, paths = COMMANDS[name]
    Path("table.csv").write_text("prompt,neg,name\na red bike,wheels,bike\na red car,wheels,car\n", "utf-8")
    lines = shown(columns, monkeypatch, *words).lines
    assert [line for line in lines if line in paths] == paths, "\n".join(lines)
    assert not any("━" in line or "0:00" in line for line in lines), "no bar is left"
    assert not any(line.startswith("model ") for line in lines), "one model needs no column"


@pytest.mark.parametrize("columns", [80, 40])
def test_messages_and_data_stay_apart_from_two_bars(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "outputs/" + "a-long-name" * 5
    with terminal(columns, monkeypatch) as screen:
        console = Console()
        with console.progress("images", "steps") as (images, steps):
            assert images is not None and steps is not None
            for number in range(3):
                steps(number, 3)
                console.info(f"message {number} " + "which is longer than a line " * 3)
                console.warn(f"warning {number}")
                console.data(f"{path}{number}")
                images(number, 3)
        console.data("last")
    told = [line for line in screen.lines if line]
    assert [line for line in told if line.startswith("outputs/")] == [f"{path}{number}" for number in range(3)]
    assert [line[:9] for line in told if line.startswith("message")] == [f"message {number}" for number in range(3)]
    assert len([line for line in told if "message" in line or "longer" in line]) > 3, "a message breaks between words"
    assert [line for line in told if line.startswith("warning")] == [f"warning: warning {number}" for number in range(3)]
    assert told[-1] == "last"


TEXT = "which is longer than one line of a terminal with a few-hundred-letters-long-name/of-a-file/in-the-middle and an end"


@pytest.mark.parametrize("columns", [80, 40])
def test_lines_break_between_words_on_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(columns, monkeypatch) as screen:
        Console().info(TEXT)
        Console().warn(TEXT)
        Console().error(TEXT)
        Console.data_text(TEXT)
        Console.data_pairs([("name", TEXT)], 10)
    words = [word for line in screen.lines for word in line.split()]
    text = TEXT.split()
    name = "name" if columns == 80 else "name:"
    assert words == [*text, "warning:", *text, "error:", *text, *text, name, *text]


def test_names_and_texts_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [("model", "a model of drawn scenes, on any laptop"), ("steps", "8")]
    shown = {}
    for columns in (60, 40):
        with terminal(columns, monkeypatch) as screen:
            Console.data_pairs(pairs, 20)
        shown[columns] = screen.lines[:-1]
    assert shown[60] == ["model                a model of drawn scenes, on any laptop", "steps                8"]
    assert shown[40] == ["model: a model of drawn scenes, on", "    any laptop", "steps: 8"]
    Console.data_pairs(pairs, 5)
    assert capsys.readouterr().out == "model a model of drawn scenes, on any laptop\nsteps 8\n", "one line each in a pipe"


def test_a_table_that_is_too_wide_becomes_several(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    heads, rows = ["method", "seconds a step", "seconds in all"], [["the best one of all methods", "0.1 (0.09-0.11)", "2.5"]]
    with terminal(40, monkeypatch) as screen:
        Console.data_table(heads, rows)
    first, second = ["seconds a step", "0.1 (0.09-0.11)"], ["seconds in all", "2.5"]
    names = ["method", "the best one of all", "methods"]
    tables = [[f"{name:25}{text}".rstrip() for name, text in zip(names, [*one, ""], strict=True)] for one in (first, second)]
    assert screen.lines[:-1] == [*tables[0], "", *tables[1]]
    Console.data_table(heads, rows)
    assert [re.split(" {2,}", line.rstrip()) for line in capsys.readouterr().out.splitlines()] == [heads, *rows], (
        "one in a pipe"
    )


@pytest.mark.parametrize(("name", "noun", "count"), [("image", "images", 3), ("strip", "images", 4), ("batch", "images", 2)])
def test_a_bar_counts_what_is_made_from_the_start(name: str, noun: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("table.csv").write_text("prompt,neg,name\na red bike,wheels,bike\na red car,wheels,car\n", "utf-8")
    moves: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(_: Any, *labels: str) -> Iterator[Any]:
        yield [lambda done, total, label=label: moves.append((label, done, total)) for label in labels]

    monkeypatch.setattr(Console, "progress", progress)
    assert CliRunner().invoke(app, COMMANDS[name][0]).exit_code == 0
    assert [move for move in moves if move[0] == noun] == [(noun, done, count) for done in range(count + 1)]


def said(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["image", "a red bike", "--neg", "wheels", "--seed", "1", *words])
    assert found.exit_code == code, found.output
    return found.stderr


def test_the_bytes_of_a_file_do_not_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["image", "a red bike", "--seed", "1", "-o", "-"]
    with terminal(80, monkeypatch) as screen:
        with pytest.raises(SystemExit, match="6"):
            get_command(app)(words, standalone_mode=False)
        assert not get_command(app)([*words, "--dry-run"], standalone_mode=False)
    text = " ".join(" ".join(screen.lines).split())
    assert "error: -o - writes the bytes of the image to a terminal: add '> FILE'" in text and "to stdout" in text


def test_a_dry_run_says_what_is_written() -> None:
    words = "image", "a red bike", "--seed", "1,2,1"
    planned, made = (CliRunner().invoke(app, [*words, *more]).stdout for more in (["--dry-run"], []))
    assert (
        re.findall(r"to (\S+\.png)", planned)
        == made.split()
        == [f"outputs/a-red-bike-{name}.png" for name in ("1", "2", "1-2")]
    )
    words = (
        *words[:2],
        "--neg",
        "wheels",
        "--method",
        "cfg",
        "--guidance",
        "2.5",
        "-o",
        "x.png",
        "--format",
        "webp",
        "--dry-run",
    )
    found = CliRunner().invoke(app, [*words])
    assert "· CFG · guidance 2.5 ·" in found.stdout and "to x.webp" in found.stdout and "'x.webp' is written" in found.stderr


def test_the_line_of_an_image_says_what_differs_from_the_others() -> None:
    Image.new("RGB", (96, 96)).save("photo.png")
    told = said("--image", "photo.png", "--strength", "0.3,1")
    assert "seed 1 · 32x32 · strength 0.3 · 2 of 8 steps" in told and "seed 1 · 32x32 · strength 1 · 8 steps" in told
    told = said("--alpha", "1,2", "--beta", "0,1", "--guidance", "0,1")
    assert "seed 1 · 32x32 · VSF alpha=2 beta=1 stop=0.5 · guidance 1 · 8 steps" in told


def test_maps_are_beside_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(run, "capture", capture)
    monkeypatch.setattr(run, "write_capture", lambda _, folder, *__: written.append(folder))
    Path("x-attn").mkdir()
    for exists, folder in (("suffix", "x-attn-2"), ("overwrite", "x-attn"), ("skip", None)):
        told = said("-o", "x.png", "--dump-attn", "--exists", exists)
        assert f"attention maps in {folder}\n" in told if folder else "warning: x-attn exists, skipped" in told
        Path("x.png").unlink()
    assert list(map(str, written)) == ["x-attn-2", "x-attn"]
    assert "x-attn exists: choose --exists" in said("-o", "x.png", "--dump-attn", "--exists", "error", code=1)
    assert not Path("x.png").exists()


def test_the_screen_shows_what_a_terminal_would() -> None:
    screen = Screen(5)
    screen.write("abcdefg\r\nxy\r\x1b[2Kz\r\n\x1b[31mred\x1b[0m\r\n\x1b[1A\x1b[2Kgone")
    assert screen.lines == ["abcdefg", "z", "gone", ""]


def test_only_the_console_writes_to_the_terminal() -> None:
    """So that what it does about bars is done for all commands."""
    sources = {path.name: path.read_text("utf-8") for path in (ROOT / "vsf_cli").rglob("*.py")}
    assert {name for name, text in sources.items() if re.search(r"(?<![\w.])print\(", text)} <= {
        *("app.py", "console.py"),
        "montage.py",  # A command of its own.
    }


def test_presets_fit_into_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = shown(80, monkeypatch, "presets", "list")
    assert not listed.continued and "wan2.2-i2v" in "\n".join(listed.lines)
    facts = shown(80, monkeypatch, "presets", "show", "sdxl-dmd2").lines
    assert any(line.startswith("timesteps            999, 749, 499, 249") for line in facts)
    assert not [line for line in facts if line.startswith("drop_frames")], "a setting of videos"
