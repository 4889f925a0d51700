import os
from pathlib import Path

import pytest
from PIL import Image

from tests.media.drawn_requests import IMAGE, describe_request
from vsf_cli.errors import MediaError
from vsf_cli.generation.generate import Request
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import IMAGE_FORMATS, encode_video, write_image
from vsf_cli.media.frames import write_frames
from vsf_cli.media.images import IMAGE_DESCRIPTION
from vsf_cli.media.reading import check_whole, read_frames, read_metadata, read_middle


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_an_image_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read as an image"):
        read_metadata(tmp_path / "x.png")


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_image(path, IMAGE.resize((400, 400)), "png", describe_request(Request("a bike", "owner/name", 1)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError):
        read_metadata(path)


@pytest.mark.parametrize("format", IMAGE_FORMATS)
@pytest.mark.parametrize("tail", [1, 8, 16, 40, 700, 1200])
def test_a_image_whose_end_is_zeros_is_one_line(tmp_path: Path, tail: int, format: str) -> None:
    path = tmp_path / f"x{IMAGE_FORMATS[format][0]}"
    write_image(path, Image.effect_noise((128, 128), 90).convert("RGB"), format, None)
    data = path.read_bytes()
    check_whole(path, 1)
    path.write_bytes(data[:-tail] + bytes(tail))
    if (format == "webp" and tail < 700) or data.endswith(bytes(tail)):
        return  # A lossy stream ends in bits that no pixel needs, and some formats end in zeros.
    with pytest.raises(MediaError, match=r"cannot be read as an image|cut off"):
        check_whole(path, 1)


@pytest.mark.parametrize("format", ["webm", "mp4", "gif", "webp"])
def test_a_video_that_was_cut_off_is_not_whole(tmp_path: Path, format: str) -> None:
    frames = [Image.effect_noise((64, 48), 60).convert("RGB") for _ in range(9)]
    path = tmp_path / f"x.{format}"
    data = encode_video(frames, 8, format, None)
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
def test_the_middle_of_a_video_is_read_alone(tmp_path: Path, format: str) -> None:
    colors = ["black", "black", "red", "black", "black"]
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode_video([Image.new("RGB", (64, 48), color) for color in colors], 8, format, None))
    red, *_ = read_middle(path, (5 // 2 - 0.25) / 8).getpixel((30, 20))  # type: ignore[misc]
    assert red > 200


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no such file"):
        read_metadata(tmp_path / "x.png")


def test_somebody_elses_description_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = "a photo of my cat"
    IMAGE.save(tmp_path / "x.jpg", exif=exif)
    assert read_metadata(tmp_path / "x.jpg").description is None


@pytest.mark.parametrize("ending", ["png", "jpeg", "webp", "gif", "mp4", "webm", ""])
def test_frames_are_read_back(tmp_path: Path, ending: str) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    frames = [Image.new("RGB", (64, 48), color) for color in colors]
    path = tmp_path / f"video.{ending}" if ending else tmp_path / "video"
    if ending in ("png", "jpeg"):
        frames = frames[:1]
        write_image(path, frames[0], ending, None)
    elif ending:
        write_bytes(path, encode_video(frames, 8, ending, None))
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
        (tmp_path / name).write_text("not a video", "utf-8")
        with pytest.raises(MediaError, match="cannot be read as a"):
            read_frames(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="names have no colon there")
def test_a_name_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b.mp4").write_bytes(encode_video([IMAGE] * 3, 8, "mp4", describe_request(Request("a bike", "owner/name", 1))))
    found = read_metadata(Path("a:b.mp4")).description
    assert found is not None and found["request"]["prompt"] == "a bike" and len(read_frames(Path("a:b.mp4"))) == 3
