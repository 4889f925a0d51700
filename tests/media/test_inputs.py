"""Images that a request starts from, and masks of them."""

from pathlib import Path

import pytest
from PIL import Image

from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.inputs import check_inputs, fitted, fitted_size, input_hashes, read_input


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_image_is_upright_and_over_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held on its side.
    Image.new("RGB", (6, 4), "red").save("turned.jpg", exif=exif)
    assert read_input("turned.jpg").size == (4, 6)
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save("clear.png")
    clear = read_input("clear.png")
    assert clear.mode == "RGB" and clear.getpixel((0, 0)) == (255, 255, 255)


def test_an_image_that_was_written_anew_is_read_again() -> None:
    for colour in ("red", "blue"):
        Image.new("RGB", (2, 2), colour).save("image.png")
        before = read_input("image.png"), input_hashes(["image.png", "image.png"], None)
        Path("image.png").touch()
        assert read_input("image.png").tobytes() == before[0].tobytes()
        assert input_hashes(["image.png"] * 2, None) == before[1] and len(before[1]["image_sha256"]) == 2
    assert before[0].getpixel((0, 0)) == (0, 0, 255)


def test_what_cannot_be_used_is_refused() -> None:
    Image.new("RGB", (8, 4)).save("image.png")
    Image.new("L", (8, 4)).save("black.png")
    Image.new("L", (4, 4), 255).save("small.png")
    Image.new("L", (8, 4), 255).save("white.png")
    Path("text.png").write_text("no image")
    assert check_inputs(["image.png", "small.png"], None) == check_inputs(["image.png"], "white.png") == (8, 4)
    with pytest.raises(RequestError, match=r"--mask black\.png is black everywhere"):
        check_inputs(["image.png"], "black.png")
    with pytest.raises(RequestError, match="--mask has 4x4 pixels, but --image 8x4: make them the same size"):
        check_inputs(["image.png"], "small.png")
    with pytest.raises(MediaError, match=r"none\.png: there is no such file"):
        check_inputs(["image.png", "none.png"], None)
    with pytest.raises(MediaError, match="cannot be read as an image"):
        check_inputs(["text.png"], None)
    with pytest.raises(MediaError):
        check_inputs(["."], None)


def test_a_size_has_the_shape_of_an_image() -> None:
    assert fitted_size((4000, 3000), 1024**2, 16) == (1184, 880)
    assert fitted_size((10, 1000), 96**2, 8) == (8, 960)
    image = Image.new("RGB", (4, 2), "red")
    image.putpixel((0, 0), (0, 0, 255))
    assert fitted(image, (2, 2)).getcolors() == [(4, (255, 0, 0))], "its middle"
