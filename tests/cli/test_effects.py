"""What was given and has no effect is refused or said, in every command; and what cannot be parsed is one line, too."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from vsf_cli.cli.app import app
from vsf_cli.cli.console import Console
from vsf_cli.cli.plans import say_offload
from vsf_cli.config.option import NEGATIVE, VIDEO, idle, options_of
from vsf_cli.errors import PresetError
from vsf_cli.loading.runtime import Runtime
from vsf_cli.methods import METHODS
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import load_preset
from vsf_cli.settings.request import Request

BIKE = ["image", "a red bike on a road", "--dry-run"]
CAR = ["video", "a red car", "--dry-run"]
NEG = ["--neg", "wheels"]
TABLES = {
    "plain.csv": "prompt,neg\na red bike,wheels\na person on grass,umbrella\n",
    "own.csv": "prompt,neg,keep,seed,alpha,size\na red bike,wheels,bells,1,2,96x96\na person,hat,glasses,2,3,96x96\n",
    "unguided.csv": "prompt\na red bike\na red car\n",
    "mixed.csv": "prompt,neg,alpha\na red bike,wheels,\na red car,,\na red cake,,2\n",
    "some.csv": "prompt,neg,seed,alpha\na red bike,wheels,,\na red car,wheels,4,2\n",
    "videos.csv": "prompt,neg,preset\na red bike,wheels,\na red car,wheels,tiny-wan-causvid\n",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in TABLES.items():
        Path(name).write_text(text, "utf-8")
    return tmp_path


def vsf(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(words), **options)


def said(found: Result) -> str:
    return " ".join(found.stderr.split())


def test_what_is_said_has_effect() -> None:
    assert " beta=" in vsf(*BIKE, *NEG, "--dry-run").stdout
    assert " beta=" not in vsf(*BIKE, *NEG, "--no-attention-mask", "--dry-run").stdout


NO_NEGATIVE = "is for a negative prompt, and there is none: add --neg"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BIKE, "--alpha", "3"], f"--alpha {NO_NEGATIVE}, or leave --alpha out"),
        ([*BIKE, "--beta", "0..1/3"], f"--beta {NO_NEGATIVE}"),
        ([*BIKE, "--method", "nag"], f"--method {NO_NEGATIVE}"),
        ([*BIKE, "--no-special-tokens"], f"--special-tokens {NO_NEGATIVE}"),
        ([*BIKE, "--neg", " ", "--stop", "0.4"], f"--stop {NO_NEGATIVE}"),
        ([*CAR, "--alpha", "3"], f"--alpha {NO_NEGATIVE}"),
        ([*BIKE, *NEG, "--contrast", "0.5"], "--contrast is for what --keep names"),
        ([*BIKE, *NEG, "--no-attention-mask", "--beta", "1"], "--beta is for VSF with its mask: leave --no-attention-mask out"),
        ([*BIKE, *NEG, "--guidance", "0.5"], "--guidance is 0.5, and turns no CFG on"),
        ([*BIKE, "-o", "-", "--json"], "leave --json out"),
        ([*BIKE, "-o", "-", "--exists", "skip"], "leave --exists out"),
        ([*BIKE, *NEG, "--compare", "none,vsf", "-o", "-", "--json"], "leave --json out"),
        ([*BIKE, *NEG, "--compare", "none,vsf", "--guidance", "4"], "--guidance is CFG's, which is not compared"),
        ([*CAR, *NEG, "--compare", "none,vsf", "--crf", "20"], "leave --crf out"),
        ([*CAR, *NEG, "--compare", "none,vsf", "--fps", "4"], "leave --fps out"),
        ([*BIKE, "-q", "-v"], "leave --quiet out"),
        ([*BIKE, "--sr", "red=>blue", "--sr", "red=>pink"], "'red' of --sr is in none of its texts"),
        (["batch", "own.csv", "--seed", "1,2,3"], "own.csv: --seed has no effect where each row has its own"),
        (["batch", "own.csv", "--neg", "hat"], "--neg has no effect where each row has its own"),
        (["batch", "own.csv", "--alpha", "1..3"], "--alpha has no effect where each row has its own"),
        (["batch", "own.csv", "--keep", "bells"], "--keep has no effect where each row has its own"),
        (["batch", "own.csv", "--size", "64x64"], "--size has no effect where each row has its own"),
        (["batch", "plain.csv", "--fps", "4"], "--fps is for videos, and none is made"),
        (["batch", "plain.csv", "--frames", "5"], "--frames is for videos"),
        (["batch", "plain.csv", "--shift", "3"], "--shift is for videos"),
        (["batch", "plain.csv", "--crf", "20"], "--crf is for mp4 and webm"),
        (["batch", "unguided.csv", "--alpha", "3"], f"--alpha {NO_NEGATIVE}"),
        (["batch", "unguided.csv", "--method", "nasa"], f"--method {NO_NEGATIVE}"),
        (["batch", "plain.csv", "--contrast", "0.5"], "--contrast is for what --keep names"),
        (["batch", "plain.csv", "--ray-address", "localhost"], "--ray-address is for --engine ray: add it"),
        (["batch", "plain.csv", "--fail-fast", "--max-failures", "3"], "--max-failures is for more failures than the first"),
        (["batch", "plain.csv", "--max-failures", "0"], "max_failures is 0, but must be at least 1"),
        (["batch", "plain.csv", "--workers", "0", "--dry-run"], "workers is 0, but must be at least 1"),
        (["eval", "sweep", "scenes-dev", "--trials", "0"], "trials is 0, but must be at least 1"),
        (["bench", "--layers", "2"], "--layers is for --random-weights and --count"),
        (["bench", "--negative-tokens", "2"], "--negative-tokens is for --random-weights and --count"),
        (["bench", "--count", "--rounds", "5"], "--rounds is for times, and --count takes none"),
        (["bench", "--count", "--frames", "5"], "--frames is for videos, and none is made"),
        (["eval", "run", "scenes-dev", "--method", "cfg", "--steps", "2"], "--steps has no effect where each row has its own"),
        (["attn-map", "a red bike", *NEG, "-v", "-q"], "leave --quiet out"),
        (["again", "made.json", "--alpha", "2"], f"--alpha {NO_NEGATIVE}"),
        (["again", "made.json", "--method", "nag"], f"--method {NO_NEGATIVE}"),
        (["again", "made.json", "--strength", "0.4"], "--strength is for --image, and there is none"),
        (["again", "made.json", "-o", "-", "--json"], "leave --json out"),
    ],
)
def test_what_has_no_effect_is_refused(here: Path, arguments: list[str], message: str) -> None:
    request = Request(prompt="a red bike", model="builtin:tiny-sd3-turbo", seed=1).to_json()
    Path("made.json").write_text(json.dumps({"schema": 1, "request": request, "versions": {}}))
    found = vsf(*arguments)
    assert found.exit_code == 6 and message in said(found), found.output
    assert found.stderr.count("error:") == 1 and found.stdout == "" and not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BIKE, "--neg", ""], "--neg is empty, and has no effect"),
        ([*BIKE, *NEG, "--neg", " "], "--neg is empty, and has no effect"),
        ([*BIKE, *NEG, "--keep", ""], "--keep is empty, and has no effect"),
        (["batch", "unguided.csv", "--neg", "", "--dry-run"], "--neg is empty, and has no effect"),
        (["batch", "mixed.csv", "--alpha", "3", "--dry-run"], f"--alpha {NO_NEGATIVE}, or leave --alpha out (2 images)"),
        (["batch", "videos.csv", "--fps", "4", "--dry-run"], "--fps is for videos, and none is made"),
        (
            ["batch", "plain.csv", "--batch-size", "4", "--dump-attn", "--dry-run"],
            "--batch-size has no effect with --dump-attn",
        ),
        (["batch", "plain.csv", "--seed", "random", "--dry-run"], "--seed random has no effect: rows without a seed have one"),
        (
            ["batch", "some.csv", "--seed", "1,2,3", "--dry-run"],
            "--seed does not count for 1 row with a value of its own",
        ),
        (
            ["batch", "some.csv", "--alpha", "1..3", "--dry-run"],
            "--alpha does not count for 1 row with a value of its own",
        ),
        (["batch", "plain.csv", "--sr", "wheels=>door", "--dry-run"], "'wheels' of --sr is not in the texts of 1 row"),
        ([*BIKE, *NEG, "--beta", "inf"], "beta inf is no guidance: the negative prompt has no effect"),
        ([*BIKE, *NEG, "--blend", "0"], "blend 0 is no guidance"),
        ([*BIKE, *NEG, "--method", "nag", "--nag-alpha", "0"], "nag_alpha 0 is no guidance"),
        (
            ["batch", "plain.csv", "--method", "nasa", "--nasa-alpha", "0", "--dry-run"],
            "no guidance: the negative prompt has no",
        ),
        ([*CAR, "--format", "frames", "--fps", "4"], "--fps is noted in the metadata alone: frames are images"),
        (
            ["batch", "unguided.csv", "--preset", "tiny-wan-causvid", "--format", "frames", "--fps", "4", "--dry-run"],
            "--fps is noted in the metadata alone",
        ),
        ([*BIKE, "--seed", "1", "-s", "2"], "--seed is given 2 times: the last one counts"),
        ([*BIKE, "--steps", "2", "--num-inference-steps", "3"], "--steps is given 2 times: the last one counts"),
        ([*BIKE, "--metadata", "--no-metadata"], "--metadata is given 2 times: the last one counts"),
        (["presets", "list", "--json", "--json"], "--json is given 2 times"),
    ],
)
def test_what_has_no_effect_here_is_said(arguments: list[str], message: str) -> None:
    found = vsf(*arguments)
    assert found.exit_code == 0 and message in said(found) and "error:" not in found.stderr, found.output


@pytest.mark.parametrize(
    "arguments",
    [
        [*BIKE, *NEG, "--alpha", "3"],
        [*BIKE, *NEG, "--neg", "basket"],
        [*BIKE, "--method", "none"],
        [*BIKE, "--preset", "tiny-sd3", "--method", "cfg", "--guidance", "4"],
        [*BIKE, *NEG, "--keep", "bells", "--contrast", "0.5"],
        [*BIKE, *NEG, "--compare", "none,nag", "--nag-scale", "3"],
        [*CAR, *NEG, "--compare", "none,vsf", "--fps", "4", "--seconds", "1"],
        [*CAR, "--format", "frames", "--fps", "5", "--seconds", "1"],
        ["batch", "mixed.csv", "--neg", "hat", "--seed", "1,2", "--dry-run"],
        ["batch", "plain.csv", "--alpha", "1..3", "--dry-run"],
        ["batch", "some.csv", "--alpha", "3", "--seed", "5", "--dry-run"],
        ["batch", "unguided.csv", "--neg", "hat", "--sr", "hat=>bow,wheels", "--dry-run"],
    ],
)
def test_what_has_an_effect_passes_in_silence(arguments: list[str]) -> None:
    found = vsf(*arguments)
    assert found.exit_code == 0 and "warning:" not in found.stderr, found.output


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VSF_STESP", "3", "VSF_STESP has no effect: it is no setting. Did you mean 'VSF_STEPS'?"),
        ("VSF_SEED", "3", "VSF_SEED has no effect: it is no setting. Pass --seed instead"),
        ("VSF_NEGATIVE", "hat", "Pass --neg instead"),
        ("VSF_NEG", "hat", "VSF_NEG has no effect: it is no setting. Pass --neg instead"),
        ("VSF_LORA", "x", "Pass --lora instead"),
        ("VSF_CFG", "3", "Did you mean 'VSF_GUIDANCE'?"),
        ("VSF_STRENGTH", "0.5", "Pass --strength instead"),
        ("VSF_ALPHA", "3", f"VSF_ALPHA has no effect: --alpha {NO_NEGATIVE}"),
        ("VSF_NAG_SCALE", "3", "VSF_NAG_SCALE has no effect: it is NAG's, and the method is vsf"),
    ],
)
def test_variables_without_effect_are_said(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    for arguments in (BIKE, ["batch", "unguided.csv", "--dry-run"]):
        found = vsf(*arguments)
        assert found.exit_code == 0 and message in said(found), found.output


def test_no_variable_is_said_to_be_an_option_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSF_MAX_SEQUENCE_LENGTH", "5")
    found = said(vsf(*BIKE))
    assert "VSF_MAX_SEQUENCE_LENGTH has no effect" in found and "--max-sequence-length" not in found


def test_variables_of_settings_pass_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VSF_STEPS": "3", "VSF_FPS": "4", "VSF_EXISTS": "skip", "VSF_ALHPA": ""}.items():
        monkeypatch.setenv(name, value)
    assert "warning:" not in vsf(*BIKE).stderr
    monkeypatch.setenv("VSF_X", "1")
    assert "VSF_X has no effect" in vsf("presets", "list").stderr


def test_values_of_the_users_file_without_effect_are_details(here: Path) -> None:
    (here / "config" / "vsf").mkdir(parents=True)
    (here / "config" / "vsf" / "config.toml").write_text("alpha = 3\nnag_scale = 2\n")
    assert "no effect" not in vsf(*BIKE).stderr
    told = said(vsf(*BIKE, "-v"))
    assert f"alpha of the user file has no effect: --alpha {NO_NEGATIVE}" in told
    assert "nag_scale of the user file has no effect: it is NAG's" in told
    (here / "config" / "vsf" / "config.toml").write_text('preset = "tiny-sd3"\nmodel = "owner/name"\n')
    told = "model owner/name of the user file has no effect beside preset tiny-sd3"
    assert told in said(vsf(*BIKE)) and told in said(vsf("batch", "plain.csv", "--dry-run"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_frames = 9", "'num_frames' is for videos, but family sd3 makes images"),
        ("fps = 9", "'fps' is for videos"),
        ("[method]\nattention_mask = false\nbeta = 1", "'method.beta' has no effect: --beta is for VSF with its mask"),
        ('keep_neutral = "a, b"\n[method]\nname = "nag"', "'keep_neutral' is for VSF"),
        ("[method]\nalpha = -1", "mine.toml: alpha is -1"),
    ],
)
def test_keys_of_a_preset_without_effect_are_refused(line: str, message: str) -> None:
    Path("mine.toml").write_text(f'family = "sd3"\nmodel = "builtin:tiny-sd3-turbo"\n{line}\n')
    with pytest.raises(PresetError, match=message.replace(".", r"\.")):
        load_preset("mine.toml")


def test_what_an_option_needs_is_in_its_field() -> None:
    """So that the options of a new method, and new options for videos, are among those that are refused."""
    assert all(NEGATIVE in one.needs for method in METHODS.values() for one in method.options())
    assert all((VIDEO in one.needs) == one.video for one in SETTINGS.values())
    (keep,) = (one for one in options_of(Request) if one.field == "keep")
    assert [one.field for one, _ in idle([keep], Request(prompt="a bike", model="m", seed=1))] == ["keep"]
    assert not list(idle([keep], Request(prompt="a bike", model="m", seed=1, negative=("wheels",))))


@pytest.mark.parametrize(("offload", "told"), [("model", True), ("sequential", True), ("none", False), ("auto", False)])
def test_offloading_on_a_cpu_is_said(offload: str, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    say_offload(Runtime("cpu", offload), Console(quiet=True))
    assert (f"--offload {offload} has no effect: the model runs on the CPU" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imag"], "vsf has no command 'imag'. Did you mean 'image'? See 'vsf --help'"),
        (["presets", "sho"], "vsf presets has no command 'sho'. Did you mean 'show'? See 'vsf presets --help'"),
        (["--nope"], "vsf has no option --nope; see 'vsf --help'"),
        (["image"], "PROMPT is missing; see 'vsf image --help'"),
        (["image", "a", "red", "bike"], "'red bike' is too much: a text with spaces stands in quotes"),
        (["info", "a.mp4", "b.mp4"], "'b.mp4' is too much: vsf info takes one FILE; see 'vsf info --help'"),
        (["presets", "list", "x"], "'x' is too much: vsf presets list takes options alone"),
        ([*BIKE, "--width", "64,96"], "--width: '64,96' is not a whole number"),
        ([*BIKE, "--neg"], "--neg has no value; see 'vsf image --help'"),
        ([*BIKE, "--alhpa", "3"], "vsf image has no option --alhpa. Did you mean '--alpha'?"),
        ([*BIKE, "--cfg", "3"], "Did you mean '--guidance'?"),
        ([*BIKE, "--guidance_scale", "3"], "Did you mean '--guidance'?"),
        ([*BIKE, "--negative_prompts", "hat"], "Did you mean '--neg'?"),
        ([*BIKE, "--frames", "3"], "It is for 'vsf video' and 'vsf batch'"),
        ([*BIKE, "--seed"], "--seed has no value"),
        ([*BIKE, "-o", ""], "--output: it is empty: give a value, or leave it out; see 'vsf image --help'"),
        ([*BIKE, "--lora", "x.safetensors", "--lora", ""], "--lora: it is empty"),
        (["batch", "plain.csv", "-o", ""], "--output: it is empty"),
        ([*BIKE, "--seed", "x"], "--seed: 'x' is no seed: write 7"),
        ([*BIKE, "--steps", "many"], "--steps: 'many' is no number: write 3"),
        (["eval", "run", "scenes", "--seeds", "0"], "--seeds: 0 is not 1 to 10000; see 'vsf eval run --help'"),
        (["bench", "--rounds", "x"], "--rounds: 'x' is not a whole number; see 'vsf bench --help'"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_like_all_errors(arguments: list[str], message: str) -> None:
    found = vsf(*arguments)
    assert found.exit_code == 2 and message in found.stderr and found.stdout == "", found.output
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_help_without_a_command_is_no_error_line() -> None:
    assert vsf("presets").stderr.startswith("Usage: ") and "error:" not in vsf().stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BIKE, *NEG, "--method", "NAG"], "Did you mean 'nag'?"),
        ([*BIKE, "--dtype", "bf16"], "Did you mean 'bfloat16'?"),
        ([*BIKE, "--format", "jpg"], "Did you mean 'jpeg'?"),
        ([*BIKE, "-o", "{slog}.png"], "--output has {slog}, which is no field. Did you mean 'slug'?"),
        ([*BIKE, "-o", "{zebra}.png"], "which is no field. Fields: slug, words, date"),
        ([*BIKE, "--preset", "sd35"], "Did you mean 'sd3.5-large'? 'vsf presets list' has all of them"),
        (["presets", "use", "zebra"], "preset 'zebra' does not exist. 'vsf presets list' has all of them"),
        (["presets", "where", "alfa"], "setting 'alfa' does not exist. Did you mean 'alpha'?"),
        (["presets", "where", "zebra"], "setting 'zebra' does not exist. Settings: model, image, "),
        ([*BIKE, "--neg", "blurry"], "VSF removes things, not flaws: 'blurry' as a negative"),
        (["batch", "plain.csv", "--engine", "Ray", "--dry-run"], "Did you mean 'ray'?"),
        (["bench", "--method", "VSF"], "Did you mean 'vsf'?"),
        (["eval", "run", "scenes", "--method", "NASA"], "Did you mean 'nasa'?"),
    ],
)
def test_the_nearest_value_is_named(arguments: list[str], message: str) -> None:
    found = vsf(*arguments)
    assert found.exit_code == 6 and message in said(found), found.output


def test_what_is_not_kept_after_all_is_said() -> None:
    told = "'Wheels' is in --neg and in --keep, so that little of it goes"
    assert told in said(vsf(*BIKE, "--neg", "Wheels", "--keep", "bells", "--keep", "wheels"))
    assert told in said(vsf(*BIKE, "--neg", "Wheels", "--keep", "bells, wheels"))
    Path("kept.csv").write_text("prompt,neg,keep\na red bike,Wheels,wheels\n", "utf-8")
    assert told in said(vsf("batch", "kept.csv", "--dry-run"))


def test_syntax_of_others_is_no_unknown_word() -> None:
    told = said(vsf("image", "a shiny (car:1.5) <lora:x:0.8>", "--dry-run"))
    assert "does not know shiny, and takes no notice" in told
    assert told.index("give LoRA files by --lora") < told.index("does not know") < told.index("this model knows")


def test_words_of_the_vocabulary_are_told_once() -> None:
    Path("words.csv").write_text("prompt\na shiny bike\na rusty car\na huge cake\n", "utf-8")
    found = said(vsf("batch", "words.csv", "--dry-run"))
    assert found.count("umbrella") == 1 and "rusty" in found and found.count("takes no notice") == 3
    assert " a, an, and," not in found and found.count("--preset sd3.5-large-turbo") == 1
    Path("words.csv").write_text("prompt,neg\na bike,wheel\na car,roofs\n", "utf-8")
    found = said(vsf("batch", "words.csv", "--dry-run"))
    assert found.count("umbrella") == 1 and "Did you mean 'wheels'?" in found and "Did you mean 'roof'?" in found
    Path("words.csv").write_text("prompt,neg,seed\na bike,,x\na bike,wheel,1\n", "utf-8")
    first, second, advice = vsf("batch", "words.csv", "--dry-run").stderr.splitlines()
    assert first.startswith("error: ") and first.endswith("1:9:2") and second.endswith("Did you mean 'wheels'?")
    assert advice.startswith("this model knows apples, ")
    assert said(vsf("image", "a shiny bike", "--neg", "wheel")).count("umbrella") == 1


def test_one_is_not_several(here: Path) -> None:
    told = said(vsf(*BIKE))
    assert "1 image to" in told and "picture" not in told
    Path("one.csv").write_text("prompt\na red bike\n", "utf-8")
    assert "1 row, 1 image to" in vsf("batch", "one.csv", "--dry-run").stdout
    assert "1 row, 2 videos to" in vsf("batch", "one.csv", "--preset", "tiny-wan", "--seed", "1,2", "--dry-run").stdout
    assert "2 rows, 2 files to" in vsf("batch", "videos.csv", "--dry-run").stdout
    assert "no negative prompt" in vsf(*BIKE).stdout


def test_padding_that_cannot_be_folded_is_refused_before_a_download() -> None:
    arguments = ["video", "a", "--preset", "ltx2.3-distilled", "--neg", "b", "--fold-padding", "--dry-run"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 6 and "--fold-padding is for Wan alone" in found.stderr, found.output
