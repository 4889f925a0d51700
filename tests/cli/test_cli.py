"""The command line as a person meets it: most in this process, what needs a clean one in a subprocess."""

import ast
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console as RichConsole
from typer.main import get_command
from typer.testing import CliRunner, Result

import vsf_cli
from tests.processes import ROOT, TIMEOUT, run_python, running_vsf
from vsf_cli.attention.exact import available_paths
from vsf_cli.cli.app import app
from vsf_cli.cli.console import Console
from vsf_cli.cli.doctor import KERNELS
from vsf_cli.errors import OutOfMemory
from vsf_cli.media.formats import encode_image
from vsf_cli.media.reading import read_metadata

BIKE = ["image", "a red bike on a road", "--seed", "1"]
PHOTO = encode_image(Image.new("RGB", (96, 96), "green"), "png", None)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vsf(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True, **options)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def process(*arguments: str, code: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", code, *arguments)


def test_the_main_job(here: Path) -> None:
    found = run_python("-m", "vsf_cli", *BIKE, "--neg", "wheels", "--alpha", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout == "outputs/a-red-bike-on-a-road-1.png\n"
    assert "negative 'wheels' · VSF alpha=3 beta=0.5 stop=0.5 · 6 blocks · 5 tokens" in found.stderr
    assert "seed 1 " in found.stderr and "preset tiny-sd3-turbo" in found.stderr and "sd3.5-large-turbo" in found.stderr
    assert "\x1b" not in found.stdout + found.stderr, "no escape codes in a pipe"
    assert opened(here / found.stdout.strip()).size == (96, 96)
    description = read_metadata(here / found.stdout.strip()).description
    assert description is not None and description["request"]["negative"] == ["wheels"]


def test_the_picture_can_be_made_again_from_its_own_metadata(here: Path) -> None:
    from vsf_cli.generation.generate import Request, generate
    from vsf_cli.loading.pipelines import load

    assert vsf(*BIKE, "--neg", "wheels", "-o", "x.png").exit_code == 0
    description = read_metadata(here / "x.png").description
    assert description is not None
    request = Request.from_json(description["request"])
    image = generate(load(request.model, request.dtype), request).image
    assert image.tobytes() == opened(here / "x.png").tobytes()


def test_a_file_is_made_again_from_itself(here: Path) -> None:
    assert vsf(*BIKE, "--neg", "wheels", "--steps", "3", "-o", "x.webp", "--sidecar").exit_code == 0
    result = vsf("again", "x.webp", "-o", "y.png")
    assert result.exit_code == 0 and "everything is as when it was made" in result.stderr, result.output
    assert vsf("again", "x.webp.json", "-o", "z.png").exit_code == 0
    assert opened(here / "y.png").tobytes() == opened(here / "z.png").tobytes()
    assert vsf(*BIKE, "--neg", "wheels", "--steps", "3", "-o", "w.png").exit_code == 0
    assert opened(here / "y.png").tobytes() == opened(here / "w.png").tobytes()

    result = vsf("again", "y.png", "--alpha", "1", "--steps", "2", "--seed", "4", "-n", "basket", "-o", "v.png")
    assert result.exit_code == 0 and "num_inference_steps: 3 -> 2" in result.stderr and "seed: 1 -> 4" in result.stderr
    changes = [line for line in result.stderr.splitlines() if " -> " in line]
    assert {"alpha: 2.5 -> 1", "negative: wheels -> basket"} < {*changes} and len(changes) == 4
    description = read_metadata(here / "v.png").description
    assert description is not None and description["request"]["negative"] == ["basket"]
    assert (description["request"]["parameters"]["alpha"], description["request"]["parameters"]["stop"]) == (1, 0.5)


def test_what_was_a_file_is_asked_for(here: Path) -> None:
    folder = Path(vsf_cli.__file__).parent / "toy" / "weights"
    shutil.copytree(folder / "tiny-wan", here / "mine" / "model")
    shutil.copy(next(folder.glob("tiny-wan-*lora.safetensors")), here / "mine" / "few.safetensors")
    own = ["-m", "mine/model", "--lora", "mine/few.safetensors:0.5"]
    clip = ["--frames", "5", "--steps", "2", "--size", "32x32", "--seed", "1", "--format", "webp"]
    found = vsf("video", "a red car", *own, *clip, "-o", "x.webp")
    assert found.exit_code == 0, found.output
    description = read_metadata(here / "x.webp").description
    assert description is not None and "mine" not in json.dumps(description)
    digest = hashlib.sha256((here / "mine" / "few.safetensors").read_bytes()).hexdigest()
    assert description["lora_hashes"] == [digest] and description["request"]["loras"] == ["few.safetensors:0.5"]

    found = vsf("again", "x.webp", "-m", "mine/model")
    assert found.exit_code == 6 and f"'few.safetensors', SHA-256 {digest[:12]}: say where it is with --lora" in said(found)
    found = vsf("again", "x.webp", "--lora", "mine/few.safetensors:0.5")
    assert found.exit_code == 4 and "give one of these with -m" in said(found)
    found = vsf("again", "x.webp", *own, "-o", "y.webp")
    assert found.exit_code == 0 and "everything is as when it was made" in found.stderr, found.output
    assert (here / "x.webp").read_bytes() == (here / "y.webp").read_bytes()

    weights = here / "mine" / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    options = ["--fps", "4", "--frames", "9", "--shift", "2", "--drop-frames", "1", "--dry-run"]
    changes = said(vsf("again", "x.webp", *own, *options))
    for change in ("fps: 16 -> 4", "num_frames: 5 -> 9", "flow_shift: ", "drop_frames: 0 -> 1", "model_hash: "):
        assert change in changes, changes


def said(found: Any) -> str:
    return " ".join(found.stderr.split())


def test_another_device_is_said(here: Path) -> None:
    assert vsf(*BIKE, "--steps", "2", "-o", "x.webp", "--sidecar").exit_code == 0
    plain = json.loads((here / "x.webp.json").read_text())
    (here / "y.json").write_text(json.dumps({**plain, "device": "cuda"}))
    assert "device: cuda -> cpu" in vsf("again", "y.json", "--dry-run").stderr
    assert "is for videos, but the file is an image" in said(vsf("again", "y.json", "--fps", "4"))


def test_what_others_wrote_is_read_by_its_grammar(here: Path) -> None:
    told = PngInfo()
    pairs = 'Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1, Size: 8x8, Lora hashes: "a: 12, b: 34", Odd: "\\x"'
    told.add_text("parameters", f"a bike, (red:1.2)\non a road\nNegative prompt: wheels,\nblurry\n{pairs}")
    Image.new("RGB", (8, 8)).save(here / "x.png", pnginfo=told)
    lines = dict(
        line.split(maxsplit=1) for line in vsf("info", "x.png").stdout.splitlines() if not line.startswith(("on", "bl"))
    )
    assert lines["prompt"] == "a bike, (red:1.2)" and lines["negative"] == "wheels," and lines["Steps"] == "20"
    found = json.loads(vsf("info", "x.png", "--json").stdout)
    assert (found["vsf"], found["prompt"], found["negative"]) == (None, "a bike, (red:1.2)\non a road", "wheels,\nblurry")
    assert found["pairs"]["Sampler"] == "DPM++ 2M" and found["pairs"]["Lora hashes"] == "a: 12, b: 34"
    assert found["pairs"]["Odd"] == '"\\x"'


def test_clips_are_swept_over_how_they_are_played_and_encoded(here: Path) -> None:
    clip = ["a red car", "--frames", "5", "--steps", "2", "--size", "32x32", "--seed", "1"]
    found = vsf("video", *clip, "--fps", "4,8", "--crf", "10,40", "-o", "out/")
    assert found.exit_code == 0, found.output
    names = [f"a-red-car-1-fps{fps}-crf{crf}.mp4" for fps in (4, 8) for crf in (10, 40)]
    assert sorted(Path(path).name for path in found.stdout.split()) == sorted(names)
    sizes = [(here / "out" / name).stat().st_size for name in names]
    assert sizes[0] > sizes[1] and sizes[2] > sizes[3]
    assert "must be 1 to 51" in said(vsf("video", *clip, "--crf", "10,99", "--dry-run"))
    found = vsf("video", *clip, "--drop-frames", "0,1", "--dry-run", "--json")
    assert [json.loads(line)["drop_frames"] for line in found.stdout.splitlines()] == [0, 1]


def test_what_is_left_is_told_even_where_one_takes_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console()
    console.stderr = RichConsole(file=sys.stderr, force_terminal=True, get_time=lambda: clock[0])
    with console.progress("pictures") as (pictures,):
        assert isinstance(pictures, functools.partial)
        bar = pictures.args[0]
        for done in range(1, 4):
            clock[0] += 100
            pictures(done, 10)
        assert bar.tasks[0].time_remaining == 700


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.png"], 6, "there is no such file"),
        (["x.png", "--nag-scale", "2"], 6, "--nag-scale is NAG's"),
        (["x.png", "--alpha", "1,2"], 6, "makes one file"),
        (["x.png", "--steps", "0"], 6, "steps is 0"),
        (["plain.png"], 1, "does not say how vsf made it"),
    ],
)
def test_what_cannot_be_made_again(here: Path, arguments: list[str], code: int, message: str) -> None:
    assert vsf(*BIKE, "--neg", "wheels", "--steps", "2", "-o", "x.png").exit_code == 0
    Image.new("RGB", (8, 8)).save(here / "plain.png")
    result = vsf("again", *arguments)
    assert result.exit_code == code and message in " ".join(result.stderr.split()), result.output


