r"""Weights inside the text of prompts: `wheels:2`, `a hat (with feathers:0.5)`, and NegPip's `(wheels:-1.5)` in a prompt.

The grammar:

- A negative that ends with `:NUMBER` has that weight; its default is 1.
- `(words:NUMBER)` inside a negative multiplies the weight of these words.
- A colon after a digit is text, as in `ratio 3:2`, and so is what follows a backslash: `\:`, `\(` and `\)`.
- In a positive prompt only `(words:-NUMBER)` is read: the words are removed, and become a negative of that weight.
  So is Midjourney's `--no words`, up to the next `--` or the end.
- Words in brackets are words of their own: `(red:2)(hat:3)` is `red hat`. Brackets around these mean nothing more.
"""

import re
from dataclasses import dataclass, replace

from vsf_cli.errors import RequestError

__all__ = ["DASHES", "MIDJOURNEY_NO", "Weighted", "move_negatives", "parse_weights", "without_weights"]

MAX_DEPTH = 20
"""The number of brackets around others that are read."""
DASHES = "[—–]"
"""What editors write in place of two dashes."""
_NUMBER = r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))"
_WHOLE = re.compile(rf"(?<![\d\\:])\s*(?<![\\:]):\s*{_NUMBER}\s*$")
_PART = re.compile(rf"(?<!\\)\(([^()]*?[^()\d\s\\:])\s*:\s*{_NUMBER}\s*\)")
_MOVED = re.compile(rf"(?<!\\)\(([^()]*?[^()\d\s\\])\s*:\s*[-−]\s*{_NUMBER.replace('[+-]?', '')}\s*\)")
_EMPTY = re.compile(rf"(?<!\\)[(\[{{][\s,;]*(?::\s*{_NUMBER}\s*)?[)\]}}]")
_DOUBLED = re.compile(rf"(?<!\\)\(\s*(\([^()]*[^()\d\s\\]\s*:\s*{_NUMBER}\s*\))\s*\)")
MIDJOURNEY_NO = re.compile(rf"(?<!\S)(?:--|{DASHES})no (.+?)(?= (?:--|{DASHES})\w|$)", re.IGNORECASE)
"""Midjourney's negative in a prompt whose words are one space apart."""
_ESCAPED = re.compile(r"\\([:()])")


@dataclass(frozen=True)
class Weighted:
    """A negative prompt with its weights.

    Arguments:
        text: The text without weights, which is encoded.
        weight: The weight of the whole text.
        parts: The start, the end and the weight of spans of the text.
    """

    text: str
    weight: float = 1.0
    parts: tuple[tuple[int, int, float], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether everything weighs 1."""
        return self.weight == 1 and not self.parts

    def times(self, factor: float) -> "Weighted":
        """Returns it with all weights times a factor."""
        return replace(self, weight=factor * self.weight)

    def at(self, index: int | None) -> float:
        """The weight of a token whose word starts at a character of the text; None for a token without a word."""
        inner = 1.0 if index is None else next((weight for start, end, weight in self.parts if start <= index < end), 1.0)
        return self.weight * inner


def parse_weights(negative: str) -> Weighted:
    """Reads the weights in the text of a negative prompt.

    Raises:
        RequestError: If a weight is negative.
    """
    text, weight = _until_same(_DOUBLED, r"\1", " ".join(negative.split())), 1.0
    if whole := _WHOLE.search(text):
        text, weight = text[: whole.start()], float(whole[1])
    plain, end = "", 0
    parts: list[tuple[int, int, float]] = []
    for part in _PART.finditer(text):
        plain = _joined(plain, _unescaped(text[end : part.start()]))
        words, end = _unescaped(part[1]), part.end()
        plain = _joined(plain, words)
        parts.append((len(plain) - len(words), len(plain), float(part[2])))
    if weight < 0 or any(inner < 0 for _, _, inner in parts):
        raise RequestError(f"negative '{negative}' has a weight below 0: what is wanted belongs into the prompt")
    return Weighted(_joined(plain, _unescaped(text[end:])), weight, tuple(parts))


def _joined(before: str, after: str) -> str:
    """Returns two texts as one, with a space between words of both."""
    return f"{before} {after}" if before[-1:].isalnum() and after[:1].isalnum() else before + after


def without_weights(negative: str) -> str:
    """Returns the text of a negative without its weights; what follows a backslash stays as it is."""
    return _PART.sub(r"\1", _WHOLE.sub("", _until_same(_DOUBLED, r"\1", " ".join(negative.split()))))


def move_negatives(prompt: str) -> tuple[str, tuple[str, ...]]:
    """Returns a prompt without its `(words:-NUMBER)` and `--no words`, and these as negatives with their weights.

    ::

        move_negatives("a bike (wheels:-1.5) on a road")  # ("a bike on a road", ("wheels:1.5",))
    """
    moved = tuple(f"{match[1].strip()}:{match[2]}" for match in _MOVED.finditer(prompt))
    rest = " ".join(_MOVED.sub(" ", prompt).split())
    moved = (*moved, *(match[1] for match in MIDJOURNEY_NO.finditer(rest)))
    if not moved:
        return prompt, ()
    rest = _until_same(_EMPTY, "", MIDJOURNEY_NO.sub("", rest))
    return re.sub(r"\s+([,.;)])", r"\1", re.sub(r"(,\s*)+,", ",", " ".join(rest.split()))).strip(" ,"), moved


def _until_same(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    for _ in range(MAX_DEPTH):
        before, text = text, pattern.sub(replacement, text)
        if text == before:
            break
    return text


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
