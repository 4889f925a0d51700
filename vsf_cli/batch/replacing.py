"""Search and replace as an axis of a sweep: `wheels=>doors,windows` makes each row with each of these words instead."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from vsf_cli.batch.table import Row, TableErrors
from vsf_cli.outputs import slug

__all__ = ["Replacement", "replaced"]


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


def replaced(place: str, rows: Sequence[Row], replacements: Sequence[Replacement]) -> list[Row]:
    """Each row with every combination of choices; a column for each replacement says which.

    Raises:
        TableErrors: If a row has none of the searched words, in its prompt or its negatives.
    """
    if not replacements:
        return list(rows)
    errors = [
        f"line {row.line}: '{one.searched}' of --sr is neither in its prompt nor in its negative"
        for row in rows
        for one in replacements
        if all(one.apply(text, "\0") == text for text in (row.prompt, *(row.negative or ())))
    ]
    if errors:
        raise TableErrors(place, errors)
    return [_row(row, replacements, choices) for row in rows for choices in product(*(one.choices for one in replacements))]


def _row(row: Row, replacements: Sequence[Replacement], choices: Sequence[str]) -> Row:
    prompt, negative = row.prompt, row.negative
    for one, choice in zip(replacements, choices, strict=True):
        prompt = one.apply(prompt, choice)
        negative = None if negative is None else tuple(one.apply(text, choice) for text in negative)
    columns = {f"{one.searched}=>": choice for one, choice in zip(replacements, choices, strict=True)}
    name = row.name and "-".join([row.name, *(slug(choice) for choice in choices)])
    return replace(row, prompt=prompt, negative=negative, name=name, cells={**row.cells, **columns})
