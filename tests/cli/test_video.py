"""`vsf video` on a small random model of Wan's classes, saved in a folder as a real one is."""

import json
import logging
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from imageio_ffmpeg import count_frames_and_secs, read_frames
from PIL import Image, ImageSequence
from typer.testing import CliRunner, Result

from tests.models.test_wan import random_wan
from tests.processes import TIMEOUT, run_vsf, wait_until
from vsf_cli.cli.app import app
from vsf_cli.errors import MediaError
from vsf_cli.generation import capture as attn_map
from vsf_cli.loading import hub
from vsf_cli.maps.data import load
from vsf_cli.media import formats, videos
from vsf_cli.media.formats import encode_video
from vsf_cli.media.frames import write_frames
from vsf_cli.media.reading import read_metadata


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    place = tmp_path_factory.mktemp("models") / "small-wan"
    random_wan(torch.float32).save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def video(folder: Path, *arguments: str, code: int = 0) -> Result:
    options = ["--steps", "2", "--size", "32x32", "--seed", "1", "--dtype", "float32"]
    if "--frames" not in arguments and "--seconds" not in arguments:
        options += ["--frames", "9"]
    result = CliRunner().invoke(app, ["video", "a red bike", "-m", str(folder), *options, *arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def test_a_clip_plays_everywhere_and_says_how_it_was_made(folder: Path) -> None:
    result = video(folder, "--neg", "wheels", "--alpha", "2", "-o", "bike.mp4", "--sidecar", "--fps", "8")
    assert result.stdout.strip() == "bike.mp4" and "wheels" in result.stderr
    reader = read_frames("bike.mp4")
    facts = next(reader)
    reader.close()
    assert (facts["codec"], facts["fps"], facts["source_size"]) == ("h264", 8, (32, 32)) and "yuv420p" in facts["pix_fmt"]
    assert count_frames_and_secs("bike.mp4")[0] == 9
    found = read_metadata(Path("bike.mp4")).description
    assert found is not None and found == json.loads(Path("bike.mp4.json").read_text("utf-8"))
    request = found["request"]
    assert (request["prompt"], request["negative"], request["parameters"]["alpha"]) == ("a red bike", ["wheels"], 2)
    assert (request["num_frames"], request["fps"], request["model"]) == (9, 8, "small-wan") and "/" not in json.dumps(found)
    assert found["applied"]["blocks"] == 3


@pytest.mark.parametrize("format", ["webm", "gif", "webp"])
def test_every_format_is_written_and_read_back(folder: Path, format: str) -> None:
    video(folder, "--neg", "wheels", "--format", format, "-o", "out/")
    (path,) = Path("out").iterdir()
    found = read_metadata(path).description
    assert path.suffix == f".{format}" and found is not None and found["request"]["negative"] == ["wheels"]


def test_frames_are_a_folder_of_pictures(folder: Path) -> None:
    video(folder, "--format", "frames", "--drop-frames", "2", "-o", "out")
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == [f"{number:04}.png" for number in range(7)]


def test_maps_are_written_beside_a_clip(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attn_map, "MAX_BYTES", 600)
    result = video(
        folder, "--neg", "wheels", "-o", "bike.mp4", "--fps", "8", "--drop-frames", "2", "--dump-attn", "--upscale", "2"
    )
    assert result.stdout == "bike.mp4\n" and "vsf attn-map --blocks chooses others" in " ".join(result.stderr.split())
    assert count_frames_and_secs("bike.mp4")[0] == 7
    written = {path.relative_to("bike-attn").as_posix() for path in Path("bike-attn").rglob("*") if path.is_file()}
    assert written >= {"index.html", "overlay.webp", "frames.png", "frames/1.png", "no-guidance/3.png", "steps/2/3.png"}
    maps = load("bike-attn")
    assert maps.share.shape[-3:] == (3, 2, 2) and maps.settings["request"]["drop_frames"] == 2
    assert Image.open("bike-attn/no-guidance/3.png").size == (32, 32) and Image.open("bike-attn/overlay.webp").size == (64, 64)


def names(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


FIVE = [f"{number:04}.png" for number in range(5)]


def test_a_folder_of_frames_is_a_clip_and_another_takes_it(folder: Path, here: Path) -> None:
    frames = ("--format", "frames", "--frames", "5")
    for _ in range(2):
        video(folder, *frames, "-o", "fr")
    video(folder, *frames, "-o", "fr.mp4", "--exists", "overwrite")
    assert names("fr") == names("fr-2") == FIVE and not Path("fr.mp4").exists()
    video(folder, *frames, "-o", "fr", "--exists", "overwrite", "--frames", "9")
    assert len(names("fr")) == 9
    (here / "mine").mkdir()
    (here / "mine" / "diary.txt").write_text("of mine")
    video(folder, *frames, "-o", "mine", "--exists", "overwrite")
    assert names("mine") == ["a-red-bike-1/" + name for name in FIVE] + ["diary.txt"]


def test_a_folder_of_other_things_is_never_replaced(folder: Path, here: Path) -> None:
    for format, ending in (("frames", ""), ("webp", ".webp")):
        (here / f"a-red-bike-1{ending}").mkdir()
        (here / f"a-red-bike-1{ending}" / "diary.txt").write_text("of mine")
        result = video(folder, "--format", format, "-o", "{slug}-{seed}", "--exists", "overwrite", code=1)
        assert "holds other things" in " ".join(result.stderr.split())
        assert names(f"a-red-bike-1{ending}") == ["diary.txt"]


def test_frames_say_how_they_were_made_and_are_made_again(folder: Path, here: Path) -> None:
    video(folder, "--format", "frames", "--frames", "5", "-o", "fr", "--neg", "wheels")
    told = CliRunner().invoke(app, ["info", "fr", "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["vsf"]["request"]["negative"] == ["wheels"]
    (here / "empty").mkdir()
    empty = CliRunner().invoke(app, ["info", "empty"])
    assert empty.exit_code == 1 and "folder with no frames" in " ".join(empty.stderr.split())


@pytest.mark.parametrize("format", ["mp4", "webm", "gif", "webp"])
def test_every_frame_is_told_as_it_is_encoded(format: str) -> None:
    seen: list[tuple[int, int]] = []
    frames = [Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(5)]
    encode_video(frames, 8, format, None, progress=lambda done, all: seen.append((done, all)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_every_picture_of_a_folder_is_told(here: Path) -> None:
    seen: list[tuple[int, int]] = []
    frames = [Image.new("RGB", (32, 32))] * 3
    write_frames(here / "fr", frames, None, lambda done, all: seen.append((done, all)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("fps", "wanted"), [(15, 1000), (24, 1000), (50, 1000), (7, 1000)])
def test_a_gif_plays_as_long_as_it_should(here: Path, fps: int, wanted: int) -> None:
    frames = [Image.new("RGB", (32, 32), (number, 99, 0)) for number in range(fps)]
    (here / "a.gif").write_bytes(encode_video(frames, fps, "gif", None))
    with Image.open(here / "a.gif") as image:
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(shown) == fps and sum(shown) == wanted and max(shown) - min(shown) <= 10


def test_a_folder_that_cannot_be_written_is_said_before_the_work(folder: Path, here: Path) -> None:
    (here / "file").write_text("no folder")
    result = video(folder, "-o", "file/a.mp4", code=1)
    assert "is not a folder" in " ".join(result.stderr.split()) and "seed" not in result.stderr


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        (errors.GatedRepoError, 4, "is gated: accept its licence on https://huggingface.co/owner/name"),
        (errors.RepositoryNotFoundError, 4, "does not exist on the hub, or is private"),
        (errors.LocalEntryNotFoundError, 4, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], code: int, message: str
) -> None:
    from diffusers import DiffusionPipeline

    def refuse(*_: Any, **__: Any) -> Any:
        error = kind.__new__(kind)
        Exception.__init__(error, "from the hub")
        raise error

    monkeypatch.setattr(DiffusionPipeline, "load_config", refuse)
    monkeypatch.setattr(hub, "_is_reachable", lambda: True)
    result = CliRunner().invoke(app, ["video", "a red bike", "-m", "owner/name", "-o", "a.mp4"])
    assert result.exit_code == code and message in " ".join(result.stderr.split()) and "Traceback" not in result.output
    assert not list(here.glob("*.mp4"))


def test_attempts_to_reach_the_hub_are_not_told_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from vsf_cli.loading.libraries import quiet_libraries

    log = logging.getLogger("huggingface_hub")
    before = log.level
    try:
        log.setLevel(logging.WARNING)
        quiet_libraries(verbose=False)
        assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
    finally:
        log.setLevel(before)


def test_a_preset_shows_all_that_it_loads() -> None:
    shown = CliRunner().invoke(app, ["presets", "show", "wan2.2"]).stdout
    words = "high_noise_model.safetensors", "low_noise_model", "FlowMatchEulerDiscreteScheduler", "vae_dtype", "126.2 GB"
    assert all(word in shown for word in words)


def test_a_number_of_frames_is_rounded_and_said(folder: Path) -> None:
    result = video(folder, "--frames", "7", "-o", "a.mp4")
    assert "7 frames asked for, but 9 are made" in " ".join(result.stderr.split())
    result = video(folder, "--frames", "3", "-o", "c.mp4")
    assert "3 frames asked for, but 1 is made" in " ".join(result.stderr.split())
    result = video(folder, "--seconds", "0.5", "--fps", "8", "-o", "b.mp4")
    assert count_frames_and_secs("b.mp4")[0] == 5 and "asked for" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--frames", "9", "--seconds", "1"], 6, "say the same"),
        (["--frames", "0"], 6, "frames is 0"),
        (["--seconds", "nan"], 6, "--seconds is nan"),
        (["--shift", "0"], 6, "shift is 0"),
        (["--shift", "inf"], 6, "shift is inf"),
        (["--shift", "nan"], 6, "shift is nan"),
        (["-W", "32"], 6, "--width is given without --height"),
        (["--crf", "99"], 6, "--crf is 99"),
        (["--crf", "0"], 6, "--crf is 0, but must be 1 to 51 for mp4"),
        (["--format", "gif", "--fps", "60"], 6, "--fps is 60, but a gif has at most 50"),
        (["--format", "frames", "-o", "-"], 6, "frames are a folder"),
        (["--crf", "20", "--format", "gif"], 6, "the format is gif"),
        (["--drop-frames", "9"], 6, "--drop-frames is 9"),
        (["--size", "33x32"], 6, "multiple of"),
        (["--size", "big"], 2, "is no size"),
        (["--format", "avi"], 6, "avi"),
        (["--guidance", "5", "--neg", "wheels"], 6, "for models that run without CFG"),
        (["--preset", "tiny-sd3-turbo", "-m", "builtin:tiny-sd3-turbo"], 6, "use 'vsf image'"),
        (["--lora", "missing.safetensors"], 4, "missing.safetensors"),
    ],
)
def test_what_is_not_legal_is_one_line(folder: Path, here: Path, arguments: list[str], code: int, message: str) -> None:
    result = video(folder, *arguments, code=code)
    assert message in " ".join(result.stderr.split())
    assert not list(here.rglob("*.mp4"))


def planned(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["video", "a red bike", "--seed", "1", "--dry-run", "--json", *arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return json.loads(result.stdout) if not code else " ".join(result.stderr.split())


def test_width_and_height_are_as_for_pictures(folder: Path) -> None:
    result = CliRunner().invoke(app, ["video", "a red bike", "-W", "48", "-H", "32", "--dry-run", "--json"])
    assert (json.loads(result.stdout)["width"], json.loads(result.stdout)["height"]) == (48, 32)


CAUSVID = ("--preset", "wan2.1-1.3b-causvid")


def test_a_named_preset_keeps_its_lora_files_whatever_the_model(folder: Path, here: Path) -> None:
    from vsf_cli.settings.presets import load_preset

    own = list(load_preset(CAUSVID[1]).loras)
    assert planned(*CAUSVID, "-m", str(folder), "--size", "32x32")["loras"] == own
    assert planned("-m", str(folder), "--size", "32x32")["loras"] == []
    (here / "other.safetensors").touch()
    assert planned(*CAUSVID, "--lora", "other.safetensors:2")["loras"] == [*own, "other.safetensors:2"]
    name = own[0].split(":")[1]
    (here / name).touch()
    assert planned(*CAUSVID, "-m", str(folder), "--size", "32x32", "--lora", f"{name}:0.7")["loras"] == [f"{name}:0.7"]


def test_frames_that_a_preset_leaves_out_are_not_counted_as_seconds() -> None:
    request = planned(*CAUSVID, "--seconds", "4.8")
    assert (request["num_frames"], request["drop_frames"], request["fps"]) == (77, 5, 15)
    said = planned(*CAUSVID, "--frames", "5", code=6)
    assert "preset wan2.1-1.3b-causvid leaves the first 5 frames out, but 5 are made" in said and "--drop-frames 0" in said
    assert planned(*CAUSVID, "--frames", "5", "--drop-frames", "0")["drop_frames"] == 0


@pytest.mark.parametrize("size", ["72x64", "8x8", "16x8"])
def test_the_embedded_model_refuses_what_its_pipeline_does_not_take(here: Path, size: str) -> None:
    result = CliRunner().invoke(app, ["video", "a red car", "--size", size, "--steps", "1"])
    assert result.exit_code == 6 and "multiple of 16" in " ".join(result.stderr.split()) and "Traceback" not in result.output
    assert not list(here.rglob("*.mp4"))


def test_a_size_of_a_large_model_is_refused_before_its_download() -> None:
    options = ["--preset", "wan2.1-1.3b-causvid", "--size", "832x488", "--dry-run"]
    result = CliRunner().invoke(app, ["video", "a red car", *options])
    assert result.exit_code == 6 and "height is 488, but must be a multiple of 16" in " ".join(result.stderr.split())
    assert "download" not in result.stderr


def test_a_model_of_clips_makes_no_picture(folder: Path) -> None:
    result = CliRunner().invoke(app, ["image", "a red bike", "-m", str(folder), "--dtype", "float32"])
    assert result.exit_code == 6 and "use 'vsf video'" in " ".join(result.stderr.split())


def fake_ffmpeg(place: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = place / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a shell script")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo [mp4 @ 0x1f] no such codec >&2; exit 7", "ffmpeg wrote 0 of 9 frames: no such codec"),
        ("cat > /dev/null; echo No space left on device >&2; exit 228", "ffmpeg wrote 0 of 9 frames: No space left on device"),
        ("cat > /dev/null", "ffmpeg wrote 0 of 9 frames: it gave no reason"),
        ('cat > /dev/null; for last; do :; done; echo nonsense > "$last"', "ffmpeg wrote 0 of 9 frames: it gave no reason"),
    ],
    ids=["at once", "at the end", "nothing written", "nonsense written"],
)
def test_what_ffmpeg_did_is_looked_at(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    fake_ffmpeg(here, monkeypatch, script)
    result = video(folder, "-o", "out/a.mp4", code=1)
    assert said in " ".join(result.stderr.split()) and "Traceback" not in result.output
    assert not list(here.glob("out/*"))


def test_half_a_clip_is_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    count = videos.count_frames
    monkeypatch.setattr(videos, "count_frames", lambda path: count(path) - 1)
    with pytest.raises(MediaError, match="ffmpeg wrote 2 of 3 frames: it gave no reason"):
        encode_video([Image.new("RGB", (32, 32))] * 3, 8, "mp4", None)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, timeout=TIMEOUT)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True, timeout=TIMEOUT)


@pytest.mark.skipif(not shutil.which("mount"), reason="a small disk is mounted")
@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_disk_that_is_full_under_ffmpeg_is_one_line(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    noise = random.Random(1).randbytes
    with pytest.raises(MediaError, match=r"No space left on device.*TMPDIR"):
        encode_video([Image.frombytes("RGB", (256, 256), noise(3 * 256**2)) for _ in range(9)], 8, format, None)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a shell script")
def test_ctrl_c_while_encoding_ends_ffmpeg_and_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own; what stands in for ffmpeg presses Ctrl-C, and would go on until it is ended."""
    waits = f"echo $$ > {here}/number; head -c 1 > /dev/null; kill -INT $PPID; exec tail -f /dev/null"
    fake_ffmpeg(here, monkeypatch, f'case "$*" in *-encoders*) exit 1;; esac; {waits}')
    (here / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(here / "tmp"))
    done = run_vsf("video", "a red car", "--steps", "2", "--frames", "5", "-o", "out/a.mp4")
    assert done.returncode == 130 and "interrupted" in done.stderr and "Traceback" not in done.stderr
    assert not list(here.glob("out/*")) and not list((here / "tmp").iterdir())
    # An ended process keeps its number until the first process of the machine has noticed.
    wait_until(lambda: not _is_known(int((here / "number").read_text())))


def _is_known(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_disk_that_is_full_leaves_no_half_file(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "encode_by_ffmpeg", full)
    result = video(folder, "-o", "out/a.mp4", code=1)
    assert "No space left" in result.stderr and not list((here / "out").glob("*")) and "Traceback" not in result.output


def test_an_interrupt_while_encoding_leaves_no_half_file(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "encode_by_ffmpeg", interrupted)
    video(folder, "-o", "out/a.mp4", code=130)
    assert not list(here.glob("out/*"))


def test_a_file_that_is_no_clip_is_said(here: Path) -> None:
    (here / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(MediaError, match="cannot be read as a video"):
        read_metadata(here / "a.mp4")
