"""`--alpha auto`, `--best-of` and `--keep auto` on the command line: what is said, written and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import vsf_cli.cli.plans as plans
import vsf_cli.generation.choosing as choosing
from tests.drawn import AnyPipe
from tests.judged import Maker, Seer, from_two_on
from vsf_cli.cli.app import app
from vsf_cli.media.reading import read_metadata

BIKE = ("a red bike on a road", "--neg", "wheels", "--seed", "7")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vsf(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def said(*words: str, code: int = 0) -> str:
    return " ".join(vsf(*words, code=code).stderr.split())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Maker:
    maker = Maker()
    monkeypatch.setattr(choosing, "generate_batch", maker)
    monkeypatch.setattr(choosing, "generate", lambda pipe, request, *_: maker(pipe, [request])[0])
    monkeypatch.setattr(plans, "load_for", lambda *_: AnyPipe())
    return maker


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Seer:
    seer = Seer(from_two_on, shown=("bell",))
    monkeypatch.setattr(choosing, "judge_of", lambda *_: seer)
    return seer


def test_the_chosen_image_says_how_it_was_found(made: Maker, judge: Seer) -> None:
    result = vsf("image", *BIKE, "--alpha", "auto:1,2,4", "--keep-all", "--sidecar", "--json", "-o", "a.png")
    assert "the judge seer chose alpha 2: at 2 · 2 candidates, 2 runs" in " ".join(result.stderr.split())
    facts = json.loads(result.stdout)
    assert facts["choice"]["chosen"] == 2 and facts["request"]["parameters"]["alpha"] == 2
    assert read_metadata(Path("a.png")).description == {
        key: value for key, value in facts.items() if key not in ("path", "seconds")
    }
    assert Path("a.png-tried.png").exists() and json.loads(Path("a.png.json").read_text())["choice"] == facts["choice"]
    told = " ".join(vsf("info", "a.png", "-v").stdout.split())
    assert "choice" not in vsf("info", "a.png").stdout and "2 of 2 by seer, which is content with it" in told
    assert "alpha 1.0, contrast 0.7, method vsf, seed 7: at 1; alpha 2.0, contrast 0.7, method vsf, seed 7: at 2" in told
    asked = len(judge.asked)
    assert "everything is as when it was made" in said("again", "a.png", "-o", "b.png")
    assert len(judge.asked) == asked and Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert "chose alpha 4" in said("again", "b.png", "--alpha", "auto:1,4", "-o", "c.png")


def test_strengths_and_judges_are_those_of_the_preset(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = vsf("image", *BIKE, "--alpha", "auto", "--dry-run", "--json")
    request = json.loads(shown.stdout)
    assert request["judge"] == "scenes" and request["strengths"]
    monkeypatch.setenv("VSF_ALPHA", "auto:2")
    assert json.loads(vsf("image", *BIKE, "--dry-run", "--json").stdout)["strengths"] == "2"
    assert "strengths" not in json.loads(vsf("image", *BIKE, "--alpha", "3", "--dry-run", "--json").stdout)
    assert "strengths" not in json.loads(vsf("image", "a red bike", "--seed", "1", "--dry-run", "--json").stdout)
    line = vsf("image", *BIKE, "--best-of", "3", "--dry-run").stdout
    assert "the judge scenes chooses alpha 2 and 3 seeds" in line
    assert not made.passes


def test_a_strip_replaces_no_file(made: Maker, judge: Seer) -> None:
    Path("a.png-tried.png").write_text("mine")
    vsf("image", *BIKE, "--alpha", "auto:1,2", "--keep-all", "--exists", "error", "-o", "a.png")
    assert Path("a.png-tried.png").read_text() == "mine" and Path("a.png-tried-2.png").exists()


def test_a_file_is_chosen_anew(made: Maker, judge: Seer) -> None:
    vsf("image", *BIKE, "--alpha", "auto:1,2", "-o", "a.png")
    assert "keep 'bell'" in said("again", "a.png", "--keep", "auto", "-o", "b.png")
    vsf("image", *BIKE, "--method", "nag", "-o", "n.png")
    assert "--alpha is VSF's" in said("again", "n.png", "--alpha", "auto", code=6)
    assert "best_of is 0" in said("image", *BIKE, "--best-of", "0", code=6)
    assert "leave --best-of out" in said("image", *BIKE, "--compare", "none,vsf", "--best-of", "2", code=6)
    contrast = "--alpha", "auto:1@0.5,none", "--keep", "flag", "--contrast", "0.3"
    assert "--contrast has no effect" in said("image", *BIKE, *contrast, code=6)


def test_strict_is_an_exit_code_and_the_file_is_there(made: Maker, judge: Seer) -> None:
    found = said("image", *BIKE, "--alpha", "auto:1", "--strict", "-o", "a.png", code=3)
    assert "content with none of 1 candidate" in found and "--strict is given" in found and Path("a.png").exists()
    assert "content with none" in said("image", *BIKE, "--alpha", "auto:1", "-o", "b.png")
    assert not said("image", *BIKE, "--alpha", "auto:2", "--strict", "-q", "-o", "c.png")


def test_what_is_seen_is_kept_and_seeds_are_tried(made: Maker, judge: Seer) -> None:
    found = said("image", *BIKE, "--alpha", "auto:1,2", "--keep", "auto", "--best-of", "2", "-o", "a.png")
    assert "keep 'bell'" in found and "chose alpha 2, seed 7" in found and "3 runs" in found
    assert read_metadata(Path("a.png")).description["request"]["keep"] == ["bell"]  # type: ignore[index]


def test_a_strip_has_what_was_chosen(made: Maker, judge: Seer) -> None:
    found = said("image", *BIKE, "--compare", "none,vsf", "--alpha", "auto:1,2", "-o", "strip.png")
    assert "chose alpha 2" in found
    compared = read_metadata(Path("strip.png")).description["compared"]  # type: ignore[index]
    assert ["choice" in one for one in compared] == [False, True]


def test_a_choice_that_suits_nobody_is_said_once(made: Maker, judge: Seer) -> None:
    for words in (("image", *BIKE, "--compare", "none,vsf"), ("image", *BIKE)):
        found = said(*words, "--alpha", "auto:1")
        assert found.count("content with none of 1 candidate") == 1 and "seer chose" not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--alpha", "auto", "--method", "nag"), "--alpha is VSF's"),
        (("--judge", "scenes"), "--judge is for a choice between images"),
        (("--strict",), "--strict is for a choice between images"),
        (("--keep-all",), "--keep-all is for a choice between images"),
        (("--alpha", "auto", "--judge", "nobody"), "--judge is 'nobody'"),
        (("--alpha", "auto", "--judge-threshold", "0.4"), "judge scenes takes no threshold"),
        (("--alpha", "auto", "--judge", "mllm"), "mllm needs"),
        (
            (
                "--alpha",
                "auto:2@0.9",
            ),
            "has contrasts, which need what --keep names",
        ),
        (("--keep", "auto", "--judge", "clip"), "cannot say what an image shows"),
        (("--keep", "auto, flag"), "stands alone"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(
    words: tuple[str, ...], message: str, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert message in said("image", *BIKE, *words, code=6) and not made.passes


def test_auto_needs_something_unwanted_and_strengths_are_numbers() -> None:
    assert "--alpha is for a negative prompt" in said("image", "a red bike", "--alpha", "auto", code=6)
    assert "is no strength" in said("image", *BIKE, "--alpha", "auto:x", code=2)
    assert "judge scenes knows" in said("image", "a red bike", "--neg", "sun", "--alpha", "auto", code=6)


def test_the_real_judge_finds_a_bike_without_wheels() -> None:
    """With all parts as they are shipped; and with its maps."""
    found = said("image", *BIKE, "--alpha", "auto:3", "--keep", "auto", "--steps", "4", "--dump-attn", "-o", "a.png")
    assert "alpha 3: bike, wheels absent" in found and Path("a-attn/index.html").exists()
    made: Any = np.asarray(Image.open("a.png"))
    vsf("again", "a.png", "-o", "b.png")
    assert (np.asarray(Image.open("b.png")) == made).all()