@pytest.mark.parametrize("method", ["nag", "nasa"])
def test_an_alpha_of_another_method_is_told_the_right_name(here: Path, method: str) -> None:
    said = f"--alpha is VSF's, but the method is {method}: pass --{method}-alpha, or pass --method vsf"
    made = (*BIKE, "--neg", "wheels", "--steps", "2", "--method", method)
    assert vsf(*made, "-o", "x.png").exit_code == 0
    for words in ((*made, "--alpha", "2"), ("again", "x.png", "--alpha", "2")):
        result = vsf(*words)
        assert result.exit_code == 6 and said in " ".join(result.stderr.split()), result.output
    assert vsf("again", "x.png", f"--{method}-alpha", "0.5", "--dry-run").exit_code == 0


def test_several_seeds_formats_and_sidecars(here: Path) -> None:
    found = vsf(*BIKE, "--seed", "1,2", "-n", "wheels", "--format", "webp", "-o", "out/", "--sidecar", "--json", "--steps", "2")
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["out/a-red-bike-on-a-road-1.webp", "out/a-red-bike-on-a-road-2.webp"]
    sidecar = json.loads((here / "out" / "a-red-bike-on-a-road-1.webp.json").read_text())
    assert sidecar["request"]["seed"] == 1 and sidecar["applied"]["tokens"] == 5


