"""Search and replace as an axis of a sweep: `wheels=>doors,windows` makes each of these words instead."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["Replacement", "unfound", "variants"]


@dataclass(frozen=True)
class Replacement:
    """A word, or some in a row, and what stands in its place.

    Arguments:
        searched: What is searched, as whole words, in whichever case.
        choices: What stands in its place, one after the other; the searched words themselves may be among them.
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
        found = tuple(choice.strip() for choice in choices.split(",") if choice.strip())
        if not arrow or not searched.strip() or not found:
            raise ValueError(f"'{text}' is no replacement: write 'wheels=>doors,windows'")
        return cls(searched.strip(), found)

    def apply(self, text: str, choice: str) -> str:
        """A text with a choice in the place of what is searched."""
        return re.sub(rf"(?<!\w){re.escape(self.searched)}(?!\w)", lambda _: choice, text, flags=re.IGNORECASE)


def unfound(prompt: str, negative: Sequence[str], replacements: Sequence[Replacement]) -> list[str]:
    """What is wrong with replacements whose searched words are neither in a prompt nor in its negatives."""
    return [
        f"'{one.searched}' of --sr is neither in its prompt nor in its negative"
        for one in replacements
        if all(one.apply(text, "\0") == text for text in (prompt, *negative))
    ]


def variants(
    prompt: str, negative: Sequence[str], replacements: Sequence[Replacement]
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Every combination of choices, with the prompt and the negatives that it makes; the last replacement changes fastest."""
    for choices in product(*(one.choices for one in replacements)):
        replaced, left_out = prompt, tuple(negative)
        for one, choice in zip(replacements, choices, strict=True):
            replaced = one.apply(replaced, choice)
            left_out = tuple(one.apply(text, choice) for text in left_out)
        yield choices, replaced, left_out
