import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsf_cli.config.ranges import combinations, parse_indices, parse_range
from vsf_cli.errors import RequestError


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", (3,)),
        ("1,2,5", (1, 2, 5)),
        ("0..6/7", (0, 1, 2, 3, 4, 5, 6)),
        ("1:5:0.5", (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)),
        ("0:1:0.3", (0, 0.3, 0.6, 0.9)),
        ("0:0.3:0.1", (0, 0.1, 0.2, 0.3)),
        ("1..4", (1, 2, 3, 4)),
        ("4..1", (4, 3, 2, 1)),
        ("1:3", (1, 2, 3)),
        ("1-5 [5]", (1, 2, 3, 4, 5)),
        ("1-5 (+2)", (1, 3, 5)),
        ("5-1 (-2)", (5, 3, 1)),
        ("1-3", (1, 2, 3)),
        ("-1", (-1,)),
        ("-2..0", (-2, -1, 0)),
        ("1e-2, .5, inf", (0.01, 0.5, float("inf"))),
        ("1,3..5,8", (1, 3, 4, 5, 8)),
    ],
)
def test_every_spelling(text: str, numbers: tuple[float, ...]) -> None:
    assert parse_range(text) == numbers


@pytest.mark.parametrize(
    "text", ["", "a", "1..", "1,,2", "1..5/1", "1:5:0", "1:5:-1", "0..inf", "0..nan", "1-5 [x]", "1..5/", "0:1:1e999"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_range(text)


@pytest.mark.parametrize("text", ["0..1/100000", "0:1:1e-9", "1..1000000"])
def test_too_many_are_refused_before_they_are_made(text: str) -> None:
    with pytest.raises(RequestError, match="more than 10000"):
        parse_range(text)


def test_whole_numbers() -> None:
    numbers = parse_range("4,8..10", int)
    assert numbers == (4, 8, 9, 10) and all(type(number) is int for number in numbers)
    with pytest.raises(ValueError, match="whole"):
        parse_range("1:2:0.5", int)
    with pytest.raises(ValueError, match="whole"):
        parse_range("inf", int)


@pytest.mark.parametrize("start", [0, 2**53 + 1, 2**64 - 7])
def test_whole_numbers_are_exact_however_large(start: int) -> None:
    assert parse_range(str(start), int) == (start,)
    for text in (f"{start}..{start + 6}/3", f"{start}:{start + 6}:3", f"{start}-{start + 7} (+3)"):
        assert parse_range(text, int) == (start, start + 3, start + 6)
    assert parse_indices(f"{start},{start + 2}..{start + 3}", "seed") == [start, start + 2, start + 3]


def test_an_exponent_does_not_fill_the_memory() -> None:
    assert parse_range("1e999999999,1e-999999999") == (float("inf"), 0)


@given(st.floats(-100, 100), st.floats(-100, 100), st.integers(2, 50))
def test_a_count_gives_that_many_between_its_ends(first: float, last: float, count: int) -> None:
    numbers = parse_range(f"{first:.6f}..{last:.6f}/{count}")
    assert len(numbers) == count and numbers[0] == float(f"{first:.6f}") and numbers[-1] == float(f"{last:.6f}")


@given(st.text(max_size=20))
def test_any_text_is_numbers_or_one_of_two_errors(text: str) -> None:
    with contextlib.suppress(ValueError, RequestError):
        assert len(parse_range(text)) >= 1


def test_combinations() -> None:
    assert combinations({"alpha": (1, 2), "seed": (5, 6)}) == [
        {"alpha": 1, "seed": 5},
        {"alpha": 1, "seed": 6},
        {"alpha": 2, "seed": 5},
        {"alpha": 2, "seed": 6},
    ]
    assert combinations({}) == [{}]
