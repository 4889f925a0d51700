"""Files of other programs are read as their makers meant them."""

import codecs
import json
from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from tests.media.drawn_requests import IMAGE
from vsf_cli.cli.app import app
from vsf_cli.media.formats import encode_video
from vsf_cli.media.images import EXIF_IFD, IMAGE_DESCRIPTION, USER_COMMENT, WINDOWS_COMMENT
from vsf_cli.media.metadata import parse_infotext
from vsf_cli.media.other_tools import Foreign, foreign_metadata
from vsf_cli.media.reading import read_metadata
from vsf_cli.media.videos import read_tags

TEXT = (
    "a café, 自転車 (red:1.2)\nNegative prompt: wheels, Räder\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1, Size: 8x8"
)
PLAIN = TEXT.replace("é", "e").replace("自転車", "bike").replace("ä", "a")


def read(path: Path) -> Foreign:
    found = foreign_metadata(read_metadata(path).tags)
    assert found is not None
    return found


COMMENTS = {
    "as EXIF has it": (TEXT, b"UNICODE\0" + TEXT.encode("utf-16-be")),
    "the other order": (TEXT, b"UNICODE\0" + TEXT.encode("utf-16-le")),
    "a mark of the order": (TEXT, b"UNICODE\0" + codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")),
    "UTF-8 by a wrong name": (TEXT, b"UNICODE\0" + TEXT.encode()),
    "UTF-8 after a mark": (TEXT, b"UNICODE\0" + codecs.BOM_UTF8 + TEXT.encode()),
    "ASCII": (PLAIN, b"ASCII\0\0\0" + PLAIN.encode()),
    "UTF-8 as ASCII": (TEXT, b"ASCII\0\0\0" + TEXT.encode()),
    "UTF-16 as ASCII": (TEXT, b"ASCII\0\0\0" + TEXT.encode("utf-16-le")),
    "undefined": (TEXT, bytes(8) + TEXT.encode()),
    "no prefix": (TEXT, TEXT.encode()),
    "NULs at its end": (TEXT, b"ASCII\0\0\0" + TEXT.encode() + bytes(9)),
    "Latin-1": (TEXT.replace("自転車", "bike"), b"ASCII\0\0\0" + TEXT.replace("自転車", "bike").encode("latin-1")),
}


@pytest.mark.parametrize("name", COMMENTS)
@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_user_comments_of_any_encoding_are_read(tmp_path: Path, name: str, format: str) -> None:
    text, data = COMMENTS[name]
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = data
    IMAGE.save(tmp_path / f"x.{format}", exif=exif)
    metadata = read_metadata(tmp_path / f"x.{format}")
    assert (metadata.parameters, metadata.description) == (text, None)
    assert read(tmp_path / f"x.{format}").values["Sampler"] == "DPM++ 2M"


def test_comments_elsewhere_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[WINDOWS_COMMENT] = TEXT.encode("utf-16-le")
    IMAGE.save(tmp_path / "x.jpg", exif=exif)
    assert read_metadata(tmp_path / "x.jpg").parameters == TEXT
    exif = Image.Exif()
    exif[0x0131] = "Pillow leaves EXIF out that has no tag like this one"
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + TEXT.encode("utf-16-be")
    IMAGE.save(tmp_path / "x.png", exif=exif)
    assert read_metadata(tmp_path / "x.png").parameters == TEXT


@pytest.mark.parametrize("text", [TEXT, PLAIN, TEXT.replace("自転車", "bike")])
@pytest.mark.parametrize("encoding", ["utf-8", "iTXt"])
def test_text_chunks_are_utf8_though_png_says_latin1(tmp_path: Path, text: str, encoding: str) -> None:
    info = PngInfo()
    if encoding == "iTXt":
        info.add_itxt("parameters", text)
    else:
        info.add(b"tEXt", b"parameters\0" + text.encode(encoding))
    IMAGE.save(tmp_path / "x.png", pnginfo=info)
    assert read_metadata(tmp_path / "x.png").parameters == text


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        "\n".join(f"   {line}\t" for line in TEXT.split("\n")),
        f"\n\n{TEXT}\n",
        f"{TEXT}\nTemplate: a __car__",
    ],
)
def test_lines_may_end_and_begin_in_any_way(text: str) -> None:
    prompt, negative, pairs = parse_infotext(text)
    assert (prompt, negative) == ("a café, 自転車 (red:1.2)", "wheels, Räder")
    assert (pairs["Steps"], pairs["Sampler"], pairs["Size"]) == ("20", "DPM++ 2M", "8x8")


GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 5, "steps": 8, "cfg": 7.5, "positive": ["9", 0], "negative": ["7", 0], "model": ["4", 0]},
        "is_changed": [float("nan")],
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a bike", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "wheels", "clip": ["4", 1]}},
    "9": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 3.5}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
}
COMMENT = "<x><exif:UserComment><rdf:Alt><rdf:li xml:lang='x'>{}</rdf:li></rdf:Alt></exif:UserComment></x>"
DRAWN = {"c": "a bike", "uc": "wheels", "seed": 5, "steps": 8}
INVOKE = {"positive_prompt": "a bike", "negative_prompt": "wheels", "seed": 5, "steps": 8, "model": {"name": "x"}}
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "ComfyUI": ("5", {"prompt": json.dumps(GRAPH), "workflow": '{"nodes": []}'}),
    "ComfyUI's own nodes": ("None", {"prompt": json.dumps({"1": {"inputs": {"text": "a bike", "value": 3}}})}),
    "ComfyUI, drawn only": ("None", {"workflow": '{"nodes": [], "links": []}'}),
    "InvokeAI": ("5", {"invokeai_metadata": json.dumps(INVOKE)}),
    "InvokeAI 2": ("5", {"sd-metadata": json.dumps({"image": {"prompt": [{"prompt": "a bike [wheels]"}], "seed": 5}})}),
    "NovelAI": ("5", {"Comment": json.dumps({"prompt": "a bike", "uc": "wheels", "seed": 5}), "Software": "NovelAI"}),
    "InvokeAI 1": ("None", {"Dream": '"a bike [wheels]" -s 8 -S 5'}),
    "Midjourney": ("None", {"Description": "a bike --no wheels Job ID: 5", "Author": "somebody"}),
    "Draw Things": ("5", {"XML:com.adobe.xmp": COMMENT.format(escape(json.dumps(DRAWN)))}),
    "SwarmUI": (
        "5",
        {"parameters": json.dumps({"sui_image_params": {"prompt": "a bike", "negativeprompt": "wheels", "seed": 5}})},
    ),
    "Fooocus": (
        "5",
        {"fooocus_scheme": "fooocus", "parameters": json.dumps({"prompt": "a bike", "negative_prompt": "wheels", "seed": 5})},
    ),
    "Easy Diffusion": ("5", {"Software": "Easy Diffusion", "prompt": "a bike", "negative_prompt": "wheels", "seed": "5"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_program_is_named_and_its_values_are_read(tmp_path: Path, name: str) -> None:
    seed, tags = FILES[name]
    info = PngInfo()
    for key, value in tags.items():
        (info.add_itxt if key.startswith("XML:") else info.add_text)(key, value)
    IMAGE.save(tmp_path / "x.png", pnginfo=info)
    found = read(tmp_path / "x.png")
    assert name.startswith(found.tool) and str(found.values.get("seed")) == seed
    assert (found.prompt, found.negative) == (
        ("", "") if name.startswith("ComfyUI") and seed == "None" else ("a bike", "wheels")
    )
    said = CliRunner().invoke(app, ["info", str(tmp_path / "x.png")])
    assert said.exit_code == 0 and f"was made by {found.tool}" in said.stderr
    said = CliRunner().invoke(app, ["again", str(tmp_path / "x.png")])
    assert said.exit_code == 1 and f"was made by {found.tool}, and cannot be made again" in said.stderr


def test_the_text_of_a_web_ui_is_read_wherever_it_stands(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "x.jpg", comment=TEXT.encode())
    assert read(tmp_path / "x.jpg").values["Seed"] == "1"
    IMAGE.save(tmp_path / "x.jpg", xmp=f'<x exif:n="1"><exif:UserComment>{escape(TEXT)}</exif:UserComment></x>'.encode())
    assert (read(tmp_path / "x.jpg").prompt, read(tmp_path / "x.jpg").negative) == ("a café, 自転車 (red:1.2)", "wheels, Räder")
    parts = f'{TEXT}, App: SD.Next, Version: 8b4a, Civitai resources: [{{"name":"a, b: c"}},{{"id":2}}], Civitai metadata: {{}}'
    found = foreign_metadata({"parameters": parts})
    assert found is not None and found.tool == "SD.Next" and found.values["Civitai metadata"] == "{}"
    assert json.loads(found.values["Civitai resources"]) == [{"name": "a, b: c"}, {"id": 2}]


def test_tags_without_a_known_prompt_are_named(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Genre", "still life")
    IMAGE.save(tmp_path / "x.png", pnginfo=info)
    found = CliRunner().invoke(app, ["info", str(tmp_path / "x.png")])
    assert found.exit_code == 1 and "of genre, nothing is known as a prompt here" in found.stderr


def test_comfyui_in_exif_and_in_videos(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(GRAPH)}", 'workflow:{"nodes": []}'
    IMAGE.save(tmp_path / "x.webp", exif=exif)
    assert (read(tmp_path / "x.webp").prompt, read(tmp_path / "x.webp").negative) == ("a bike", "wheels")
    assert foreign_metadata({"comment": json.dumps({"prompt": json.dumps(GRAPH), "workflow": {}})}) == read(tmp_path / "x.webp")


def test_every_tag_of_a_video_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(encode_video([IMAGE] * 2, 8, "mp4", None))
    assert "encoder" in read_tags(tmp_path / "x.mp4") and foreign_metadata(read_tags(tmp_path / "x.mp4")) is None


@pytest.mark.parametrize("tags", [{"Software": "Adobe Photoshop"}, {"Software": "GIMP", "Comment": "hello"}])
def test_a_program_that_says_nothing_of_a_prompt_is_named_too(tmp_path: Path, tags: dict[str, str]) -> None:
    info = PngInfo()
    for key, value in tags.items():
        info.add_text(key, value)
    IMAGE.save(tmp_path / "x.png", pnginfo=info)
    found = CliRunner().invoke(app, ["info", str(tmp_path / "x.png")])
    assert found.exit_code == 1 and f"the program was {tags['Software'].lower()}" in found.stderr.lower()


@pytest.mark.parametrize(
    "value", ["[]", "{}", "nonsense", "[" * 9_999, '{"prompt": 3}', '{"3": {"inputs": {"positive": 1, "seed": []}}}']
)
@pytest.mark.parametrize("key", ["parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "comment", "make"])
def test_what_is_not_as_it_should_be_is_no_traceback(key: str, value: str) -> None:
    found: Any = foreign_metadata({key: value})
    assert found is None or (isinstance(found.prompt, str) and isinstance(found.negative, str))


def test_somebody_elses_description_is_no_prompt(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION], exif[0x010F], exif[0x0110] = "my cat", "Canon", "EOS 5D"
    IMAGE.save(tmp_path / "x.jpg", exif=exif)
    assert foreign_metadata(read_metadata(tmp_path / "x.jpg").tags) is None
