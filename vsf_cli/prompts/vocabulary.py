"""Looks at the words of prompts before anything is loaded: words that a model does not know, and negatives that cannot work."""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence

from vsf_cli.errors import RequestError

__all__ = ["REAL_PRESET", "REAL_VIDEO_PRESET", "STOP_WORDS", "check_vocabulary", "hints"]

NEGATIONS = re.compile(r"^(?:no|not|without|never|don't|do not|avoid)\s+(?:an?\s+|any\s+|the\s+)?(?P<rest>.+)$", re.IGNORECASE)

QUALITY = frozenset(
    (
        *("blurry", "blur", "blurred", "lowres", "low-quality", "quality", "worst", "bad", "ugly", "jpeg", "artifacts"),
        *("noisy", "noise", "grainy", "deformed", "distorted", "watermark", "oversaturated", "overexposed", "pixelated"),
    )
)

STOP_WORDS = frozenset({"a", "an", "the", "with", "and", "or", "of", "on", "in", "at", "over", "under", "to", "by", "for"})

REAL_PRESET, REAL_VIDEO_PRESET = "sd3.5-large-turbo", "wan2.1-1.3b-causvid"


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+", text.lower())


def _unknown(text: str, vocabulary: Collection[str]) -> list[str]:
    return list(dict.fromkeys(word for word in _words(text) if word not in vocabulary))


def _suggest(words: Sequence[str], vocabulary: Collection[str]) -> str:
    near = [difflib.get_close_matches(word, vocabulary, 1) for word in words]
    found = [matches[0] for matches in near if matches]
    return f" Did you mean {', '.join(repr(word) for word in found)}?" if found else ""


def check_vocabulary(prompt: str, negative: Sequence[str], vocabulary: Collection[str], video: bool = False) -> list[str]:
    """Holds the words of a request against those that a model was trained on.

    Arguments:
        prompt: What is wanted.
        negative: What is not wanted.
        vocabulary: The words that the model knows, in lower case.
        video: Whether it makes clips.

    Returns:
        Warnings, a line each.

    Raises:
        RequestError: If a negative has an unknown word, or nothing of the prompt is known.
    """
    real = REAL_VIDEO_PRESET if video else REAL_PRESET
    advice = f"It knows {', '.join(sorted(vocabulary))}; for any word, choose a real model: --preset {real}"
    for text in negative:
        if unknown := _unknown(text, vocabulary):
            if doubled := list(_double_negations([text])):
                raise RequestError(doubled[0])
            raise RequestError(
                f"negative '{text}' has words that this model does not know: {', '.join(unknown)}."
                f"{_suggest(unknown, vocabulary)} {advice}"
            )
    unknown = _unknown(prompt, vocabulary)
    if not any(word in vocabulary and word not in STOP_WORDS for word in _words(prompt)):
        raise RequestError(f"prompt '{prompt}' has no word that this model knows.{_suggest(unknown, vocabulary)} {advice}")
    if unknown:
        named = ", ".join(unknown)
        return [f"this model does not know {named} and takes no notice.{_suggest(unknown, vocabulary)} {advice}"]
    return []


def _double_negations(negative: Sequence[str]) -> Iterator[str]:
    for text in negative:
        if match := NEGATIONS.match(text.strip()):
            yield f"negative '{text}' says what is not wanted twice: write --neg '{match['rest']}'"


def hints(negative: Sequence[str], guides_attention: bool = True) -> Iterator[str]:
    """What is likely to be meant otherwise in negative prompts, a line each.

    Arguments:
        negative: What is not wanted.
        guides_attention: Whether the method acts inside attention, where words of quality have little effect.
    """
    yield from _double_negations(negative)
    flaws = sorted({word for text in negative for word in _words(text)} & QUALITY)
    if flaws and guides_attention:
        yield f"VSF removes things, not flaws: '{', '.join(flaws)}' as a negative is not likely to make the picture better"
