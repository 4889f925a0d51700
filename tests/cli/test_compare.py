"""`--compare`: one strip, each picture as its method alone makes it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.cli.test_video import folder  # noqa: F401
from vsf_cli.cli.app import app
from vsf_cli.media.montage import LINE_HEIGHT, MARGIN
from vsf_cli.media.reading import read_metadata


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


BIKE = ("image", "a red bike on a road", "--neg", "wheels", "--seed", "7", "--steps", "2")


def test_a_strip_holds_what_each_method_makes_alone() -> None:
    done = run(*BIKE, "--compare", "none,nag++,vsf", "--alpha", "2", "-o", "strip.png")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert all(
        words in said for words in ("negative 'wheels' · NAG", "VSF alpha=2", "seed 7 · 96x96 · 2 steps · none ", " s · VSF ")
    )
    for name, options in (("none", ()), ("nag++", ()), ("vsf", ("--alpha", "2"))):
        assert run(*BIKE, "--method", name, *options, "-o", f"{name}.png").exit_code == 0
    strip = Image.open("strip.png")
    cell = 2 * 96 + MARGIN
    assert strip.size == (3 * cell + MARGIN, 2 * 96 + LINE_HEIGHT + 2 * MARGIN)
    for number, name in enumerate(("none", "nag++", "vsf")):
        box = (MARGIN + number * cell, MARGIN, MARGIN + number * cell + 192, MARGIN + 192)
        wanted = Image.open(f"{name}.png").resize((192, 192), Image.Resampling.BICUBIC)
        assert strip.crop(box).tobytes() == wanted.tobytes()
    found = read_metadata(Path("strip.png")).description
    assert found is not None
    asked = [one["request"] for one in found["compared"]]
    assert [one["method"] for one in asked] == ["none", "nag", "vsf"] and {one["seed"] for one in asked} == {7}
    assert asked[2]["parameters"]["alpha"] == 2 and asked[1]["parameters"]["scale"] == 11
    for more in ((), ("-v",)):
        told = run("info", "strip.png", *more).stdout
        assert "strip of             none, nag scale=11 " in told and ", vsf alpha=2 beta=0.5 stop=0.5\n" in told
        assert "\nmethod " not in told and "\nalpha " not in told and ("steps " in told) == bool(more)


def test_methods_that_keep_nothing_are_named() -> None:
    done = run(*BIKE, "--keep", "basket", "--compare", "none,nag,vsf", "-o", "strip.png")
    assert done.exit_code == 0 and "--keep has no effect on none, NAG: it is for VSF" in " ".join(done.stderr.split())


def test_every_seed_has_a_strip_of_its_own() -> None:
    done = run(*BIKE[:4], "--steps", "2", "--seed", "1,2", "--compare", "none,vsf")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [f"outputs/a-red-bike-on-a-road-{seed}-compare.png" for seed in (1, 2)]


def test_clips_stand_below_each_other(folder: Path) -> None:  # noqa: F811
    words = ("video", "a red bike", "--neg", "wheels", "-m", str(folder), "--steps", "2", "--size", "32x32", "--frames", "9")
    done = run(*words, "--seed", "1", "--dtype", "float32", "--compare", "none,nasa,vsf", "-o", "strip.png")
    assert done.exit_code == 0, done.output
    lines = 9  # Of the labels, in all rows.
    assert Image.open("strip.png").size == (5 * (64 + MARGIN) + MARGIN, 3 * (64 + MARGIN) + lines * LINE_HEIGHT + MARGIN)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--compare", "vsf"), "name two methods or more"),
        (("--compare", "vsf,vsf"), "name two methods or more"),
        (("--compare", "vsf,nagg"), "--compare is 'nagg', but must be one of"),
        (("--compare", "none,vsf", "--nag-scale", "3"), "--nag-scale is NAG's, which is not compared"),
        (("--compare", "none,vsf", "--alpha", "1,2"), "--alpha names 2: give one"),
        (("--compare", "none,vsf", "--dump-attn"), "leave --dump-attn out\n"),
        (("--compare", "none,vsf", "--method", "vsf"), "leave --method out"),
        (("--compare", "none,vsf", "--sidecar"), "leave --sidecar out"),
        (("--compare", "none,vsf", "--neg", ""), "there is none: add --neg"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words: tuple[str, ...], said: str) -> None:
    base = BIKE[:2] if "--neg" in words else BIKE
    done = run(*base, *words)
    assert done.exit_code == 6 and said in done.stderr
    assert not Path("outputs").exists()


def test_cfg_has_the_scale_alone_where_the_model_has_no_such_input() -> None:
    words = ("--preset", "tiny-flux-schnell", "--steps", "1", "--compare", "none,cfg,vsf", "--guidance", "2", "-o", "strip.png")
    done = run(*BIKE[:4], *words)
    assert done.exit_code == 0, done.output
    compared = read_metadata(Path("strip.png")).description["compared"]
    assert [one["request"]["guidance_scale"] for one in compared] == [0.0, 2.0, 0.0]


def test_a_dry_run_says_what_would_be_on_each_strip() -> None:
    done = run(*BIKE, "--seed", "7,8", "--compare", "none,vsf", "--keep", "bells", "--dry-run")
    none, vsf = done.stdout.splitlines()
    assert none == "negative 'wheels' · none · 96x96 · 2 steps · builtin:tiny-sd3-turbo"
    assert vsf.startswith("negative 'wheels' · keep 'bells' · VSF alpha=2.5 ")
    assert "with seed 8 · to outputs/a-red-bike-on-a-road-8-compare.png" in done.stderr


def test_strips_of_the_same_seed_have_names_of_their_own() -> None:
    done = run(*BIKE, "--seed", "7,7", "--compare", "none,vsf", "--dry-run")
    assert "compare-7.png" not in done.stderr and "-7-compare.png" in done.stderr and "-7-compare-2.png" in done.stderr


def test_a_strip_is_not_made_again_as_a_picture() -> None:
    assert run(*BIKE, "--compare", "none,vsf", "-o", "strip.png").exit_code == 0
    done = run("again", "strip.png")
    assert done.exit_code == 6 and "pass its prompt and --compare to vsf image" in " ".join(done.stderr.split())