def test_a_range_makes_a_picture_for_each_choice(here: Path) -> None:
    result = vsf(*BIKE[:2], "--neg", "wheels", "--seed", "1,2", "--alpha", "0..4/3", "--steps", "2,3", "--dry-run", "--json")
    requests = [json.loads(line) for line in result.stdout.splitlines()]
    choices = [(one["parameters"]["alpha"], one["num_inference_steps"], one["seed"]) for one in requests]
    assert choices == [(alpha, steps, seed) for alpha in (0, 2, 4) for steps in (2, 3) for seed in (1, 2)]

    result = vsf(*BIKE, "--neg", "wheels", "--alpha", "1:2:0.5", "--steps", "2")
    names = [f"outputs/a-red-bike-on-a-road-1-alpha{alpha}.png" for alpha in ("1", "1.5", "2")]
    assert result.stdout.split() == names and len({(here / name).read_bytes() for name in names}) == 3


def test_words_in_the_place_of_others_make_a_picture_each(here: Path) -> None:
    options = "--neg", "wheels:2", "--sr", "wheels=>basket,flag", "--sr", "Red=>blue,green", "--seed", "1"
    found = vsf(*BIKE[:2], *options, "--alpha", "1,2", "--dry-run", "--json")
    requests = [json.loads(line) for line in found.stdout.splitlines()]
    choices = [(one["negative"], one["prompt"], one["parameters"]["alpha"]) for one in requests]
    bikes = [f"a {colour} bike on a road" for colour in ("blue", "green")]
    assert choices == [([f"{part}:2"], bike, alpha) for part in ("basket", "flag") for bike in bikes for alpha in (1, 2)]

    found = vsf(*BIKE[:2], "--neg", "wheels", "--sr", "wheels=>basket,flag", "--seed", "1", "--steps", "2", "--no-metadata")
    assert found.stdout.split() == [f"outputs/a-red-bike-on-a-road-1-{part}.png" for part in ("basket", "flag")]
    assert "'basket'" in found.stderr and "'flag'" in found.stderr
    assert len({(here / name).read_bytes() for name in found.stdout.split()}) == 2

    missing = vsf(*BIKE[:2], "--neg", "wheels", "--sr", "roof=>door")
    assert missing.exit_code == 6 and "'roof' of --sr is in none of its texts" in missing.stderr
    assert vsf(*BIKE[:2], "--sr", "roof").exit_code == 2
    assert vsf(*BIKE[:2], "--neg", "wheels", "--sr", "wheels=>flag", "--compare", "none,vsf").exit_code == 6


def test_a_command_leaves_logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    # The handlers of the tests would keep `--verbose` from adding one.
    monkeypatch.setattr(logging.root, "handlers", [])
    log, hub = diffusers.utils.logging, logging.getLogger("huggingface_hub")
    before = logging.root.level, hub.level, log.get_verbosity(), log.is_progress_bar_enabled()
    for talk in ("--verbose", "--quiet", "--verbose"):
        assert vsf(*BIKE, "--steps", "2", "-o", "x.png", talk).exit_code == 0
        assert not logging.root.handlers
        after = logging.root.level, hub.level, log.get_verbosity(), log.is_progress_bar_enabled()
        assert after == before


def test_bytes_go_to_stdout() -> None:
    found = vsf(*BIKE, "-o", "-", "--steps", "2")
    assert found.exit_code == 0 and found.stdout_bytes.startswith(b"\x89PNG") and found.stdout_bytes.endswith(b"IEND\xaeB`\x82")


def test_what_exists_is_skipped() -> None:
    assert vsf(*BIKE, "-o", "x.png", "--steps", "2").exit_code == 0
    before = Path("x.png").stat().st_mtime_ns
    found = vsf(*BIKE, "-o", "x.png", "--steps", "2", "--exists", "skip")
    assert found.exit_code == 0 and "seed 1 · skipped" in found.stderr and Path("x.png").stat().st_mtime_ns == before
    assert found.output.count("x.png") == 1
    assert vsf(*BIKE, "-o", "x.png", "--steps", "2", "--exists", "error").exit_code == 1


