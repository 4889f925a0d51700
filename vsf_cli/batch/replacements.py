"""Search and replace in the rows of a table."""

from collections.abc import Sequence
from dataclasses import replace

from vsf_cli.batch.table import Row, TableErrors
from vsf_cli.generation.outputs import slug
from vsf_cli.prompts.replacements import Replacement, unfound, variants

__all__ = ["apply_replacements"]


def apply_replacements(
    source: str, rows: Sequence[Row], replacements: Sequence[Replacement], negative: Sequence[str] = ()
) -> list[Row]:
    """Returns each row with every combination of replacements, and a column for each replacement that holds the choice.

    `source` names the table in errors; `negative` has the negative prompts of rows without any.

    Raises:
        TableErrors: If a row has none of the searched words, in its prompt or its negatives.
    """
    if not replacements:
        return list(rows)
    rows = [replace(row, negative=tuple(negative)) if row.negative is None else row for row in rows]
    messages = [(row.line, text) for row in rows for text in unfound(row.prompt, row.negative or (), replacements)]
    if messages:
        raise TableErrors(source, [f"line {line}: {text}" for line, text in messages])
    return [
        _row(row, replacements, choices, prompt, negative)
        for row in rows
        for choices, prompt, negative in variants(row.prompt, row.negative or (), replacements)
    ]


def _row(row: Row, replacements: Sequence[Replacement], choices: Sequence[str], prompt: str, negative: tuple[str, ...]) -> Row:
    columns = {f"{one.searched}=>": choice for one, choice in zip(replacements, choices, strict=True)}
    name = row.name and "-".join([row.name, *(slug(choice) for choice in choices)])
    return replace(row, prompt=prompt, negative=negative, name=name, cells={**row.cells, **columns})
