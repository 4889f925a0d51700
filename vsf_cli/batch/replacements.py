"""Search and replace in the rows of a table."""

import math
from collections.abc import Sequence
from dataclasses import replace

from vsf_cli.batch.table import Row, TableErrors
from vsf_cli.errors import RequestError
from vsf_cli.generation.outputs import slug
from vsf_cli.prompts.replacements import Replacement, unfound, variants
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.options import NOTHING, Given

__all__ = ["apply_replacements"]

MAX_ROWS = 100_000


def apply_replacements(
    source: str, rows: Sequence[Row], replacements: Sequence[Replacement], given: Given = NOTHING
) -> list[Row]:
    """Returns each row with every combination of replacements, and a column for each replacement that holds the choice.

    `source` names the table in errors; `given` has the negative and kept prompts of rows without any.

    Raises:
        TableErrors: If a row has none of the searched words, in any of its texts.
        RequestError: If there would be too many rows.
    """
    if not replacements:
        return list(rows)
    if (count := len(rows) * math.prod(len(one.choices) for one in replacements)) > MAX_ROWS:
        raise RequestError(f"--sr makes {count} rows of {source}, but a run has {MAX_ROWS} at most: make fewer at once")
    messages = [(row.line, text) for row in rows for text in unfound(row.texts(given), replacements)]
    if messages:
        raise TableErrors(source, [f"line {line}: {text}" for line, text in messages])
    return [
        _row(row, replacements, choices, texts) for row in rows for choices, texts in variants(row.texts(given), replacements)
    ]


def _row(row: Row, replacements: Sequence[Replacement], choices: Sequence[str], texts: Texts) -> Row:
    columns = {f"{one.searched}=>": choice for one, choice in zip(replacements, choices, strict=True)}
    name = row.name and "-".join([row.name, *(slug(choice) for choice in choices)])
    cells = {**row.cells, **columns}
    return replace(row, prompt=texts.prompt, negative=texts.negative, keep=texts.keep, name=name, cells=cells)