def test_info_reads_back_what_was_written() -> None:
    vsf(*BIKE, "--neg", "wheels", "-o", "x.jpg", "--steps", "2")
    assert json.loads(vsf("info", "x.jpg", "--json").stdout)["vsf"]["request"]["negative"] == ["wheels"]
    first, everything = (vsf("info", "x.jpg", *more).stdout for more in ((), ("-v",)))
    lines = [line.split(maxsplit=1) for line in first.splitlines()]
    assert [name for name, _ in lines[:6]] == ["prompt", "negative", "seed", "method", "alpha", "beta"]
    assert [value for _, value in lines[:5]] == ["a red bike on a road", "wheels", "1", "vsf", "2.5"]
    told = dict(line.split(maxsplit=1) for line in everything.splitlines())
    assert (told["steps"], told["size"], told["stop"], told["scheduler"]) == (
        "2",
        "96x96",
        "0.5",
        "FlowMatchEulerDiscreteScheduler",
    )
    assert not told.keys() & {"num_inference_steps", "parameters", "applied", "width", "num_frames", "fps", "shift", "loras"}
    assert not {"None", "[]", "{}", "null"} & {*told.values()}
    assert everything.startswith(first) and "torch" in everything and "torch" not in first and "sha256" not in first
    vsf(*BIKE, "-o", "y.png", "--steps", "2", "--no-metadata")
    assert vsf("info", "y.png").exit_code == 1 and vsf("info", "nope.png").exit_code == 6


@pytest.mark.parametrize(("argument", "given"), [("-", "a red bike\n"), ("@prompt.txt", None)])
def test_the_prompt_is_read_from_stdin_or_a_file(argument: str, given: str | None) -> None:
    Path("prompt.txt").write_text("a red bike\n")
    found = vsf("image", argument, "--dry-run", "--json", input=given)
    assert json.loads(found.stdout)["prompt"] == "a red bike"


def test_a_dry_run_makes_nothing(here: Path) -> None:
    found = vsf(*BIKE, "--seed", "1..3", "--dry-run")
    assert found.exit_code == 0 and "3 images" in found.stderr and not (here / "outputs").exists()


def test_a_dry_run_says_what_would_be_made(here: Path) -> None:
    (here / "x-1.png").touch()
    (here / "photo.png").write_bytes(PHOTO)
    options = ["--neg", "wheels", "--keep", "bells", "--alpha", "2", "--image", "photo.png", "--strength", "0.5"]
    first, second = vsf(*BIKE[:2], *options, "--seed", "1,2", "-o", "x.png", "--dry-run").stdout.splitlines()
    method = "VSF alpha=2 beta=0.5 stop=0.5"
    made = f"negative 'wheels' · keep 'bells' · {method} · 96x96 · 4 of 8 steps · builtin:tiny-sd3-turbo"
    assert (first, second) == (f"seed 1 · {made} · to x-1-2.png", f"seed 2 · {made} · to x-2.png")
    skipped = vsf(*BIKE, "-o", "x-1.png", "--exists", "skip", "--dry-run").stdout
    assert skipped == "seed 1 · no negative prompt · 96x96 · 8 steps · builtin:tiny-sd3-turbo · x-1.png exists, skipped\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [*BIKE, "--steps", "many"],
        [*BIKE, "--seed", "one"],
        [*BIKE, "--size", "big"],
        [*BIKE, "--alpha", "strong"],
        [*BIKE, "--no-such-option"],
        ["image"],
        ["no-such-command"],
    ],
)
def test_what_cannot_be_parsed_is_2(arguments: list[str]) -> None:
    assert vsf(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0x64"], "width is 0"),
        (["--size", "97x96"], "multiple of 8"),
        (["--width", "96"], "--width is given without --height"),
        (["--alpha", "nan"], "alpha is nan"),
        (["--alpha", "-1"], "alpha is -1"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "1"], "needs at least 2"),
        (["--preset", "tiny"], "'tiny' does not exist"),
        (["--method", "vfs"], "must be one of none, vsf, nasa, nag, ong, angular, wef, cfg"),
        (["--method", "none", "--alpha", "3"], "--alpha is VSF's"),
        (["--method", "none", "--no-special-tokens"], "--special-tokens is VSF's"),
        (["--neg", "wheels", "--guidance", "5"], "for models that run without CFG"),
        (["--neg", "wheels", "--method", "cfg"], "cannot use the negative prompt with --guidance 0"),
        (["--neg", "no wheels"], "write --neg 'wheels'"),
        (["--lora", "nope:a:b:c"], "not of the form"),
        (["--neg", "wheel"], "Did you mean 'wheels'"),
        (["--exists", "maybe"], "--exists is 'maybe'"),
        (["-o", "{nope}.png"], "{nope}"),
        (["-o", "x.bmp"], "ends on .bmp"),
        (["-o", "-", "--seed", "1,2"], "takes one file"),
        (["-o", "-", "--neg", "wheels", "--alpha", "1,2"], "takes one file"),
        (["-o", "-", "--neg", "wheels", "--compare", "none,vsf", "--seed", "2,3"], "takes one file, but 2 are asked for"),
        (["--neg", "wheels", "--start", "0.6"], "stop is from preset tiny-sd3-turbo: pass --stop, too"),
        (["--neg", "wheels", "--start", "0.45"], "stop is from preset tiny-sd3-turbo: pass --stop, too"),
        (["--neg", "wheels", "--start", "0.6", "--stop", "0.5"], "but start must be less than stop\n"),
        (["--alpha", "1..100", "--beta", "1..100", "--seed", "1..2"], "more than 10000 images"),
        (["--alpha", "1,-1"], "alpha is -1"),
        (["--dtype", "int8"], "--dtype is 'int8'"),
        (["--device", "cuda:99"], "--device is 'cuda:99'"),
        (["--offload", "disk"], "--offload is 'disk'"),
        (["--lora", "x.bin"], "pickled"),
        (["--seeds", "0"], "seeds is 0, but must be 1 to 10000"),
    ],
)
def test_what_is_not_legal_is_6_and_one_line(arguments: list[str], message: str) -> None:
    found = vsf(*BIKE, *arguments)
    assert found.exit_code == 6 and message in found.stderr, found.output
    assert found.stderr.strip().count("error:") == 1 and "Traceback" not in found.output and found.stdout == ""
    assert not Path("outputs").exists()


