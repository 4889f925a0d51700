"""Sidecars that were edited by hand, folders, and files that are made again: what is wrong is named by file and field."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner, Result

from tests.media.drawn_requests import IMAGE, describe_request
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Request
from vsf_cli.generation.plan import differences, plan_again
from vsf_cli.loading.loras import hashes_of
from vsf_cli.media.formats import write_image
from vsf_cli.media.frames import write_frames
from vsf_cli.media.metadata import infotext
from vsf_cli.settings.options import NOTHING, Given

REQUEST = Request("a red bike", "builtin:tiny-sd3-turbo", 1, ("wheels",), num_inference_steps=2, width=32, height=32)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(fields: dict[str, Any] | None = None, **facts: Any) -> Path:
    """A sidecar with other values of its request, and other facts."""
    plain = describe_request(REQUEST)
    path = Path("x.json")
    path.write_text(json.dumps({**plain, "request": {**plain["request"], **(fields or {})}, **facts}), "utf-8")
    return path


def vsf(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_changed_file_is_named_as_in_a_sweep() -> None:
    names = {"alpha": 2.0, "model": "builtin:tiny-sd3-turbo"}
    for given, name in (({}, ""), (names, "-alpha2"), ({"method": "nag"}, "-methodnag"), ({**names, "output": "y.png"}, None)):
        plan = plan_again(written(), Given(given), override=True)
        assert str(plan.path(plan.requests[0], 1)) == ("y.png" if name is None else f"outputs/a-red-bike-1{name}.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "tiny-sd3"), "with its own settings: leave --preset out"),
        (("--alpha", "1,2,3"), "makes one file, but --alpha names 3: give one"),
        (("--seed", "1,2"), "makes one file, but --seed names 2: give one"),
    ],
)
def test_several_files_and_other_presets_are_refused_by_what_was_given(options: tuple[str, str], message: str) -> None:
    found = vsf("again", str(written()), *options)
    assert found.exit_code == 6 and message in found.stderr and "Traceback" not in found.output


def test_a_sidecar_as_it_was_written_is_read() -> None:
    (request,) = plan_again(written(), NOTHING).requests
    assert request.to_json() == describe_request(request)["request"] and request.guidance == REQUEST.guidance
    Path("x.JSON").write_bytes(b"\xef\xbb\xbf" + Path("x.json").read_bytes())
    assert vsf("info", "x.JSON").exit_code == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"negative": "wheels"}, "negative is 'wheels', but must be a list of texts"),
        ({"keep": "bells"}, "keep is 'bells', but must be a list of texts"),
        ({"negative": [["wheels"]]}, "negative is \"[['wheels']]\", but must be a list of texts"),
        ({"loras": [3]}, "loras is '[3]', but must be a list of texts"),
        ({"seed": "1"}, "seed is '1', but must be a whole number"),
        ({"seed": True}, "seed is 'True', but must be a whole number"),
        ({"seed": None}, "seed is 'None', but must be a whole number"),
        ({"prompt": ["a bike"]}, "prompt is"),
        ({"width": 32.5}, "width is '32.5', but must be a whole number"),
        ({"method": ["vsf"]}, "method is"),
        ({"parameters": []}, "parameters is '[]', but must be a table"),
        ({"parameters": {"alpha": "strong"}}, "alpha is 'strong', but must be a number"),
        ({"parameters": {"alpha": [3]}}, "alpha is '[3]', but must be a number"),
        ({"parameters": {"guided_blocks": [1]}}, "guided_blocks is '[1]', but must be a text"),
        ({"parameters": {"alhpa": 3}}, "has no 'alhpa'"),
        ({"sigmas": [[1.0]]}, "sigmas is"),
        ({"flow_shift": {}}, "flow_shift is '{}', but must be a number"),
        ({"stepz": 3}, "unknown keys: stepz"),
        ({"model": " "}, "the model is empty"),
        ({"width": None}, "width is None and height 32: give both, or neither"),
        ({"dtype": "bf16"}, "--dtype is 'bf16', but must be one of"),
        ({"scheduler": "Euler"}, "scheduler is 'Euler', but must be one of"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_file(request_: dict[str, Any], message: str) -> None:
    for words in (("again", "x.json", "--dry-run"), ("attn-map", "x.json")):
        written(request_)
        found = vsf(*words)
        assert found.exit_code == 6 and isinstance(found.exception, SystemExit), found.exception
        (line,) = found.stderr.splitlines()
        assert line.startswith("error: x.json: ") and message in line


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"request": []}, "'request' is '[]', but must be an object"),
        ({"versions": ["torch"]}, "'versions' is"),
        ({"versions": {"torch": 2}}, "'versions' is"),
        ({"lora_hashes": "abc"}, "'lora_hashes' is 'abc', but must be a list"),
        ({"lora_hashes": [3]}, "'lora_hashes' is"),
        ({"image_sha256": 3}, "'image_sha256' is '3', but must be a list"),
        ({"schema": "1"}, "'schema' is '1', but must be a whole number"),
        ({"schema": 9}, "newer version (schema 9)"),
        ({"crf": "best"}, "'crf' is"),
    ],
)
def test_a_fact_of_another_type_is_named_with_its_file(facts: dict[str, Any], message: str) -> None:
    for words in (("again", "x.json", "--dry-run"), ("info", "x.json")):
        written(**facts)
        found = vsf(*words)
        (line,) = found.stderr.splitlines()
        assert found.exit_code == 1 and line.startswith("error: x.json ") and message in line


def test_what_differs_with_another_method_is_the_method() -> None:
    found = vsf("again", str(written()), "--method", "nag", "--dry-run")
    assert "method: vsf -> nag" in found.stderr and "alpha" not in found.stderr and "NAG scale=4" in found.stdout
    found = vsf("again", "x.json", "--lora", "nope.safetensors", "--dry-run")
    assert found.exit_code == 4 and "there is no such file" in found.stderr


def test_what_stands_at_a_wrong_place_is_named() -> None:
    found = vsf("again", str(written(negative=["hat"])), "--dry-run")
    assert found.exit_code == 6 and "'negative' stands outside of 'request', where it has no effect" in found.stderr


@pytest.mark.parametrize("parameters", [True, [1], "alpha"])
def test_parameters_that_are_none_are_left_out_of_the_words(parameters: object) -> None:
    found = vsf("info", str(written({"parameters": parameters})))
    assert found.exit_code == 0 and "wheels" in found.stdout


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", '{"schema": 1}', "[" * 99_999, '{"schema": NaN}', '"\\ud800"', "\udcff"]
)
@pytest.mark.parametrize("command", ["info", "again"])
def test_what_is_no_sidecar_is_one_line(command: str, text: str) -> None:
    Path("x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = vsf(command, "x.json")
    assert found.exit_code == 1 and found.stderr.startswith("error: x.json ") and len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["again", "x.json", "--dry-run"], 4),
        *[
            (["image", "a red car", "--dry-run", *option], code)
            for option, code in (
                (["-m", "a" * 300], 4),
                (["-m", "builtin:" + "a" * 300], 4),
                (["--lora", "a" * 300 + ".safetensors"], 4),
                (["--preset", "a" * 300], 6),
                (["--preset", "a" * 300 + ".toml"], 6),
                (["--image", "a" * 300], 1),
            )
        ],
    ],
)
def test_names_that_are_too_long_are_one_line(arguments: list[str], code: int) -> None:
    written({"model": "a" * 300})
    found = vsf(*arguments)
    assert found.exit_code == code and len(found.stderr.splitlines()) == 1, found.output


@pytest.mark.parametrize("command", ["info", "again"])
def test_a_folder_of_several_files_is_not_one_of_them(command: str) -> None:
    for name in ("a.png", "b.png"):
        write_image(Path("run") / name, IMAGE, "png", describe_request(REQUEST))
    Path("run/manifest.csv").write_text("")
    found = vsf(command, "run")
    assert found.exit_code == 1 and "run is a folder with 2 files: name one, such as run/a.png" in found.stderr
    Path("run/b.png").unlink()
    assert "run is a folder with 1 file: name one" in vsf(command, "run").stderr
    Path("empty").mkdir()
    found = vsf(command, "empty")
    assert found.exit_code == 1 and "no frames of a video" in found.stderr


def test_a_folder_of_frames_is_one_video() -> None:
    write_frames(Path("clip"), [IMAGE] * 2, describe_request(REQUEST))
    Path("clip/.DS_Store").write_bytes(b"")
    assert json.loads(vsf("info", "clip", "--json").stdout)["vsf"]["request"]["prompt"] == "a red bike"


VIDEO = Request(
    "a red car", "builtin:tiny-wan", 1, ("wheels",), num_frames=9, fps=8, width=32, height=32, preset="tiny-wan-causvid"
)


def again(**facts: Any) -> Any:
    Path("x.json").write_text(json.dumps({**describe_request(VIDEO), **facts}), "utf-8")
    return Path("x.json")


def test_a_video_is_made_again_in_its_format_with_its_quality() -> None:
    plan = plan_again(again(format="webm", crf=40), NOTHING)
    assert (plan.outputs.file_format, plan.crfs) == ("webm", (40,))
    plan = plan_again(again(format="webm", crf=40), Given({"format": "mp4"}))
    assert (plan.outputs.file_format, plan.crfs) == ("mp4", (None,))
    plan = plan_again(again(format="webm", crf=40), Given({"output": "y.gif"}))
    assert (plan.outputs.file_format, plan.crfs) == ("gif", (None,))
    plan = plan_again(again(format="mp4", crf=40), Given({"crf": 20}))
    assert (plan.outputs.file_format, plan.crfs) == ("mp4", (20,))
    assert plan_again(again(format="frames"), NOTHING).outputs.file_format == "frames"
    with pytest.raises(RequestError, match="--crf is for mp4"):
        plan_again(again(format="gif"), Given({"crf": 20}))


def test_an_image_is_made_again_in_its_format() -> None:
    assert plan_again(written(format="webp"), NOTHING).outputs.file_format == "webp"
    assert plan_again(written(format="unheard-of"), NOTHING).outputs.file_format == "png"


def test_what_was_compiled_is_compiled_again() -> None:
    assert plan_again(written(compiled=True), NOTHING).runtime.compile
    assert not plan_again(written(compiled=True), Given({"compile": False})).runtime.compile
    assert not plan_again(written(), NOTHING).runtime.compile
    assert "compiled: True -> False" in vsf("again", str(written(compiled=True)), "--no-compile", "--dry-run").stderr


@pytest.mark.parametrize("negative", ["", "  "])
def test_without_its_negative_it_is_unguided(negative: str) -> None:
    plain = json.loads(vsf("again", str(written({"keep": ["bells"]})), "--neg", negative, "--dry-run", "--json").stdout)
    assert (plain["negative"], plain["keep"]) == ([], [])
    for request in (Request.from_json(plain), Request("a bike", "m", 1, (negative,))):
        assert "Guidance" not in infotext(describe_request(request)) and "Negative" not in infotext(describe_request(request))


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("UniPCMultistepScheduler", "UniPC"), ("LCMScheduler", "LCM"), ("FlowMatchEulerDiscreteScheduler", "Euler"), (None, None)],
)
def test_the_sampler_is_the_one_that_ran(scheduler: str | None, name: str | None) -> None:
    from vsf_cli.media.metadata import parse_infotext

    description = describe_request(REQUEST)
    for told in (
        {**description, "applied": {"scheduler": scheduler}},
        {**description, "request": {**description["request"], "scheduler": scheduler}},
    ):
        assert parse_infotext(infotext(told))[2].get("Sampler") == name


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_cache(cache: Path, data: bytes, name: str) -> str:
    """Puts a file of a repository into a cache of the hub, and returns its SHA-256."""
    folder = cache / "models--owner--few"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    file = folder / "snapshots" / COMMIT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("pytorch_lora_weights.safetensors", "owner/few"),
        ("other.safetensors", "owner/few:0.5"),
        ("sub/other.safetensors", "owner/few:sub/other.safetensors"),
    ],
)
def test_a_lora_of_the_hub_has_its_hash_and_its_commit(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, lora: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here))
    assert hashes_of([lora], cached=True) == hashes_of([lora]) == {}
    digest = in_cache(here, b"weights", name)
    facts = {"lora_hashes": [digest], "lora_revisions": [COMMIT]}
    assert hashes_of([lora], cached=True) == facts
    assert hashes_of([lora]) == {}, "what decides an item's id is the same before and after the download"

    assert plan_again(written({"loras": [lora]}, **facts), NOTHING).requests[0].loras == (lora,)
    in_cache(here, b"others", name)
    with pytest.raises(RequestError, match=f"'owner/few', SHA-256 {digest[:12]}: say where it is with --lora"):
        plan_again(written({"loras": [lora]}, **facts), NOTHING)
    shutil.rmtree(here / "models--owner--few")
    plan = plan_again(written({"loras": [lora]}, **facts), NOTHING)
    assert any(COMMIT in line for line in differences(Path("x.json"), plan))
