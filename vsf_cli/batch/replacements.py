"""Search and replace in the rows of a table."""

import math
from collections.abc import Sequence
from dataclasses import replace

from vsf_cli.batch.items import MAX_ITEMS
from vsf_cli.batch.table import Row, TableErrors
from vsf_cli.config.names import counted
from vsf_cli.errors import RequestError
from vsf_cli.generation.outputs import slug
from vsf_cli.prompts.replacements import Replacement, found, unfound, variants
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.options import NOTHING, Given

__all__ = ["apply_replacements"]


def apply_replacements(
    source: str, rows: Sequence[Row], replacements: Sequence[Replacement], given: Given = NOTHING
) -> tuple[list[Row], list[str]]:
    """Returns each row with every combination of the replacements whose words it has, and notes about the rows without them.

    A column for each replacement holds the choice. `source` names the table in errors; `given` has the negative and kept
    prompts of rows without any.

    Raises:
        TableErrors: If no row has the searched words of a replacement in any of its texts.
        RequestError: If there would be too many rows.
    """
    if not replacements:
        return list(rows), []
    if (count := len(rows) * math.prod(len(one.choices) for one in replacements)) > MAX_ITEMS:
        raise RequestError(f"--sr makes {count} rows of {source}, but a run has {MAX_ITEMS} at most: make fewer at once")
    acting = [found(row.texts(given), replacements) for row in rows]
    without = [(one, sum(not any(one is other for other in own) for own in acting)) for one in replacements]
    if missing := [unfound(one) for one, count in without if count == len(rows)]:
        raise TableErrors(source, missing)
    notes = [f"'{one.searched}' of --sr is not in the texts of {counted(count, 'row')}" for one, count in without if count]
    replaced = [
        _row(row, own, choices, texts)
        for row, own in zip(rows, acting, strict=True)
        for choices, texts in variants(row.texts(given), own)
    ]
    return replaced, notes


def _row(row: Row, replacements: Sequence[Replacement], choices: Sequence[str], texts: Texts) -> Row:
    columns = {f"{one.searched}=>": choice for one, choice in zip(replacements, choices, strict=True)}
    name = row.name and "-".join([row.name, *(slug(choice) for choice in choices)])
    cells = {**row.cells, **columns}
    return replace(row, prompt=texts.prompt, negative=texts.negative, keep=texts.keep, name=name, cells=cells)
