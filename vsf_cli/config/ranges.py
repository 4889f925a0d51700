"""Lists and ranges of numbers in one option or cell, in our syntax and in A1111's."""

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from vsf_cli.config.names import counted
from vsf_cli.errors import RequestError

__all__ = ["MAX_VALUES", "ValueList", "combinations", "parse_indices", "parse_range", "split_sweeps"]

MAX_VALUES = 10_000
_NUMBER = r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf|nan)"
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


class ValueList(tuple[float, ...]):
    """The values of an option, at least one."""


def parse_range(text: str, kind: type = float) -> ValueList:
    """Returns the numbers of a list or range. Whole numbers are exact, however large.

    ======================= ======================================================
    ``1,2,5``               these
    ``0..6/7``              7 numbers from 0 to 6, evenly spaced
    ``1..5``                1, 2, 3, 4, 5
    ``1:5:0.5``             from 1 to 5, 0.5 apart; the last is left out if the steps miss it
    ``1-5 [5]``, ``1-5 (+2)``, ``1-5``  A1111's syntax of a count, a step, and steps of 1
    ======================= ======================================================

    Commas join any of these. With `kind` `int` only whole numbers are legal.

    Raises:
        ValueError: If the text cannot be parsed.
        RequestError: If there would be more than `MAX_VALUES`.
    """
    values: list[Fraction | float] = []
    for part in text.split(","):
        values += _parse_part(part)[1]
        _check_count(len(values), text)
    return ValueList(_to_int(values, text) if kind is int else map(float, values))


def parse_indices(text: str, noun: str) -> list[int]:
    """Returns whole numbers of at least 0, in the syntax of `parse_range`; messages name them by a noun, such as "seed".

    Raises:
        ValueError: If the text cannot be parsed.
        RequestError: If a range without a step runs down, or there would be more than `MAX_VALUES`.
    """
    indices: list[int] = []
    for part in text.split(","):
        try:
            shape, values = _parse_part(part)
            numbers = _to_int(values, part)
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 0:
            raise ValueError(f"'{part.strip()}' is no {noun}: write 7, or 1,2,3, or 1..8, or 1:9:2")
        if shape in ("dots", "a1111") and numbers[-1] < numbers[0]:
            raise RequestError(f"the range of {noun}s {part.strip()} is empty: write the smaller number first")
        indices += numbers
        _check_count(len(indices), text)
    return indices


def _parse_part(part: str) -> tuple[str, Sequence[Fraction | float]]:
    """Returns the shape of a part without commas, and its numbers; infinities and nan are floats."""
    shape, match = next(((name, match) for name, shape in _SHAPES.items() if (match := shape.fullmatch(part))), (None, None))
    if shape is None or match is None:
        raise ValueError(f"'{part.strip()}' is no number: write 3, or 1,2,3, or 0..6/7, or 1:5:0.5")
    if shape == "one":
        return shape, [_number(match[1])]
    first, last = _number(match[1]), _number(match[2])
    if isinstance(first, float) or isinstance(last, float):
        raise ValueError(f"'{part.strip()}' is a range to infinity")
    if shape in ("count", "a1111 count"):
        return shape, _spaced(first, last, int(match[3]), part)
    step = _number(match[3]) if match.re.groups == 3 and match[3] else Fraction(1 if last >= first else -1)
    return shape, _stepped(first, last, step, part)


def _number(text: str) -> Fraction | float:
    # By its float first: a fraction of 1e999999999 would fill the memory.
    value = float(text)
    return Fraction(text) if value and math.isfinite(value) else value if value else Fraction(0)


def _spaced(first: Fraction, last: Fraction, count: int, part: str) -> list[Fraction]:
    _check_count(count, part)
    if count < 2:
        raise ValueError(f"'{part.strip()}' has {counted(count, 'number')}, but a range has at least 2")
    return _tidy([first + (last - first) * index / (count - 1) for index in range(count)])


def _stepped(first: Fraction, last: Fraction, step: Fraction | float, part: str) -> list[Fraction]:
    if isinstance(step, float) or step == 0 or (last - first) / step < 0:
        raise ValueError(f"'{part.strip()}' never arrives: its step is {float(step):g}")
    count = (last - first) // step + 1
    _check_count(count, part)
    return _tidy([first + step * index for index in range(count)])


def _tidy(numbers: list[Fraction]) -> list[Fraction]:
    """Rounds numbers to 13 digits of the largest, so that a third is short in file names."""
    largest = float(max(abs(number) for number in numbers))
    digits = 12 - math.floor(math.log10(largest)) if largest else 0
    return [number if number.denominator == 1 else round(number, digits) for number in numbers]


def _to_int(values: Sequence[Fraction | float], text: str) -> list[int]:
    broken = [value for value in values if isinstance(value, float) or value.denominator != 1]
    if broken:
        raise ValueError(f"'{text.strip()}' has {float(broken[0]):g}, but must be whole")
    return [int(value) for value in values]


def _check_count(count: int, text: str) -> None:
    if count > MAX_VALUES:
        raise RequestError(f"'{text.strip()}' stands for more than {MAX_VALUES} numbers")


def split_sweeps(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ValueList]]:
    """Returns each option with its first value, and the options with several values."""
    plain = {name: value[0] if isinstance(value, ValueList) else value for name, value in options.items()}
    return plain, {name: value for name, value in options.items() if isinstance(value, ValueList) and len(value) > 1}


def combinations(sweeps: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of one value for each name; the last name changes fastest."""
    return [dict(zip(sweeps, values, strict=True)) for values in product(*sweeps.values())]
