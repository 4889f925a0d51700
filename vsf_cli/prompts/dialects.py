"""Finds what other programs read in prompts and this one does not, so that it would reach the model as plain text."""

import re
from collections.abc import Iterator

from vsf_cli.prompts.prompt_weights import DASHES, MIDJOURNEY_NO, move_negatives, without_weights
from vsf_cli.prompts.texts import Texts

__all__ = ["dialect_warnings", "without_syntax"]

_NUMBER = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)"
_SYNTAX = {
    r"<(?:lora|lyco|hypernet)\b[^<>]*>": "give LoRA files by --lora",
    r"(?<!\w)embedding:[\w.\-]+": "embeddings of other programs are not read: leave it out",
    r"(?<!\w)__[\w/\-]+__(?!\w)|(?<!\\)\{[^{}|]*\|[^{}]*\}": "to try words in turn, give --sr 'red=>blue,green'",
    r"(?<!\\)\[[^\[\]:|]*[:|][^\[\]]*\]": "words cannot change between steps: write those that are meant",
    rf"(?<![\w\-])(?:--[A-Za-z][\w\-]*|{DASHES}(?:no|ar|v|s|seed|neg)\b)(?: [\w.:]+)?": "options stand outside of the prompt,"
    " such as --size 1024x576",
    r"(?i:\bnegative[ _]prompt:)|(?<!\S)Steps: \d+(?=,|$)|(?<!\S)/imagine\b": "write the words alone, and give"
    " --neg, --seed and --steps beside them",
    r"(?<=[a-z,.)] )AND(?= [a-z(])|(?<![A-Z] )\bBREAK\b(?! [A-Z]{2}|$)|\b(?:ADD(?:BASE|COMM|COL|ROW)|AND_[A-Z]+)\b": "a prompt"
    " is one text: leave it out",
    r"\w::": "a prompt is one text, whose parts have no weights: leave it out",
    r"[\"']\s*\)\s*\.(?:blend|and|swap)\(": "prompts are not blended: write one text",
    r"(?<!\\)\(\s*\([^()]*\)\s*\)|(?<!\\)\([^()]*[^()\\]\)(?:[+-]+|\d*\.\d+)|(?<![a-z])[a-z]{3,}(?:\+\+|--)(?![\w+\-])"
    rf"|(?<!\\)\([^()]*[^()\d\s\\]\s*:\s*{_NUMBER}\s*\)|[^\d\s\\]\s*:\s*\d+,\d+$"
    r"|[^\W_]{0,20}[^\W\d_][:：][+\-−]?(?:\.?\d[\d.e+\-]*|inf|nan)(?=[\s:;,)）]|$)"
    r"|(?<!\\)\[[^\[\]:|]+\]|(?<!\\)\{[^{}|]+\}|[^\d\s\\]\s*:\s*\d+(?:\.\d*)?\)": "",
}
"""The syntax of other programs as patterns, with what to do instead; "" for weights, for which that differs."""
_NO_WORDS = re.compile(rf"<(?:lora|lyco|hypernet)\b[^<>]*>|(?<!\w)embedding:[\w.\-]+|:\s*{_NUMBER}(?=\s*[)\]])", re.IGNORECASE)
"""What in that syntax is no word that a model could know."""


def dialect_warnings(texts: Texts) -> Iterator[str]:
    """Yields a warning for each kind of syntax in the texts that has no meaning here."""
    for match in MIDJOURNEY_NO.finditer(" ".join(texts.prompt.split())):
        yield f"'{match[0]}' in the prompt is read as --neg '{match[1]}'"
    weightless = "write the words alone, since those of a prompt have no weights; only (words:-1) is read, as --neg 'words'"
    yield from _warnings("prompt", " ".join(move_negatives(texts.prompt)[0].split()), weightless)
    for role, others in (("negative", texts.negative), ("keep", texts.kept)):
        for text in others:
            yield from _warnings(role, without_weights(text), "write a weight as (words:1.5)")


def without_syntax(text: str) -> str:
    """Returns a text without the names and numbers in it that `dialect_warnings` tells of, and that are no words."""
    return _NO_WORDS.sub(" ", text)


def _warnings(role: str, text: str, of_weights: str) -> Iterator[str]:
    for pattern, advice in _SYNTAX.items():
        if match := re.search(pattern, text):
            yield f"{role} has '{match[0].strip()[:60]}', which the model reads as plain text: {advice or of_weights}"