def test_a_prompt_of_unknown_words_is_6_and_names_the_real_preset() -> None:
    found = vsf("image", "quantum foam")
    assert found.exit_code == 6 and "--preset sd3.5-large-turbo" in found.stderr


def test_an_unknown_word_is_a_warning() -> None:
    found = vsf("image", "a shiny red bike", "--steps", "2", "-q")
    assert found.exit_code == 0 and "shiny" in found.stderr


def test_a_typo_in_a_preset_is_6() -> None:
    Path("mine.toml").write_text('family = "sd3"\nmodel = "builtin:tiny-sd3-turbo"\n[method]\nalhpa = 3\n')
    found = vsf(*BIKE, "--preset", "mine.toml")
    assert found.exit_code == 6 and "Did you mean 'method.alpha'" in found.stderr


def test_a_folder_that_is_not_there_is_4() -> None:
    found = vsf(*BIKE, "-m", "/no/such/folder")
    assert found.exit_code == 4 and found.stderr.count("error:") == 1 and "Traceback" not in found.output


def test_a_folder_that_cannot_be_written_is_1() -> None:
    Path("file").write_text("")
    found = vsf(*BIKE, "-o", "file/x.png", "--steps", "2")
    assert found.exit_code == 1 and "cannot be written" in found.stderr


def test_a_negative_that_is_not_used_is_said() -> None:
    found = vsf(*BIKE, "--neg", "wheels", "--method", "none", "--steps", "2", "-q", "-o", "x.png")
    assert found.exit_code == 0 and "'wheels' is not used" in found.stderr
    description = read_metadata(Path("x.png")).description
    assert description is not None and description["request"]["method"] == "none"


def test_tiling_is_part_of_what_a_picture_says_and_of_making_it_again() -> None:
    assert vsf(*BIKE, "--vae-tiling", "--steps", "2", "-q", "-o", "x.png").exit_code == 0
    description = read_metadata(Path("x.png")).description
    assert description is not None and description["request"]["vae_tiling"] is True
    found = vsf("again", "x.png", "--no-vae-tiling", "--dry-run")
    assert found.exit_code == 0 and "vae_tiling: True -> False" in found.stderr


def test_memory_that_does_not_suffice_is_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OutOfMemory("full")

    monkeypatch.setattr("vsf_cli.generation.choosing.generate", fail)
    found = vsf(*BIKE)
    assert found.exit_code == 5 and "--dtype bfloat16, --vae-tiling, or a smaller --size" in found.stderr


def test_an_interrupt_is_130_and_leaves_no_half_file(here: Path) -> None:
    with running_vsf(*BIKE, "--seed", "1..5000", "-o", "out/") as running:
        first = running.stdout.readline().strip()
        running.send_signal(signal.SIGINT)
        rest, messages = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 130 and "interrupted" in messages and "Traceback" not in messages
    paths = [first, *rest.split()]
    assert sorted(path.name for path in (here / "out").iterdir()) == sorted(Path(path).name for path in paths)
    for path in paths:
        assert opened(here / path).size == (96, 96)


NO_SOCKETS = """
import socket, sys
def refuse(*arguments, **options):
    print("a socket was opened", file=sys.stderr)
    raise OSError
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from vsf_cli.cli.app import app
app()
"""


def test_a_model_that_is_not_cached_is_4_offline_and_opens_no_socket() -> None:
    found = process(*BIKE, "-m", "owner/not-cached", "--offline", code=NO_SOCKETS)
    assert found.returncode == 4 and found.stderr.count("error:") == 1, found.stderr
    assert "Traceback" not in found.stderr and "a socket was opened" not in found.stderr


def test_the_embedded_model_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert vsf(*BIKE, "--steps", "2").exit_code == 0


LISTED = "import sys; from vsf_cli.cli.app import app\ntry: app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"


@pytest.mark.parametrize(
    "arguments",
    [
        ["presets", "list"],
        ["presets", "show", "tiny-sd3"],
        [*BIKE, "--dry-run"],
        ["--version"],
    ],
)
def test_what_needs_no_model_imports_no_torch(arguments: list[str]) -> None:
    found = process(*arguments, code=LISTED)
    assert found.returncode == 0 and found.stderr.strip().endswith("False"), found.stderr


