"""Looks at the words of prompts before anything is loaded: words that a model does not know, and negatives that cannot work."""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence

from vsf_cli.errors import RequestError

__all__ = ["check_vocabulary", "hints"]

NEGATIONS = re.compile(r"^(?:no|not|without|never|don't|do not|avoid)\s+(?:an?\s+|any\s+|the\s+)?(?P<rest>.+)$", re.IGNORECASE)

QUALITY = frozenset(
    (
        *("blurry", "blur", "blurred", "lowres", "low-quality", "quality", "worst", "bad", "ugly", "jpeg", "artifacts"),
        *("noisy", "noise", "grainy", "deformed", "distorted", "watermark", "oversaturated", "overexposed", "pixelated"),
    )
)

REAL_PRESET = "sd3.5-large-turbo"


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+", text.lower())


def _unknown(text: str, vocabulary: Collection[str]) -> list[str]:
    return list(dict.fromkeys(word for word in _words(text) if word not in vocabulary))


def _suggest(words: Sequence[str], vocabulary: Collection[str]) -> str:
    near = [difflib.get_close_matches(word, vocabulary, 1) for word in words]
    found = [matches[0] for matches in near if matches]
    return f" Did you mean {', '.join(repr(word) for word in found)}?" if found else ""


def check_vocabulary(prompt: str, negative: Sequence[str], vocabulary: Collection[str]) -> list[str]:
    """Holds the words of a request against those that a model was trained on.

    Arguments:
        prompt: What is wanted.
        negative: What is not wanted.
        vocabulary: The words that the model knows, in lower case.

    Returns:
        Warnings, a line each.

    Raises:
        RequestError: If a negative has an unknown word, or nothing of the prompt is known.
    """
    advice = f"It knows {', '.join(sorted(vocabulary))}; for any word, choose a real model: --preset {REAL_PRESET}"
    for text in negative:
        if unknown := _unknown(text, vocabulary):
            raise RequestError(
                f"negative '{text}' has words that this model does not know: {', '.join(unknown)}."
                f"{_suggest(unknown, vocabulary)} {advice}"
            )
    unknown = _unknown(prompt, vocabulary)
    # Short words alone ("a", "on") do not say what is wanted.
    if not any(word in vocabulary and len(word) > 2 for word in _words(prompt)):
        raise RequestError(f"prompt '{prompt}' has no word that this model knows.{_suggest(unknown, vocabulary)} {advice}")
    if unknown:
        named = ", ".join(unknown)
        return [f"this model does not know {named} and takes no notice.{_suggest(unknown, vocabulary)} {advice}"]
    return []


def hints(negative: Sequence[str]) -> Iterator[str]:
    """What is likely to be meant otherwise in negative prompts, a line each."""
    for text in negative:
        if match := NEGATIONS.match(text.strip()):
            yield f"negative '{text}' says what is not wanted twice: write --neg '{match['rest']}'"
    flaws = sorted({word for text in negative for word in _words(text)} & QUALITY)
    if flaws:
        yield f"VSF removes things, not flaws: '{', '.join(flaws)}' as a negative is not likely to make the picture better"
