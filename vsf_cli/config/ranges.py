"""Several numbers in one option or cell: lists and ranges, in our own spelling and in A1111's."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["MOST_NUMBERS", "Numbers", "combinations", "parse_range", "split_sweeps"]

MOST_NUMBERS = 10_000
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf|nan)"
_SHAPES = {
    name: re.compile(pattern.replace("N", _NUMBER).replace(" ", r"\s*"))
    for name, pattern in {
        "one": " N ",
        "count": r" N \.\. N / (\d+) ",
        "colons": " N : N (?:: N )?",
        "dots": r" N \.\. N ",
        "a1111 count": r" N - N \[ (\d+) \] ",
        "a1111 step": r" N - N \( N \) ",
        "a1111": r" N - N ",
    }.items()
}


class Numbers(tuple[float, ...]):
    """The numbers of an option, at least one."""


def parse_range(text: str, kind: type = float) -> Numbers:
    """The numbers that a text stands for.

    ======================= ======================================================
    ``1,2,5``               these
    ``0..6/7``              7 numbers from 0 to 6, evenly spaced
    ``1..5``                1, 2, 3, 4, 5
    ``1:5:0.5``             from 1 to 5, 0.5 apart; the last is left out if the steps miss it
    ``1-5 [5]``, ``1-5 (+2)``, ``1-5``  A1111's spelling of a count, a step, and steps of 1
    ======================= ======================================================

    Parts joined by commas may be mixed.

    Arguments:
        text: The text.
        kind: `float`, or `int` if only whole numbers are legal.

    Raises:
        ValueError: If the text cannot be parsed.
        RequestError: If there would be more than `MOST_NUMBERS`.
    """
    numbers: list[float] = []
    for part in text.split(","):
        numbers += _parse_part(part)
        _check_count(len(numbers), text)
    if kind is int:
        if broken := [number for number in numbers if not math.isfinite(number) or number != int(number)]:
            raise ValueError(f"'{text.strip()}' has {broken[0]:g}, but must be whole")
        numbers = [int(number) for number in numbers]
    return Numbers(numbers)


def _parse_part(part: str) -> list[float]:
    found = next(((name, match) for name, shape in _SHAPES.items() if (match := shape.fullmatch(part))), None)
    if found is None:
        raise ValueError(f"'{part.strip()}' is no number: write 3, or 1,2,3, or 0..6/7, or 1:5:0.5")
    name, match = found
    if name == "one":
        return [float(match[1])]
    first, last = float(match[1]), float(match[2])
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"'{part.strip()}' is a range to infinity")
    if name in ("count", "a1111 count"):
        return _spaced(first, last, int(match[3]), part)
    step = float(match[3]) if match.re.groups == 3 and match[3] else math.copysign(1.0, last - first)
    return _stepped(first, last, step, part)


def _spaced(first: float, last: float, count: int, part: str) -> list[float]:
    _check_count(count, part)
    if count < 2:
        raise ValueError(f"'{part.strip()}' has {count} numbers, but a range has at least 2")
    return _tidy([first + (last - first) * index / (count - 1) for index in range(count)])


def _stepped(first: float, last: float, step: float, part: str) -> list[float]:
    if step == 0 or not math.isfinite(step) or (last - first) / step < 0:
        raise ValueError(f"'{part.strip()}' never arrives: its step is {step:g}")
    count = math.floor((last - first) / step + 1e-9) + 1
    _check_count(count, part)
    return _tidy([first + step * index for index in range(count)])


def _tidy(numbers: list[float]) -> list[float]:
    """Without the last digits that the arithmetic leaves: 0.3, not 0.30000000000000004."""
    largest = max(abs(number) for number in numbers)
    digits = 12 - math.floor(math.log10(largest)) if largest else 0
    return [round(number, digits) + 0.0 for number in numbers]


def _check_count(count: int, text: str) -> None:
    if count > MOST_NUMBERS:
        raise RequestError(f"'{text.strip()}' stands for more than {MOST_NUMBERS} numbers")


def split_sweeps(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Numbers]]:
    """Options with the first of their numbers each, and those that have several."""
    plain = {name: value[0] if isinstance(value, Numbers) else value for name, value in options.items()}
    return plain, {name: value for name, value in options.items() if isinstance(value, Numbers) and len(value) > 1}


def combinations(sweeps: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value for each name; the last name changes fastest."""
    return [dict(zip(sweeps, values, strict=True)) for values in product(*sweeps.values())]