HELP = """
import sys
from vsf_cli.cli.app import app
for command in sys.argv[1:]:
    assert app([*command.split(), "--help"], standalone_mode=False) == 0
print("torch" in sys.modules, file=sys.stderr)
"""


def commands(group: Any, start: str = "") -> list[str]:
    """The commands and groups below a group, such as `presets` and `presets list`."""
    if not hasattr(group, "list_commands"):
        return []
    context = group.context_class(group)
    # By `get_command`, since a group loads its commands when they are used.
    below = {f"{start} {name}".strip(): group.get_command(context, name) for name in group.list_commands(context)}
    return [*below, *(name for start, command in below.items() for name in commands(command, start))]


COMMANDS = commands(get_command(app))


@pytest.mark.parametrize("columns", [40, 80])
def test_help_can_be_copied_and_is_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert {"image", "eval sweep", "presets use"} <= {*COMMANDS}
    for command in ["", *COMMANDS]:
        lines = vsf(*command.split(), "--help").stdout.splitlines()
        assert lines == [line.rstrip() for line in lines], command
        assert not [line for line in lines if len(line) > columns], "a terminal would break them anywhere"
        below = [after.strip() for before, after in pairwise(lines) if before.endswith("-")]
        assert not below, "a word is broken at its hyphen"
    assert "nag-original, nag++," in vsf("image", "--help").stdout
    for group in ("eval", "presets"):
        assert "..." not in vsf(group, "--help").stdout.replace("[ARGS]...", ""), "no text is cut"


def test_help_names_what_differs_between_commands() -> None:
    texts = {name: " ".join(vsf(name, "--help").stdout.split()) for name in ("batch", "bench", "image", "video")}
    assert (
        "[default: from the prompt]" in texts["batch"]
        and "Seed of the noise; -1 draws one. [default: random]" in texts["image"]
    )
    assert "env: VSF_VIDEO_PRESET]" in texts["video"] and "env: VSF_PRESET]" in texts["image"]
    assert "vsf-masked, cfg. [default: all]" in texts["bench"], "it is an option of its own, not that of a request"


def test_help_names_all_that_can_be_chosen() -> None:
    from vsf_cli.bench.methods import bench_methods
    from vsf_cli.evaluation.prompts import BUILT_IN

    assert f"all, or some, joined by commas: {', '.join(bench_methods())}." in " ".join(vsf("bench", "--help").stdout.split())
    assert f"Prompt set: {', '.join(BUILT_IN)} " in " ".join(vsf("eval", "run", "--help").stdout.split())


def test_help_of_again_names_the_defaults_of_the_file() -> None:
    text = " ".join(vsf("again", "--help").stdout.split())
    assert (
        "--alpha, --scale NUMBER VSF's strength; auto: the least that a judge is content with. [0 or more; default: the file's]"
        in text
    )
    assert "--seed SEED Seed of the noise; -1 draws one. [default: the file's]" in text
    assert "by preset" not in text and "--preset" not in text and "VSF_ALPHA" not in text and "NUMBERS" not in text
    assert vsf("again", "x.png", "--preset", "tiny-sd3").exit_code == 6


def test_help_of_every_command_imports_no_torch() -> None:
    found = process("", *COMMANDS, code=HELP)
    assert found.returncode == 0 and found.stderr.strip().endswith("False"), found.stderr
    assert found.stdout.count("Usage: ") == len(COMMANDS) + 1


IMPORTED = """
import sys
from vsf_cli.cli.app import app
try:
    app()
finally:
    print(*sys.modules, file=sys.stderr)
"""
LIGHT = {"PIL", "annotated_doc", "click", "platformdirs", "rich", "shellingham", "tomli", "typer", "vsf_cli"}


@pytest.mark.parametrize("arguments", ["--help", "presets list", "info x.png", "batch table.csv --dry-run"])
def test_what_loads_no_model_imports_little(arguments: str) -> None:
    """Imports are nearly all that these commands spend; their number is the same on a slow or a busy machine."""
    Image.new("RGB", (8, 8)).save("x.png")
    Path("table.csv").write_text("prompt,negative\na red bike,wheels\n", "utf-8")
    modules = process(*arguments.split(), code=IMPORTED).stderr.splitlines()[-1].split()
    assert "vsf_cli.cli.app" in modules and len(modules) < (200 if arguments == "--help" else 400)
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - LIGHT
    # Hooks of an environment have names with an underscore, and compiled libraries helpers with a hash in theirs.
    assert not {name for name in packages if not name.startswith("_") and not name.endswith("__mypyc")}


def test_info_of_a_picture_imports_no_torch() -> None:
    Image.new("RGB", (8, 8)).save("x.png")
    found = process("info", "x.png", code=LISTED)
    assert found.returncode == 1 and found.stderr.strip().endswith("False")


def test_a_batch_that_is_only_planned_imports_no_torch() -> None:
    Path("table.csv").write_text("prompt,negative,alpha\na red bike,wheels,1..3/3\n", "utf-8")
    found = process("batch", "table.csv", "--dry-run", "--json", code=LISTED)
    assert found.returncode == 0 and found.stderr.strip().endswith("False"), found.stderr
    assert json.loads(found.stdout)["items"] == 3


