"""Search and replace as an axis of a sweep: `wheels=>doors,windows` makes each of these words instead."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from vsf_cli.prompts.texts import Texts

__all__ = ["Replacement", "found", "unfound", "variants"]


@dataclass(frozen=True)
class Replacement:
    """Words to search for, and what replaces them.

    Arguments:
        searched: Whole words; their case is ignored.
        choices: What replaces them, in turn; the searched words themselves may be among them.
    """

    searched: str
    choices: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Replacement":
        """Reads `wheels=>doors,windows`.

        Raises:
            ValueError: If it cannot be parsed.
        """
        searched, arrow, choices = text.partition("=>")
        parsed = tuple(choice.strip() for choice in choices.split(",") if choice.strip())
        if not arrow or not searched.strip() or not parsed:
            raise ValueError(f"'{text}' is no replacement: write 'wheels=>doors,windows'")
        return cls(searched.strip(), parsed)

    def apply_to(self, texts: Texts, choice: str) -> Texts:
        """Returns texts in which a choice replaces the searched words."""
        prompt, *others = (self.apply(text, choice) for text in texts.all)
        count = len(texts.negative)
        return Texts(prompt, tuple(others[:count]), tuple(others[count:]))

    def apply(self, text: str, choice: str) -> str:
        """Returns a text in which a choice replaces the searched words."""
        return re.sub(rf"(?<!\w){re.escape(self.searched)}(?!\w)", lambda _: choice, text, flags=re.IGNORECASE)


def found(texts: Texts, replacements: Sequence[Replacement]) -> list[Replacement]:
    """Returns the replacements whose searched words are in the texts, after those before them."""
    acting: list[Replacement] = []
    for one in replacements:
        if any(one.apply_to(replaced, "\0") != replaced for _, replaced in variants(texts, acting)):
            acting.append(one)
    return acting


def unfound(one: Replacement) -> str:
    """Returns the message that the searched words of a replacement are in none of the texts."""
    return f"'{one.searched}' of --sr is in none of its texts: neither in them nor in what an earlier --sr made of them"


def variants(texts: Texts, replacements: Sequence[Replacement]) -> Iterator[tuple[tuple[str, ...], Texts]]:
    """Yields every combination of choices, with the texts that it makes; the last replacement changes fastest."""
    for choices in product(*(one.choices for one in replacements)):
        replaced = texts
        for one, choice in zip(replacements, choices, strict=True):
            replaced = one.apply_to(replaced, choice)
        yield choices, replaced
