"""Checks the words of prompts before a model is loaded: words that it does not know, and negatives that cannot work."""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from vsf_cli.errors import RequestError, UnknownWords
from vsf_cli.prompts.texts import Texts

__all__ = ["REAL_PRESET", "REAL_VIDEO_PRESET", "STOP_WORDS", "check_vocabulary", "hints", "unknown_words"]

NEGATIONS = re.compile(r"^(?:no|not|without|never|don't|do not|avoid)\s+(?:an?\s+|any\s+|the\s+)?(?P<rest>.+)$", re.IGNORECASE)

QUALITY = frozenset(
    (
        *("blurry", "blur", "blurred", "lowres", "quality", "worst", "bad", "ugly", "jpeg", "artifacts"),
        *("noisy", "noise", "grainy", "deformed", "distorted", "watermark", "oversaturated", "overexposed", "pixelated"),
    )
)

STOP_WORDS = frozenset({"a", "an", "the", "with", "and", "or", "of", "on", "in", "at", "over", "under", "to", "by", "for"})

NEAR = 0.65
"""How alike a word has to be to one that is suggested: more than "blurry" and "blue", and no more than "hta" and "hat"."""

REAL_PRESET, REAL_VIDEO_PRESET = "sd3.5-large-turbo", "wan2.1-1.3b-causvid"


def _words(text: str) -> list[str]:
    # As the tokenizers of the models with a vocabulary find them: in lower case, between anything but letters and digits; and
    # emoji, which are no words.
    found = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]+", text.lower())
    return [word for one in found if (word := one if one[0].isalnum() else _emoji(one))]


def _emoji(signs: str) -> str:
    """Returns what is left of signs without punctuation."""
    return "".join(sign for sign in signs if unicodedata.category(sign) == "So")


def _is_about(text: str, vocabulary: Collection[str]) -> bool:
    """Whether a text names anything that a model knows."""
    return any(word in vocabulary and word not in STOP_WORDS for word in _words(text))


def _unknown(text: str, vocabulary: Collection[str]) -> list[str]:
    return list(dict.fromkeys(word for word in _words(text) if word not in vocabulary))


def _near(unknown: Sequence[str], vocabulary: Collection[str]) -> str:
    # A slip is rarely in the first letter: "shiny" is no "chimney".
    alike = {word: [known for known in vocabulary if known[0] == word[0]] for word in unknown}
    near = [match for word in unknown for match in difflib.get_close_matches(word, alike[word], 1, NEAR)]
    return f" Did you mean {', '.join(map(repr, near))}?" if near else ""


def _advice(vocabulary: Collection[str], video: bool) -> str:
    """Returns what a model knows, and what knows more. It is long, and so told once."""
    known = ", ".join(sorted(word for word in vocabulary if word not in STOP_WORDS))
    return f"this model knows {known}; for any word: --preset {REAL_VIDEO_PRESET if video else REAL_PRESET}"


def check_vocabulary(texts: Texts, vocabulary: Collection[str], video: bool = False) -> list[str]:
    """Returns warnings about words of a prompt that are not in the vocabulary of a model, which is in lower case.

    The last warning has the words that the model knows, and is the same for all prompts.

    Raises:
        UnknownWords: If a negative or kept prompt has an unknown word, or no word of the prompt is known.
    """
    prompt, advice = texts.prompt, _advice(vocabulary, video)
    for role, text, message in unknown_words(texts, vocabulary):
        for doubled in _double_negations([text] if role == "negative" else []):
            raise RequestError(doubled)
        if role == "negative" and (flaws := _flaws([text])):
            raise RequestError(f"{flaws}: name a thing")
        raise UnknownWords(message, advice)
    unknown = _unknown(prompt, vocabulary)
    if not _is_about(prompt, vocabulary):
        raise UnknownWords(f"prompt '{prompt}' has no word that this model knows.{_near(unknown, vocabulary)}", advice)
    warning = f"this model does not know {', '.join(unknown)}, and takes no notice.{_near(unknown, vocabulary)}"
    return [warning, advice] if unknown else []


def unknown_words(texts: Texts, vocabulary: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yields the role, the text and a message of each negative and kept prompt with words that are not in a vocabulary.

    So it does for one that has none at all.
    """
    for role, text in (*(("negative", text) for text in texts.negative), *(("kept", text) for text in texts.keep)):
        if unknown := _unknown(text, vocabulary):
            words = f"{role} '{text}' has words that this model does not know: {', '.join(unknown)}."
            yield role, text, f"{words}{_near(unknown, vocabulary)}"
        elif text.strip() and not _is_about(text, vocabulary):
            yield role, text, f"{role} '{text}' has no word that this model knows."


def _double_negations(negative: Sequence[str]) -> Iterator[str]:
    for text in negative:
        if match := NEGATIONS.match(text.strip()):
            yield f"negative '{text}' says what is not wanted twice: write --neg '{match['rest']}'"


def hints(negative: Sequence[str], kept: Sequence[str] = (), guides_attention: bool = True) -> Iterator[str]:
    """Yields hints about negative prompts that are likely to have no effect.

    Arguments:
        negative, kept: The negative and the kept prompts.
        guides_attention: Whether the method acts inside attention, where words of quality have little effect.
    """
    yield from _double_negations(negative)
    spared = {tuple(_words(text)) for text in kept}
    for text in negative:
        if tuple(_words(text)) in spared:
            yield f"'{text}' is in --neg and in --keep, so that little of it goes: leave it out of one of them"
    if guides_attention and (flaws := _flaws(negative)):
        yield flaws


def _flaws(negative: Sequence[str]) -> str:
    """Returns what is said of negatives that are flaws; "" if none is."""
    flaws = sorted({word for text in negative for word in _words(text)} & QUALITY)
    told = f"VSF removes things, not flaws: '{', '.join(flaws)}' as a negative is not likely to make the image better"
    return told if flaws else ""
