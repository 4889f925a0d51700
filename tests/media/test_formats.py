import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.media.drawn_requests import IMAGE, describe_request, requests
from vsf_cli.generation.generate import Request
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import IMAGE_FORMATS, VIDEO_FORMATS, encode_video, write_image
from vsf_cli.media.metadata import infotext
from vsf_cli.media.reading import read_metadata


@pytest.mark.parametrize("ending", ["json", *(name for name in VIDEO_FORMATS if name != "frames")])
@given(request_=requests)
@settings(max_examples=8, deadline=None)
def test_a_request_survives_every_format_of_videos(
    tmp_path_factory: pytest.TempPathFactory, ending: str, request_: Request
) -> None:
    path = tmp_path_factory.mktemp("videos") / f"x.{ending}"
    metadata = describe_request(request_)
    write_bytes(path, json.dumps(metadata).encode() if ending == "json" else encode_video([IMAGE, IMAGE], 8, ending, metadata))
    found = read_metadata(path).description
    assert found is not None and Request.from_json(found["request"]) == request_


@pytest.mark.parametrize("format", list(IMAGE_FORMATS))
@given(request_=requests)
@settings(max_examples=25, deadline=None)
def test_a_request_survives_every_format(tmp_path_factory: pytest.TempPathFactory, format: str, request_: Request) -> None:
    path = tmp_path_factory.mktemp("media") / f"x{IMAGE_FORMATS[format][0]}"
    write_image(path, IMAGE, format, describe_request(request_))
    found = read_metadata(path)
    assert found.description is not None
    assert Request.from_json(found.description["request"]) == request_
    assert found.parameters == infotext(describe_request(request_))


def test_no_metadata_writes_none(tmp_path: Path) -> None:
    for format, (ending, *_) in IMAGE_FORMATS.items():
        write_image(tmp_path / f"x{ending}", IMAGE, format, None)
        found = read_metadata(tmp_path / f"x{ending}")
        assert found.description is None and found.parameters is None


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    (tmp_path / "secret" / "my-model").mkdir(parents=True)
    lora = str(tmp_path / "secret" / "style.safetensors") + ":0.8"
    request = Request("a bike", str(tmp_path / "secret" / "my-model"), 1, loras=(lora,))
    write_image(tmp_path / "x.png", IMAGE, "png", describe_request(request))
    assert b"secret" not in (tmp_path / "x.png").read_bytes()
    assert request.to_json()["model"] == "my-model" and request.to_json()["loras"] == ["style.safetensors:0.8"]
