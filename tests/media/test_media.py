import json
import math
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vsf_cli.errors import MediaError
from vsf_cli.generation.generate import Request
from vsf_cli.media import images as media
from vsf_cli.media.images import (
    FORMATS,
    check_whole,
    read_frames,
    read_metadata,
    read_middle,
    write_atomically,
    write_bytes,
    write_frames,
    write_picture,
)
from vsf_cli.media.metadata import describe, infotext, parse_infotext
from vsf_cli.media.videos import encode_clip

IMAGE = Image.new("RGB", (16, 8), (200, 30, 30))

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip)
lines = st.lists(text, min_size=1, max_size=3).map("\n".join)
numbers = st.floats(0, 100)
METHOD_FIELDS = st.one_of(
    st.tuples(
        st.just("vsf"),
        st.fixed_dictionaries(
            {
                "alpha": numbers,
                "beta": st.one_of(st.floats(-5, 5), st.just(math.inf)),
                "tau": st.one_of(st.floats(0.1, 9), st.just(math.inf)),
            },
            optional={
                "mask": st.just(True),
                "reference_layout": st.booleans(),
                "special_tokens": st.booleans(),
                "slope": st.floats(-1, 1),
                "blend": st.floats(0, 1),
                "guided_blocks": st.sampled_from(["all", "1..4,8", "2"]),
            },
        ),
    ),
    st.tuples(st.just("nag"), st.fixed_dictionaries({"scale": numbers, "tau": st.floats(0.1, 9), "padding": st.booleans()})),
    st.tuples(st.just("nasa"), st.fixed_dictionaries({"alpha": numbers})),
    st.tuples(st.just("wef"), st.fixed_dictionaries({"alpha": numbers, "padding": st.booleans()})),
    st.tuples(st.just("cfg"), st.just({})),
    st.tuples(st.just("none"), st.just({})),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": lines,
    "model": st.sampled_from(["builtin:tiny-sd3-turbo", "stabilityai/stable-diffusion-3.5-large-turbo"]),
    "seed": st.integers(0, 2**64 - 1),
    # A plain colon may begin a weight, which not every method knows.
    "negative": st.lists(text.map(lambda words: re.sub(r"[:\\\\]", r"\\:", words)).filter(str.strip), max_size=3).map(tuple),
    "num_inference_steps": st.integers(1, 100),
    "guidance_scale": st.floats(0, 1),
    "width": st.one_of(st.none(), st.integers(1, 256).map(lambda count: 16 * count)),
    "height": st.one_of(st.none(), st.integers(1, 256).map(lambda count: 16 * count)),
    "max_sequence_length": st.integers(1, 512),
    "num_frames": st.one_of(st.none(), st.integers(9, 81)),
    "drop_frames": st.integers(0, 8),
    "fps": st.one_of(st.none(), st.integers(1, 60)),
    "dtype": st.sampled_from(["float32", "bfloat16"]),
    "loras": st.lists(text, max_size=2).map(lambda names: tuple(name.replace("/", "-").replace("\\", "-") for name in names)),
    "revision": st.one_of(st.none(), text),
    "variant": st.one_of(st.none(), st.just("fp16")),
    "scheduler": st.one_of(st.none(), st.just("UniPCMultistepScheduler")),
    "flow_shift": st.one_of(st.none(), st.floats(0.1, 20)),
    "vae_dtype": st.one_of(st.none(), st.just("float32")),
    "vae_tiling": st.booleans(),
    "preset": st.one_of(st.none(), text),
}


def drawn(method: tuple[str, dict[str, Any]], **fields: Any) -> Request:
    """A request whose fields go together: pictures drop no frames, and CFG alone has a scale above 1."""
    fields["drop_frames"] = fields["drop_frames"] if fields["num_frames"] else 0
    fields["guidance_scale"] += 2 if method[0] == "cfg" else 0
    return Request(method=method[0], parameters=method[1], **fields)


requests = st.builds(drawn, method=METHOD_FIELDS, **FIELDS)
hard = st.sampled_from(
    [
        'a "bike", red: fast',
        "Negative prompt: wheels",
        "Steps: 20, Sampler: x, Seed: 1",
        "emoji 🚲 and ümlaut",
        "back\\slash {braces}",
        "a\n\nblank line",
    ]
)


def description(request: Request) -> dict[str, Any]:
    return describe(request.to_json(), size=(16, 8), model_hash="0123456789abcdef", applied={"blocks": 6, "tokens": 5})


@given(requests)
@settings(max_examples=60, deadline=None)
def test_a_request_survives_json(request_: Request) -> None:
    assert Request.from_json(json.loads(json.dumps(request_.to_json()))) == request_


def test_every_field_of_a_request_is_drawn() -> None:
    assert {*FIELDS, "method", "parameters"} == {entry.name for entry in fields(Request)}