def test_doctor_reports_this_machine() -> None:
    report = json.loads(vsf("doctor", "--json").stdout)
    assert "torch" in report["versions"] and "cpu-flash" in report["attention"] and report["needs"].startswith("nothing")
    told = vsf("doctor", "--preset", "sd3.5-large-turbo").stdout
    assert "27.4 GB" in told and "a GPU with 32 GB or offloading" in told
    assert "flash attention on the CPU" in told and [*available_paths()] == [*KERNELS]


def test_doctor_names_a_package_that_a_preset_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (None, Mock()):
        monkeypatch.setattr("vsf_cli.cli.doctor.find_spec", lambda package, here=here: here)
        told = vsf("doctor", "--preset", "qwen-image-edit-lightning").stdout
        assert ('torchvision: pip install "vsf-cli[edit]"; about 58.0 GB' in told) == (here is None)


def test_the_first_download_is_announced() -> None:
    found = vsf(*BIKE, "--preset", "sd3.5-large-turbo", "--dry-run")
    assert "27.4 GB" in found.stderr and "Community License" in found.stderr


def test_presets_are_listed_shown_and_chosen(here: Path) -> None:
    assert "* tiny-sd3-turbo" in vsf("presets", "list").stdout
    assert vsf("presets", "use", "sd3.5-large-turbo").exit_code == 0
    assert "* sd3.5-large-turbo" in vsf("presets", "list").stdout
    assert vsf("presets", "use", "tiny-wan").exit_code == 0
    listed = vsf("presets", "list").stdout.splitlines()
    assert [line.split()[1] for line in listed if line.startswith("*")] == ["sd3.5-large-turbo", "tiny-wan"]
    used = [one["name"] for one in json.loads(vsf("presets", "list", "--json").stdout) if one["used"]]
    assert used == ["sd3.5-large-turbo", "tiny-wan"]
    assert "from preset sd3.5-large-turbo" in vsf("presets", "where", "steps").stdout
    lines = [line.split() for line in vsf("presets", "show", "sd3.5-large-turbo").stdout.splitlines()]
    assert all(
        line[-2:] == ["(preset", "sd3.5-large-turbo)"] or line[-1] in ("(default)", "(option)", "file)") for line in lines
    ), lines
    assert [line[1:4] for line in lines if line[0] in ("family", "download")] == [
        ["sd3", "(preset", "sd3.5-large-turbo)"],
        ["about", "27.4", "GB"],
    ]
    shown = json.loads(vsf("presets", "show", "tiny-sd3-turbo", "--json").stdout)
    assert shown["settings"]["steps"] == {"value": 8, "origin": "preset tiny-sd3-turbo"}


def test_a_preset_of_a_file_is_listed_where_it_is_in_use() -> None:
    Path("mine.toml").write_text('about = "my own"\nfamily = "sd3"\nmodel = "builtin:tiny-sd3-turbo"\n')
    assert vsf("presets", "use", "mine.toml").exit_code == 0
    starred = [line.split(maxsplit=2) for line in vsf("presets", "list").stdout.splitlines() if line.startswith("*")]
    assert next(words[1:] for words in starred) == [str(Path("mine.toml").resolve()), "my own"] and len(starred) == 2


def test_a_chosen_preset_is_taken_back(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "config" / "vsf").mkdir(parents=True)
    (here / "config" / "vsf" / "config.toml").write_text("steps = 3\n")
    assert "there is nothing to take back" in vsf("presets", "reset").stderr
    for name in ("sd3.5-large-turbo", "tiny-wan"):
        assert "'vsf presets reset' takes it back" in said(vsf("presets", "use", name))
    assert "the built-in models are the default again" in vsf("presets", "reset").stderr
    assert (here / "config" / "vsf" / "config.toml").read_text() == "steps = 3\n"
    assert "* tiny-sd3-turbo" in vsf("presets", "list").stdout
    monkeypatch.setenv("VSF_PRESET", "tiny-sd3")
    found = vsf("presets", "use", "sd3.5-large-turbo")
    assert found.exit_code == 0 and "it has no effect yet: preset tiny-sd3 is from environment" in said(found)


