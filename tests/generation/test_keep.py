"""What must stay: `--keep` from the command line to the attention."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from tests.conftest import random_pipeline
from tests.processes import ROOT
from vsf_cli import VSF, NoGuidance, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import NAG
from vsf_cli.prompts.prompt_weights import Weighted
from vsf_cli.settings.request import Request

CLOCK = ("a blue clock on a road", "--neg", "hands", "--seed", "1", "--steps", "2")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vsf(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def pixels(path: str) -> bytes:
    return Image.open(path).tobytes()


def test_what_is_kept_changes_the_image_and_is_in_its_metadata() -> None:
    done = vsf("image", *CLOCK, "--keep", "bells, legs", "-o", "kept.png")
    assert done.exit_code == 0, done.output
    assert "negative 'hands' · keep 'bells, legs' · VSF alpha=2.5" in done.stderr and "5 + 4 tokens" in done.stderr
    vsf("image", *CLOCK, "-o", "plain.png")
    vsf("image", *CLOCK, "--keep", "bells", "--keep", "legs", "-o", "twice.png")
    assert pixels("kept.png") != pixels("plain.png") and pixels("kept.png") == pixels("twice.png")
    told = [line.split(maxsplit=1) for line in vsf("info", "kept.png").stdout.splitlines()]
    assert [name for name, _ in told[:4]] == ["prompt", "negative", "keep", "seed"]
    info = json.loads(vsf("info", "kept.png", "--json").stdout)
    assert info["vsf"]["request"]["keep"] == ["bells, legs"] and info["vsf"]["request"]["parameters"]["contrast"] == 0.7
    assert 'Keep: "bells, legs"' in Image.open("kept.png").info["parameters"]


def test_it_is_made_again_and_overridden() -> None:
    vsf("image", *CLOCK, "--keep", "bells, legs", "-o", "a.png")
    assert "everything is as when it was made" in vsf("again", "a.png", "-o", "b.png").stderr
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    changed = vsf("again", "a.png", "--keep", "legs", "-o", "c.png")
    assert "keep: bells, legs -> legs" in changed.stderr and pixels("c.png") != pixels("a.png")


def test_a_preset_keeps_words_of_no_meaning(tmp_path: Path) -> None:
    preset = tmp_path / "own.toml"
    shipped = (ROOT / "presets" / "tiny-sd3-turbo.toml").read_text("utf-8")
    preset.write_text(f'keep_neutral = "door, hands, pot"\n{shipped}', "utf-8")
    neutral = (*CLOCK, "--preset", str(preset))
    done = vsf("image", *neutral, "-o", "a.png")
    assert done.exit_code == 0 and "keep 'door, pot'" in done.stderr, "not hands, which is the negative prompt"
    vsf("image", *CLOCK, "--keep", "door, pot", "-o", "b.png")
    assert pixels("a.png") == pixels("b.png")
    vsf("image", *CLOCK, "-o", "plain.png")
    assert vsf("image", *neutral, "--contrast", "0", "-o", "c.png").exit_code == 0
    assert pixels("c.png") == pixels("plain.png") != pixels("a.png")
    assert "keep 'bells'" in vsf("image", *neutral, "--keep", "bells", "-o", "d.png").stderr
    # Where nothing can be kept, or nothing is unwanted, they are left out.
    for more in (("--method", "nag"), ("--no-attention-mask",), ("--neg", "")):
        done = vsf("image", *neutral, *more, "-o", "e.png", "--exists", "overwrite")
        assert done.exit_code == 0 and ("keep" not in done.stderr or more[0] == "--neg"), done.output
    assert vsf("image", "a blue clock", "--preset", str(preset), "--seed", "1", "--steps", "2", "-o", "f.png").exit_code == 0


def test_without_contrast_it_is_plain_vsf_to_the_bit() -> None:
    done = vsf("image", *CLOCK, "--keep", "bells", "--contrast", "0,1", "-o", "{contrast}.png")
    assert done.exit_code == 0, done.output
    vsf("image", *CLOCK, "-o", "plain.png")
    assert pixels("0.png") == pixels("plain.png") != pixels("1.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a red bike", "--keep", "bells"), "--keep is for a negative prompt, and there is none: add --neg"),
        ((*CLOCK, "--keep", "bells", "--method", "nag"), "NAG scale=4 tau=2.5 alpha=0.125 has no use for --keep"),
        ((*CLOCK, "--keep", "bells", "--no-attention-mask"), "has no use for --keep: leave it out, or leave its ablations out"),
        ((*CLOCK, "--keep", "belz"), "kept 'belz' has words that this model does not know: belz. Did you mean 'bells'?"),
        ((*CLOCK, "--keep", "bells", "--compare", "none,nag"), "--keep is for VSF, which is not compared"),
        ((*CLOCK, "--contrast", "0.5"), "--contrast is for what --keep names, and it names nothing"),
        ((*CLOCK, "--keep", "bells", "--contrast", "1.5"), "contrast is 1.5, but must be 0 to 1"),
    ],
)
def test_what_would_have_no_effect_is_refused(arguments: tuple[str, ...], message: str) -> None:
    done = vsf("image", *arguments)
    assert done.exit_code == 6 and message in done.stderr and not list(Path().iterdir())


def test_methods_without_a_kept_side_are_compared_as_they_are() -> None:
    assert vsf("image", *CLOCK, "--keep", "bells", "--compare", "none,nag,vsf", "-o", "a.png").exit_code == 0
    compared = json.loads(vsf("info", "a.png", "--json").stdout)["vsf"]["compared"]
    assert [one["request"]["keep"] for one in compared] == [[], [], ["bells"]]


def test_a_table_has_a_column_for_it_and_words_are_replaced() -> None:
    Path("t.csv").write_text('prompt,negative,keep\na blue clock,hands,"bells, legs"\na red bike,wheels,\n', "utf-8")
    done = vsf("batch", "t.csv", "--seed", "1", "--steps", "2", "--sr", "bells=>legs,bells", "--sr", "bike=>bike", "--dry-run")
    assert done.exit_code == 0 and "'bells' of --sr is not in the texts of 1 row" in done.stderr
    Path("t.csv").write_text("prompt,negative,keep\na blue clock,hands,bells\n", "utf-8")
    done = vsf("batch", "t.csv", "--seed", "1", "--steps", "2", "--sr", "bells=>legs,bells", "-o", "out")
    assert done.exit_code == 0, done.output
    with (Path("out") / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert [row["bells=>"] for row in csv.DictReader(file)] == ["legs", "bells"]
    first, second = sorted(Path("out").glob("*.png"))
    assert pixels(str(first)) != pixels(str(second))


def test_a_request_is_written_and_read_with_it() -> None:
    request = Request("a clock", "builtin:tiny-sd3-turbo", 1, ("hands",), ("bells:2, (big:0.5) legs",))
    assert Request.from_json(request.to_json()) == request
    assert request.kept == (Weighted("bells", 2.0), Weighted("big legs", 1.0, ((0, 3, 0.5),)))


def test_a_batch_of_kept_prompts_equals_each_alone() -> None:
    pipe = random_pipeline("sd3")
    rows = [("a hat", ["bells", "red legs"]), ("wheels", []), ("", []), ("glasses", [Weighted("doors", 0.5)])]

    def run(negative: list[str], keep: list[list[str | Weighted]], seeds: list[int]) -> torch.Tensor:
        with guided(pipe, negative, VSF(3.0, 0.3), keep=keep):
            noise = [torch.Generator().manual_seed(seed) for seed in seeds]
            prompts = ["a bike"] * len(seeds)
            return pipe(
                prompts, num_inference_steps=2, guidance_scale=0, height=64, width=64, generator=noise, output_type="latent"
            ).images

    together = run([negative for negative, _ in rows], [list(keep) for _, keep in rows], [0, 1, 2, 3])
    for seed, (negative, keep) in enumerate(rows[:2] + rows[3:]):
        seed = (0, 1, 3)[seed]
        torch.testing.assert_close(run([negative], [list(keep)], [seed])[0], together[seed], atol=1e-9, rtol=0)


def test_the_library_says_what_it_cannot_use() -> None:
    pipe = random_pipeline("sd3")
    with pytest.raises(RequestError, match="keep says what must stay"), guided(pipe, "", keep="bells"):
        pass
    with pytest.raises(RequestError, match=r"NAG .* has no use for what is to be kept"), guided(pipe, "hands", NAG(), keep="a"):
        pass
    embeds = torch.zeros(1, 2, 128)
    with pytest.raises(RequestError, match="give one of keep and keep_embeds"), guided(pipe, "a", keep="b", keep_embeds=embeds):
        pass
    with (
        pytest.raises(PatchError, match="alone encodes no text"),
        guided(pipe.transformer, negative_prompt_embeds=embeds, keep="bells"),
    ):
        pass
    with guided(pipe, "hands", NoGuidance(), keep="bells") as applied:
        assert applied.blocks == 0
    with guided(pipe, "hands", keep=["bells", "legs"]) as applied:
        assert len(applied.tokens) == 1 and len(applied.kept_tokens) == 2
