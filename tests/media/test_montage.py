import sys
from pathlib import Path

import pytest
from PIL import Image

from vsf_cli.generation.generate import Request
from vsf_cli.media.formats import write_image
from vsf_cli.media.metadata import describe
from vsf_cli.media.montage import LINE_HEIGHT, MARGIN, MISSING, Montage, draw_montage, label_of, main, shorten, text_width, wrap

COLORS = ["red", "lime", "blue"]
IMAGES = [Image.new("RGB", (40, 30), color) for color in COLORS]


def test_images_stand_in_rows() -> None:
    montage = draw_montage(IMAGES, ["a", "b", "c"], columns=2)
    assert montage.size == (2 * (40 + MARGIN) + MARGIN, 2 * (30 + LINE_HEIGHT + MARGIN) + MARGIN)
    for number, image in enumerate(IMAGES):
        x, y = MARGIN + number % 2 * (40 + MARGIN), MARGIN + number // 2 * (30 + LINE_HEIGHT + MARGIN)
        assert montage.crop((x, y, x + 40, y + 30)).tobytes() == image.tobytes()


def test_a_missing_image_is_grey_and_an_empty_place_is_white() -> None:
    montage = Montage((40, 30), 3)
    montage.add_row([IMAGES[0], None, None], ["", "", None])
    drawn = montage.draw()
    middles = [drawn.getpixel((MARGIN + 20 + column * (40 + MARGIN), MARGIN + 15)) for column in range(3)]
    assert middles == [(255, 0, 0), MISSING, (255, 255, 255)]


def test_a_smaller_image_is_centred_in_its_place() -> None:
    montage = Montage((40, 30), 2)
    montage.add_row([IMAGES[0], Image.new("RGB", (20, 10), "blue")], ["", ""])
    x, y = MARGIN + 40 + MARGIN + 10, MARGIN + 10
    drawn = montage.draw().crop((x, y, x + 20, y + 10))
    assert drawn.tobytes() == Image.new("RGB", (20, 10), "blue").tobytes()


def test_labels_stay_within_their_column() -> None:
    short, long = (draw_montage(IMAGES[:2], [label, ""], columns=2) for label in ("", "a very long label of an image"))
    assert short.width == long.width and long.height > short.height + LINE_HEIGHT, "words that do not fit go on below"
    right = (MARGIN + 40 + MARGIN, 0, *long.size)
    assert set(long.crop((right[0], MARGIN + 30, *right[2:])).tobytes()) == {255}


def test_text_is_wrapped_to_its_width() -> None:
    assert wrap("", 90) == []
    text = "a red bike on a road in the rain, as seen from above " + "x" * 80
    lines = wrap(text, 90)
    assert all(text_width(line) <= 90 for line in lines) and " ".join(lines[:-1]) == text.rsplit(" ", 1)[0]
    assert lines[-1].endswith("…") and len(wrap("word " * 500, 90)) == 8
    assert shorten("x" * 80, 90) == lines[-1] and shorten("x", 1) == "x"


def test_labels_come_from_metadata() -> None:
    metadata = describe(Request("a bike", "owner/name", 7, ("wheels",), parameters={"alpha": 2.5}).to_json())
    assert label_of(metadata, "alpha,seed,negative") == "alpha 2.5, seed 7, against wheels"
    assert label_of(describe(Request("a bike", "owner/name", 7).to_json()), "alpha") == "no guidance"
    assert label_of(None, "alpha") == "?"
    assert label_of(None, "") == label_of(metadata, "") == ""
    request = {**Request("a bike", "owner/name", 7).to_json(), "guidance_scale": 2.0}
    kept = describe({**request, "negative": ["wheels"], "keep": ["a hat", "a flag"]})
    assert label_of(kept, "method,negative,keep") == "VSF, against wheels, keeping a hat, a flag"
    assert label_of(describe(request), "negative,keep") == "no negative prompt"
    assert label_of(describe(request), "guidance_scale") == "guidance scale 2"


def test_the_command_writes_a_montage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", IMAGES[0], "png", describe(Request("a bike", "owner/name", 7).to_json()))
    arguments = [str(tmp_path / "out.png"), str(tmp_path / "a.png"), "--label", "seed"]
    monkeypatch.setattr(sys, "argv", ["montage", *arguments])
    main()
    assert capsys.readouterr().out == f"{tmp_path / 'out.png'}\n"
    with Image.open(tmp_path / "out.png") as written:
        assert written.tobytes() == draw_montage(IMAGES[:1], ["seed 7"], columns=5, scale=2).tobytes()
