r"""Weights inside the text of prompts: `wheels:2`, `a hat (with feathers:0.5)`, and NegPip's `(wheels:-1.5)` in a prompt.

The grammar, which is read and never guessed:

- A negative that ends on `:NUMBER` has that weight; without one it weighs 1.
- `(words:NUMBER)` inside a negative weighs these words by it, beside the weight of the whole.
- A digit before the colon makes it text, as in `ratio 3:2`, and so does a backslash: `\:`, `\(` and `\)` stand for themselves.
- In a positive prompt only `(words:-NUMBER)` is read: the words are taken out, and become a negative of that weight.
"""

import re
from dataclasses import dataclass

from vsf_cli.errors import RequestError

__all__ = ["Weighted", "move_negatives", "parse_weights"]

_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+))"
_WHOLE = re.compile(rf"(?<![\d\\])\s*(?<!\\):\s*{_NUMBER}\s*$")
_PART = re.compile(rf"(?<!\\)\(([^()]*?[^()\d\s\\])\s*:\s*{_NUMBER}\s*\)")
_MOVED = re.compile(rf"(?<!\\)\(([^()]*?[^()\d\s\\])\s*:\s*-\s*{_NUMBER.replace('[+-]?', '')}\s*\)")
_ESCAPED = re.compile(r"\\([:()])")


@dataclass(frozen=True)
class Weighted:
    """A negative prompt with its weights.

    Arguments:
        text: What is encoded, without weights.
        weight: That of the whole.
        parts: Spans of the text, each with its first character, the one behind its last, and its weight.
    """

    text: str
    weight: float = 1.0
    parts: tuple[tuple[int, int, float], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether everything weighs 1."""
        return self.weight == 1 and not self.parts

    def at(self, place: int | None) -> float:
        """The weight of a token by its word's first character; None for one that is no word's."""
        inner = 1.0 if place is None else next((weight for start, end, weight in self.parts if start <= place < end), 1.0)
        return self.weight * inner


def parse_weights(negative: str) -> Weighted:
    """Reads the weights in the text of a negative prompt.

    Raises:
        RequestError: If a weight is negative.
    """
    text, weight = " ".join(negative.split()), 1.0
    if found := _WHOLE.search(text):
        text, weight = text[: found.start()], float(found[1])
    pieces: list[str] = []
    parts: list[tuple[int, int, float]] = []
    place = 0
    for found in _PART.finditer(text):
        pieces.append(_unescaped(text[place : found.start()]))
        start = sum(map(len, pieces))
        pieces.append(_unescaped(found[1]))
        parts.append((start, sum(map(len, pieces)), float(found[2])))
        place = found.end()
    pieces.append(_unescaped(text[place:]))
    if weight < 0 or any(inner < 0 for _, _, inner in parts):
        raise RequestError(f"negative '{negative}' has a weight below 0: what is wanted belongs into the prompt")
    return Weighted("".join(pieces), weight, tuple(parts))


def move_negatives(prompt: str) -> tuple[str, tuple[str, ...]]:
    """A prompt without its `(words:-NUMBER)`, and these as negatives with their weights.

    ::

        move_negatives("a bike (wheels:-1.5) on a road")  # ("a bike on a road", ("wheels:1.5",))
    """
    moved = tuple(f"{found[1].strip()}:{found[2]}" for found in _MOVED.finditer(prompt))
    if not moved:
        return prompt, ()
    left = _MOVED.sub(" ", prompt)
    return re.sub(r"\s+([,.;])", r"\1", " ".join(left.split())).strip(" ,"), moved


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
