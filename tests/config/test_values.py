from pathlib import Path

import pytest

from vsf_cli.config.values import choose_seeds, chosen_size, parse_given_seeds, parse_path, parse_size
from vsf_cli.errors import RequestError


@pytest.mark.parametrize(
    ("text", "count", "wanted"),
    [
        ("7", None, [7]),
        ("1,2,3", None, [1, 2, 3]),
        ("1..4", None, [1, 2, 3, 4]),
        ("2-4, 9", None, [2, 3, 4, 9]),
        ("5", 3, [5, 6, 7]),
        ("18446744073709551614", 2, [2**64 - 2, 2**64 - 1]),
        ("9:1:-4", None, [9, 5, 1]),
        ("1,2", 2, [1, 2]),
    ],
)
def test_seeds(text: str, count: int | None, wanted: list[int]) -> None:
    assert choose_seeds(parse_given_seeds(text), count) == wanted


@pytest.mark.parametrize("given", [None, parse_given_seeds("random"), parse_given_seeds("-1")])
def test_random_seeds_differ(given: list[int] | None) -> None:
    assert len(set(choose_seeds(given, 50))) == 50


@pytest.mark.parametrize("text", ["", "a", "1..", "1.5", "--2"])
def test_seeds_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="no seed"):
        parse_given_seeds(text)


@pytest.mark.parametrize(("text", "count"), [("9..1", None), ("1..99999999", None), ("1,2", 3)])
def test_seeds_that_are_not_legal(text: str, count: int | None) -> None:
    with pytest.raises(RequestError):
        choose_seeds(parse_given_seeds(text), count)


@pytest.mark.parametrize(
    ("text", "size"), [("96x64", (96, 64)), ("1024*768", (1024, 768)), ("8 × 9", (8, 9)), ("96", (96, 96))]
)
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "96x", "-1x9", "1.5x2", "96x96x3"])
def test_sizes_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


def test_a_size_is_written_whole_or_refused() -> None:
    assert chosen_size("64x32", None, None) == "64x32" and chosen_size(None, 64, 32) == "64x32"
    assert chosen_size(None, None, None) is None
    for size, width, height in ((None, 64, None), (None, None, 32), ("64x32", 64, 32)):
        with pytest.raises(RequestError, match="give"):
            chosen_size(size, width, height)


def test_a_home_that_nobody_has_stays_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/person")
    monkeypatch.setenv("USERPROFILE", "/home/person")
    assert parse_path("~/loras/x.safetensors") == Path("/home/person/loras/x.safetensors")
    assert parse_path("~nobody-has-this-name/x.png") == Path("~nobody-has-this-name/x.png")
