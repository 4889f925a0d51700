"""What can be known before the work is said before it: `--dry-run` refuses what a run refuses, in the same words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vsf_cli.batch.items import items_of
from vsf_cli.batch.replacements import apply_replacements
from vsf_cli.batch.table import TableErrors, read_table
from vsf_cli.cli.app import app
from vsf_cli.config.ranges import ValueList
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media import videos
from vsf_cli.media.reading import read_frames, read_metadata, read_middle
from vsf_cli.prompts.replacements import Replacement

BIKE, CAR = ["image", "a red bike", "--seed", "1"], ["video", "a red car", "--seed", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where no model may be loaded."""

    def refuse(*_: object) -> None:
        pytest.fail("the work began")

    for module in ("cli.plans", "cli.compare"):
        monkeypatch.setattr(f"vsf_cli.{module}.prepare", refuse)
    monkeypatch.setattr("vsf_cli.batch.worker.load_for", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str) -> tuple[int, str]:
    found: Result = CliRunner().invoke(app, list(arguments))
    line = " ".join(found.stderr.split())
    print(found.stderr)
    assert line.count("error:") == 1 and "Traceback" not in line and found.stdout == "", found.output
    return found.exit_code, line


CASES = [
    (
        [*BIKE, "--preset", "tiny-flux-schnell", "--guidance", "3"],
        "guidance is 3, but this model has no such input, and would take no notice: leave it out, or pass 0",
    ),
    ([*BIKE, "--size", "100x100"], "width is 100, but must be a multiple of 8 for this model: try 96"),
    ([*BIKE, "--size", "8192x96"], "width is 8192, but this model can make"),
    ([*BIKE, "--steps", "1"], "steps is 1, but this model's scheduler needs at least 2"),
    ([*BIKE, "--neg", "wheels", "--guided-blocks", "1..9"], "guided_blocks names block 9, but the model has 6"),
    ([*BIKE, "--device", "gpu"], "--device is 'gpu', which this machine does not have"),
    ([*BIKE, "--device", "cuda:99"], "--device is 'cuda:99', which this machine does not have"),
    ([*BIKE, "-m", "builtin:tiny-wan"], "makes videos: use 'vsf video'"),
    ([*BIKE, "--image", "."], ". is a folder: name a file in it"),
    ([*CAR, "--seconds", "32"], "at most, which are 31.6 s at 8 fps: pass fewer --frames or --seconds"),
    ([*CAR, "--frames", "1001"], "frames is 1001, but this model can make 253 at most"),
    ([*CAR, "--size", "64x1024"], "height is 1024, but this model can make 512 pixels at most"),
    ([*CAR, "--neg", "wheels", "--guided-blocks", "7"], "guided_blocks names block 7, but the model has 6"),
]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(("arguments", "message"), CASES)
def test_what_the_model_cannot_make_is_said_at_once(arguments: list[str], message: str, dry: list[str]) -> None:
    if "--device" in arguments and not dry:
        return  # `load` says it.
    code, line = refused(*arguments, *dry)
    assert code == 6 and message in line and not Path("outputs").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ("size\na red bike,,100x100", [], "line 2, column size: width is 100"),
        ("steps\na red bike,,1", [], "line 2, column steps: steps is 1, but this model's scheduler needs at least 2"),
        (
            "guided_blocks\na red bike,wheels,1..9",
            [],
            "line 2, column guided_blocks: guided_blocks names block 9, but the model has 6",
        ),
        (
            "preset,frames\na red car,,tiny-wan-causvid,401",
            [],
            "line 2, column frames: frames is 401, but this model",
        ),
        ("model\na red bike,,m", [], "model 'm' has no model_index.json: give the folder of a diffusers pipeline"),
        ("size\na red bike,,", ["--device", "gpu"], "error: --device is 'gpu', which this machine does not have"),
    ],
)
def test_a_batch_says_at_once_what_its_models_cannot_make(
    here: Path, cells: str, options: list[str], message: str, dry: list[str]
) -> None:
    (here / "m").mkdir()
    (here / "t.csv").write_text(f"prompt,neg,{cells}\n")
    code, line = refused("batch", "t.csv", *options, *dry)
    assert code == (4 if cells.startswith("model") else 6) and message in line


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("output", "message"), [("f/x.png", "f is not a folder"), ("x" * 300 + "/x.png", "File name too long")]
)
def test_a_dry_run_refuses_files_that_cannot_be_written(here: Path, output: str, message: str, dry: list[str]) -> None:
    (here / "f").touch()
    for extra in ([], ["--neg", "wheels", "--compare", "none,vsf"]):
        code, line = refused(*BIKE, "-o", output, *extra, *dry)
        assert code == 1 and message in line
    (here / "x.png").touch()
    assert refused(*BIKE, "-o", "x.png", "--exists", "error", *dry)[0] == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_device_or_a_pipe_is_no_file() -> None:
    os.mkfifo("x.png")
    for output in (os.devnull, "x.png"):
        code, line = refused(*BIKE, "-o", output)
        assert code == 6 and f"--output '{output}' is a device or a pipe: name a file, or - for stdout" in line