@pytest.mark.parametrize("ending", ["mp4", "webm", "webp", "gif", "json"])
@given(request_=requests)
@settings(max_examples=8, deadline=None)
def test_a_request_survives_every_format_of_clips(
    tmp_path_factory: pytest.TempPathFactory, ending: str, request_: Request
) -> None:
    path = tmp_path_factory.mktemp("clips") / f"x.{ending}"
    told = description(request_)
    write_bytes(path, json.dumps(told).encode() if ending == "json" else encode_clip([IMAGE, IMAGE], 8, ending, told))
    found = read_metadata(path).description
    assert found is not None and Request.from_json(found["request"]) == request_


@pytest.mark.parametrize("format", list(FORMATS))
@given(request_=requests)
@settings(max_examples=25, deadline=None)
def test_a_request_survives_every_format(tmp_path_factory: pytest.TempPathFactory, format: str, request_: Request) -> None:
    path = tmp_path_factory.mktemp("media") / f"x{FORMATS[format][0]}"
    write_picture(path, IMAGE, format, description(request_))
    found = read_metadata(path)
    assert found.description is not None
    assert Request.from_json(found.description["request"]) == request_
    assert found.parameters == infotext(description(request_))


@given(prompt=st.one_of(lines, hard), negative=st.one_of(st.none(), text, hard), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_text_is_read_by_the_grammar_of_a1111(prompt: str, negative: str | None, seed: int) -> None:
    request = Request(
        prompt, "builtin:tiny-sd3-turbo", seed, (negative,) if negative else (), parameters={"alpha": 3, "beta": 1.5}
    )
    found_prompt, found_negative, parameters = parse_infotext(infotext(description(request)))
    assert parameters["Steps"] == "8" and parameters["Seed"] == str(seed) and parameters["Size"] == "16x8"
    assert bool(found_negative) == bool(negative)
    assert (parameters.get("VSF alpha") == "3") == bool(negative)
    if prompt.isalnum():
        assert found_prompt == prompt


KEY = r"\w[\w \-/]+"
BARE, QUOTED = r"[^,\n:]*", r'"(?:[^"\\\n]|\\.)*"'
PAIR = rf"{KEY}: (?:{QUOTED}|{BARE})"
GRAMMAR = re.compile(
    rf"(?P<prompt>.*?)(?:\nNegative prompt: (?P<negative>.*?))?\n(?P<pairs>{PAIR}(?:, {PAIR})*)",
    re.DOTALL,
)
"""A1111's grammar as a whole, written from its description; not our own reader, which is lenient."""


@given(prompt=st.one_of(lines, hard), negative=st.one_of(st.none(), text, hard), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_the_text_is_a_sentence_of_the_grammar_of_a1111(prompt: str, negative: str | None, seed: int) -> None:
    request = Request(prompt, "owner/a model, v1: x", seed, (negative,) if negative else (), parameters={"alpha": 3.25})
    found = GRAMMAR.fullmatch(infotext(description(request)))
    assert found and "\n" not in found["pairs"]
    pairs = dict(re.findall(rf"({KEY}): ({QUOTED}|{BARE})(?:, |$)", found["pairs"]))
    assert pairs["Steps"] == "8" and pairs["Seed"] == str(seed) and pairs["Size"] == "16x8" and len(pairs) >= 3

    def kept(words: str) -> str:
        return "".join(re.findall(r"[^\W_]", re.sub(r"(?i)negative prompt|steps", "", words)))

    assert kept(found["prompt"]) == kept(prompt) and kept(found["negative"] or "") == kept(negative or "")


@given(prompt=st.one_of(lines, hard), negative=st.one_of(text, hard))
@settings(max_examples=150, deadline=None)
def test_the_text_is_read_by_the_scanner_of_civitai(prompt: str, negative: str) -> None:
    request = Request(prompt, "builtin:tiny-sd3-turbo", 1, (negative,), parameters={"alpha": 3.5, "beta": 0.1})
    written = infotext(description(request))
    *before, last = written.split("\n")
    assert last.startswith("Steps: ") and sum(line.startswith("Steps: ") for line in written.split("\n")) == 1
    assert written.count("Negative prompt:") == 1
    assert all(line for line in before)
    for pair in last.split(", "):
        key, value = pair.split(": ")
        assert ":" not in value and '"' not in value, key


def test_our_text_does_not_mislead_about_cfg() -> None:
    request = Request("a bike", "owner/name", 1, ("wheels",), parameters={"alpha": 3.0, "beta": 0.3})
    assert "CFG scale: 0," in infotext(description(request)) and "Guidance method: VSF" in infotext(description(request))


def test_no_metadata_writes_none(tmp_path: Path) -> None:
    for format, (ending, *_) in FORMATS.items():
        write_picture(tmp_path / f"x{ending}", IMAGE, format, None)
        found = read_metadata(tmp_path / f"x{ending}")
        assert found.description is None and found.parameters is None


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    (tmp_path / "secret" / "my-model").mkdir(parents=True)
    lora = str(tmp_path / "secret" / "style.safetensors") + ":0.8"
    request = Request("a bike", str(tmp_path / "secret" / "my-model"), 1, loras=(lora,))
    write_picture(tmp_path / "x.png", IMAGE, "png", description(request))
    assert b"secret" not in (tmp_path / "x.png").read_bytes()
    assert request.to_json()["model"] == "my-model" and request.to_json()["loras"] == ["style.safetensors:0.8"]


def test_half_a_file_is_never_in_place(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(media.os, "fsync", full)
    with pytest.raises(MediaError, match="No space left on device; choose another place"):
        write_picture(tmp_path / "x.png", IMAGE, "png", None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot be written"):
        write_picture(tmp_path / "file" / "x.png", IMAGE, "png", None)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        read_metadata(tmp_path / "x.png")


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_picture(path, IMAGE.resize((400, 400)), "png", description(Request("a bike", "owner/name", 1)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError):
        read_metadata(path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tail", [1, 8, 16, 40, 700, 1200])
def test_a_picture_whose_end_is_zeros_is_one_line(tmp_path: Path, tail: int, format: str) -> None:
    path = tmp_path / f"x{FORMATS[format][0]}"
    write_picture(path, Image.effect_noise((128, 128), 90).convert("RGB"), format, None)
    data = path.read_bytes()
    check_whole(path, 1)
    path.write_bytes(data[:-tail] + bytes(tail))
    if format == "webp" and tail < 700:
        return  # A lossy stream ends in bits that no pixel needs.
    with pytest.raises(MediaError, match=r"cannot be read as a picture|cut off"):
        check_whole(path, 1)


@pytest.mark.parametrize("format", ["webm", "mp4", "gif", "webp"])
def test_a_clip_that_was_cut_off_is_not_whole(tmp_path: Path, format: str) -> None:
    frames = [Image.effect_noise((64, 48), 60).convert("RGB") for _ in range(9)]
    path = tmp_path / f"x.{format}"
    data = encode_clip(frames, 8, format, None)
    path.write_bytes(data)
    check_whole(path, 9)
    for share in (0.5, 0.9, 0.97):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError):
            check_whole(path, 9)


def test_a_folder_is_whole_with_all_of_its_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "x", [Image.new("RGB", (8, 8))] * 3, None)
    check_whole(tmp_path / "x", 3)
    (tmp_path / "x" / "0001.png").unlink()
    with pytest.raises(MediaError, match=r"0001\.png"):
        check_whole(tmp_path / "x", 3)


@pytest.mark.parametrize("format", ["webm", "mp4", "gif", "webp"])
def test_the_middle_of_a_clip_is_read_alone(tmp_path: Path, format: str) -> None:
    colors = ["black", "black", "red", "black", "black"]
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode_clip([Image.new("RGB", (64, 48), color) for color in colors], 8, format, None))
    red, *_ = read_middle(path, (5 // 2 - 0.25) / 8).getpixel((30, 20))  # type: ignore[misc]
    assert red > 200


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no such file"):
        read_metadata(tmp_path / "x.png")


def test_somebody_elses_description_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[media.IMAGE_DESCRIPTION] = "a photo of my cat"
    IMAGE.save(tmp_path / "x.jpg", exif=exif)
    assert read_metadata(tmp_path / "x.jpg").description is None


@pytest.mark.parametrize("ending", ["png", "jpeg", "webp", "gif", "mp4", "webm", ""])
def test_frames_are_read_back(tmp_path: Path, ending: str) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    frames = [Image.new("RGB", (64, 48), color) for color in colors]
    path = tmp_path / f"clip.{ending}" if ending else tmp_path / "clip"
    if ending in ("png", "jpeg"):
        frames = frames[:1]
        write_picture(path, frames[0], ending, None)
    elif ending:
        write_bytes(path, encode_clip(frames, 8, ending, None))
    else:
        write_frames(path, frames, None)
    found = read_frames(path)
    assert [frame.size for frame in found] == [(64, 48)] * len(frames)
    for frame, color in zip(found, colors, strict=False):
        assert all(abs(seen - meant) < 12 for seen, meant in zip(frame.getpixel((30, 20)), color, strict=True))  # type: ignore[arg-type]


def test_what_has_no_frames_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no such file"):
        read_frames(tmp_path / "none.png")
    for name in ("a.mp4", "a.png"):
        (tmp_path / name).write_text("no clip", "utf-8")
        with pytest.raises(MediaError, match="cannot be read as a"):
            read_frames(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="names have no colon there")
def test_a_name_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b.mp4").write_bytes(encode_clip([IMAGE] * 3, 8, "mp4", description(Request("a bike", "owner/name", 1))))
    found = read_metadata(Path("a:b.mp4")).description
    assert found is not None and found["request"]["prompt"] == "a bike" and len(read_frames(Path("a:b.mp4"))) == 3
