"""The value `auto` of `--alpha`: strengths that are tried upwards, until a judge is content with the image."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vsf_cli.config.ranges import parse_range
from vsf_cli.errors import RequestError

__all__ = ["AUTO", "Strength", "given_strengths", "is_auto", "numbers_of_strength", "parse_strengths"]

AUTO = "auto"
NONE = "none"
MAX_STRENGTHS = 100


@dataclass(frozen=True)
class Strength:
    """A strength of VSF.

    Arguments:
        alpha: The flip strength; None means no guidance.
        contrast: The contrast; None means the request's own.
    """

    alpha: float | None
    contrast: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The hyper-parameters of VSF that it changes."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        if self.alpha is None:
            return NONE
        return f"{self.alpha:.10g}" if self.contrast is None else f"{self.alpha:.10g}@{self.contrast:.10g}"


def numbers_of_strength(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some hyper-parameters that a strength changes."""
    return {name: numbers[name] for name in Strength.__dataclass_fields__ if name in numbers}


def is_auto(value: Any) -> bool:
    """Returns whether the value of an option is `auto`, perhaps with strengths."""
    return isinstance(value, str) and value.partition(":")[0].strip().lower() == AUTO


def given_strengths(text: str) -> str:
    """Returns the strengths of a value such as "auto:1,2,4"; "" if it has none, which means the preset's.

    Raises:
        ValueError: If they cannot be parsed.
    """
    _, colon, strengths = text.partition(":")
    if colon:
        parse_strengths(strengths)
    return strengths.strip()


def parse_strengths(text: str) -> tuple[Strength, ...]:
    """Returns the strengths of a text such as "none,1,2,4@0.9", the smallest first.

    "none" is no guidance, what follows "@" is the contrast, and numbers may be the ranges of `parse_range`.

    Raises:
        ValueError: If the text cannot be parsed, or names a strength twice.
        RequestError: If there would be too many.
    """
    strengths: list[Strength] = []
    for part in text.split(","):
        numbers, at, contrast = part.partition("@")
        if numbers.strip() == NONE and not at:
            strengths.append(Strength(None))
            continue
        try:
            (own,) = parse_range(contrast) if at else (None,)
            strengths += [Strength(alpha, own) for alpha in parse_range(numbers)]
        except ValueError as error:
            raise ValueError(f"'{part.strip()}' is no strength: write auto, or auto:none,1,2,4@0.9") from error
    if len(strengths) > MAX_STRENGTHS:
        raise RequestError(f"auto would try {len(strengths)} strengths, but {MAX_STRENGTHS} is the most: name fewer")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"'{text.strip()}' names a strength twice")
    return tuple(sorted(strengths, key=lambda one: -math.inf if one.alpha is None else one.alpha))