def test_data_reach_stdout_even_with_a_bar_on_the_terminal(here: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    with running_vsf(*BIKE, "--steps", "2", "-o", "x.png", stderr=theirs, TERM="xterm") as running:
        os.close(theirs)
        reader = threading.Thread(target=drain, args=(ours,))
        reader.start()
        data, _ = running.communicate(timeout=TIMEOUT)
    reader.join()
    assert data == "x.png\n"


def drain(descriptor: int) -> None:
    """Reads what a process says on a terminal until it ends."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass
    os.close(descriptor)


def test_a_hint_is_given_once(here: Path) -> None:
    found = vsf("image", "a house", "--seed", "1,2", "-n", "no wheels", "--preset", "sd3.5-large-turbo", "--dry-run")
    assert found.stderr.count("write --neg 'wheels'") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "vsf_cli" / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_commands_are_short_and_their_files_too(path: Path) -> None:
    source = path.read_text("utf-8")
    assert source.count("\n") < 350
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and (node.decorator_list or path.name == "app.py"):
            assert node.end_lineno is not None and node.end_lineno - node.body[0].lineno < 20, node.name


MAP = ["attn-map", "a red bike on a road", "--seed", "1"]


def test_maps_of_a_picture_that_was_made_before(here: Path) -> None:
    from vsf_cli.maps.data import load

    found = vsf(*BIKE, "--neg", "wheels", "--steps", "2", "-o", "x.png", "--dump-attn", "-q")
    assert found.exit_code == 0, found.output
    beside = {path.name for path in (here / "x-attn").iterdir()}
    assert beside >= {"index.html", "grid.png", "words.png", "curves.png", "maps.npz", "summary.json", "picture.png"}

    found = vsf("attn-map", "x.png", "-o", "again", "--blocks", "1,2", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["path"] == "again" and "negative 'wheels' · VSF alpha=2.5" in found.stderr
    assert opened(here / "again" / "picture.png").tobytes() == opened(here / "x.png").tobytes()
    first, again = load("x-attn"), load("again")
    assert again.blocks == (1, 2) and (again.share == first.share[:, :2]).all()
    assert (
        first.settings["request"]["prompt"] == "a red bike on a road"
        and str(here) not in (here / "again/summary.json").read_text()
    )


def test_maps_that_are_interrupted_say_what_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vsf_cli.maps import plots

    monkeypatch.setattr(plots, "words", Mock(side_effect=KeyboardInterrupt))
    found = vsf(*BIKE, "--neg", "wheels", "--steps", "2", "-o", "x.png", "--dump-attn")
    assert found.exit_code == 130 and (here / "x.png").exists()
    assert "finished files are kept; written before: x.png, x-attn/picture.png, " in " ".join(found.stderr.split())


def test_maps_of_a_prompt(here: Path) -> None:
    found = vsf(*MAP, "--neg", "wheels", "--num-inference-steps", "2", "--tokens", "wheels", "--method", "none")
    assert found.exit_code == 0, found.output
    assert found.stdout == "outputs/a-red-bike-on-a-road-1-attn/index.html\n"
    assert not (here / "outputs/a-red-bike-on-a-road-1-attn/no-guidance.png").exists(), "it is the picture itself"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*MAP], 6, "there is none: add --neg"),
        (
            [*MAP, "--neg", "wheels", "--tokens", "hat"],
            6,
            "--tokens names 'hat', but the prompts have a, red, bike, on, road, wheels",
        ),
        ([*MAP, "--neg", "wheels", "--steps", "9"], 6, "--steps has 9, but there are steps 1 to 8"),
        ([*MAP, "--neg", "wheels", "--steps", "1,6"], 6, "--steps has 6, but guided steps are 1 to 4; --stop 1 guides all"),
        ([*MAP, "--neg", "wheels", "--method", "none", "--guidance", "4"], 6, "--guidance is 4, but maps are of one"),
        ([*MAP, "--neg", "wheels", "--blocks", "0"], 6, "--blocks has 0, but there are blocks 1 to 6"),
        ([*MAP, "--neg", "wheels", "--heads", "7"], 6, "--heads has 7, but there are heads 1 to 6"),
        ([*MAP, "--neg", "wheels", "--heads", "x"], 2, "'x' is no head"),
        ([*MAP, "--neg", "wheels", "--seed", "1,2"], 6, "vsf attn-map makes one image"),
        ([*MAP, "--neg", "wheels", "--preset", "tiny-sd3", "--method", "cfg"], 6, "cfg acts outside of attention"),
        ([*MAP, "--neg", "wheels", "--method", "wef"], 6, "wef acts outside of attention"),
        (["attn-map", "plain.png"], 1, "plain.png does not say how vsf made it"),
        (["attn-map", "nowhere.png"], 6, "nowhere.png: there is no such file"),
        (["attn-map", "a red bike " * 30], 6, "there is none: add --neg"),
        (["attn-map", "empty.json"], 6, "the request has no 'prompt', and so is not one that vsf wrote"),
        (["attn-map", "wrong.json"], 6, "wrong.json: prompt is '5', but must be a text"),
        (["attn-map", "made.png", "--alpha", "2"], 6, "brings its own settings: leave --alpha out"),
        (["attn-map", "made.png"], 6, "there is none: add --neg"),
        ([*BIKE, "--dump-attn"], 6, "there is none: add --neg"),
        ([*BIKE, "--neg", "wheels", "--dump-attn", "-o", "-"], 6, "leave --dump-attn out"),
    ],
)
def test_what_has_no_maps_is_one_line(here: Path, arguments: list[str], code: int, message: str) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    Path("empty.json").write_text('{"schema": 1, "request": {}, "versions": {}}')
    Path("wrong.json").write_text('{"schema": 1, "request": {"prompt": 5, "model": "x", "seed": 1}, "versions": {}}')
    if "made.png" in arguments:
        assert vsf(*BIKE, "--steps", "2", "-o", "made.png").exit_code == 0
    found = vsf(*arguments)
    assert found.exit_code == code and message in found.stderr.replace("\n", " "), found.output
    assert "Traceback" not in found.output and found.stdout == "" and not Path("outputs").exists()