LONG = " ".join(["a red bike"] * 3000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image", LONG, "-o", "x.jpg"], "but jpeg holds 65533"),
        (["image", "a red bike", "--neg", " ".join(["wheels"] * 3000), "--format", "jpeg"], "but jpeg holds 65533"),
        (["video", "@prompt.txt", "-o", "x.mp4"], "but mp4 holds 131072"),
    ],
)
def test_metadata_that_a_format_cannot_hold_is_said_at_once(arguments: list[str], message: str) -> None:
    Path("prompt.txt").write_text("a red car " * 14_000)
    code, line = refused(*arguments, "--seed", "1,2")
    assert code == 6 and message in line and "--no-metadata" in line
    assert CliRunner().invoke(app, [*arguments, "--no-metadata", "--dry-run"]).exit_code == 0


def test_metadata_that_a_row_cannot_hold_is_said_with_its_line(here: Path) -> None:
    (here / "t.csv").write_text(f"prompt,format\na red bike,jpeg\n{LONG},png\n{LONG},jpeg\n")
    code, line = refused("batch", "t.csv", "--dry-run")
    assert code == 6 and "line 4: the metadata would have" in line and "line 3" not in line


def test_a_folder_that_is_no_model_is_said_at_once(here: Path) -> None:
    code, line = refused(*BIKE, "-m", str(here))
    assert code == 4 and "has no model_index.json: give the folder of a diffusers pipeline" in line


def fake_ffmpeg(folder: Path, encoders: str) -> str:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\nprintf ' V....D {encoders} none\\n'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("encoders", "format", "message"),
    [
        ("mpeg4", "mp4", "mp4 needs libx264, which this machine's ffmpeg lacks: choose another --format"),
        ("libx264", "webm", "webm needs libvpx-vp9, which this machine's ffmpeg lacks: choose another --format"),
        (None, "mp4", "ffmpeg, which mp4 and webm need, is not on this machine"),
    ],
)
def test_what_encodes_a_clip_is_looked_for_first(
    here: Path, encoders: str | None, format: str, message: str, dry: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", fake_ffmpeg(here, encoders) if encoders else str(here / "nowhere"))
    code, line = refused(*CAR, "--format", format, *dry)
    assert code == 1 and message in line
    (here / "t.csv").write_text(f"prompt,preset,format\na red car,tiny-wan-causvid,{format}\n")
    code, line = refused("batch", "t.csv", *dry)
    assert code == 1 and message in line
    assert CliRunner().invoke(app, [*CAR, "--format", "webp", "--dry-run"]).exit_code == 0


@pytest.mark.parametrize("found", [None, "nowhere"])
def test_a_clip_is_not_read_without_ffmpeg(here: Path, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        if found is None:
            raise RuntimeError("No ffmpeg exe could be found.")
        return str(here / found)

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    (here / "x.mp4").write_bytes(b"not whole")
    for command in ("info", "again"):
        code, line = refused(command, "x.mp4")
        assert code == 1 and "ffmpeg, which mp4 and webm need, is not on this machine" in line


@pytest.mark.parametrize("read", [read_metadata, read_frames, lambda path: read_middle(path, 0.1), videos.count_frames])
def test_a_clip_that_names_other_files_fetches_none(
    here: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ffmpeg = here / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\necho $* >> {here}/calls; exit 1\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    (here / "x.mp4").touch()
    with pytest.raises(MediaError):
        read(here / "x.mp4")
    calls = [call for call in (here / "calls").read_text().splitlines() if "x.mp4" in call]
    assert calls and all("-protocol_whitelist file,pipe " in call.partition("-i ")[0] for call in calls)


def test_too_many_pictures_are_counted_before_they_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_table(Path("t.csv"), "prompt,neg\n" + "a red bike,wheels\n" * 2000)
    monkeypatch.setattr("vsf_cli.batch.items.request_of", lambda *_: pytest.fail("a picture was planned"))
    many = ValueList(range(10_000))
    with pytest.raises(RequestError, match="makes 20000000 images, but a run has 100000 at most"):
        items_of("t.csv", rows, {"alpha": many})
    with pytest.raises(RequestError, match="makes 200000000000 images"):
        items_of("t.csv", rows, {"alpha": many, "beta": many})
    with pytest.raises(TableErrors) as found:
        items_of("t.csv", rows[:1], {"alpha": ValueList(range(20_000))})
    assert found.value.lines == ["line 2: it asks for 20000 images, but a row makes 10000 at most: make fewer at once"]
    pairs = [Replacement.parse("wheels=>" + ",".join(f"w{number}" for number in range(300)))]
    with pytest.raises(RequestError, match=r"--sr makes 600000 rows of t\.csv"):
        apply_replacements("t.csv", rows, pairs)


def test_the_sizes_of_metadata_are_those_of_the_format() -> None:
    from PIL import Image

    from vsf_cli.media.formats import LIMITS
    from vsf_cli.media.images import encode_jpeg

    limit, measure = LIMITS["jpeg"]
    tags = {"vsf": "x" * 100, "parameters": "y"}
    tags["vsf"] += "x" * (limit - measure(tags))
    assert limit - 1 <= measure(tags) <= limit and encode_jpeg(Image.new("RGB", (8, 8)), tags)
    with pytest.raises(ValueError, match="too long"):
        encode_jpeg(Image.new("RGB", (8, 8)), {**tags, "vsf": tags["vsf"] + "xx"})
