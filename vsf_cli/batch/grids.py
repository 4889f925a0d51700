"""Arranges the images of a run on contact sheets, as grids with labelled axes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["CELLS_OF_A_SHEET", "Grid", "captions", "sheets_of"]

CELLS_OF_A_SHEET = 100
MAX_COLUMNS = 12
FLOW_COLUMNS = 8
Facts = Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A grid of images.

    Arguments:
        title: The value that sets this grid apart from the others; "" if there are no others.
        corner: The setting whose values label the rows; "" if they have no labels.
        heads: The labels of the columns; all are "" if they have no labels.
        rows: Each row's label, and the indices of its items; None for an empty cell.
    """

    title: str
    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int | None, ...]], ...]

    @property
    def cells(self) -> int:
        """The number of cells, empty ones included."""
        return len(self.rows) * len(self.heads)


def sheets_of(facts: Sequence[Facts], axes: Mapping[str, str]) -> list[list[Grid]]:
    """Returns the grids of each sheet, from the results of `columns_of` and `axes_of` in `vsf_cli.batch.facts`."""
    sheets: list[list[Grid]] = []
    room = 0
    for grid in _grids(facts, axes):
        if grid.cells > room:
            sheets.append([])
            room = CELLS_OF_A_SHEET
        sheets[-1].append(grid)
        room -= grid.cells
    return sheets


def captions(facts: Sequence[Facts], varying: Sequence[str], axes: Sequence[str]) -> list[str]:
    """Returns the caption of each image: the settings that vary, except those that the axes show."""
    names = [name for name in varying if name not in axes and not (axes and _follows(facts, name, axes))]
    return [" · ".join(_titled(name, fact[name]) for name in names if fact.get(name)) for fact in facts]


def _follows(facts: Sequence[Facts], name: str, axes: Sequence[str]) -> bool:
    """Returns whether the values of the axes determine that of a setting."""
    cells = {tuple(fact.get(axis, "") for axis in axes) for fact in facts}
    return len({(*(fact.get(axis, "") for axis in axes), fact.get(name, "")) for fact in facts}) == len(cells)


def _titled(name: str, value: str) -> str:
    return value if name == "prompt" else f"{name} {value}"


def _grids(facts: Sequence[Facts], axes: Mapping[str, str]) -> Iterator[Grid]:
    """Yields all grids, each small enough for a sheet."""
    if not axes["across"]:
        columns = min(FLOW_COLUMNS, max(1, round(len(facts) ** 0.5)))
        numbers = [*range(len(facts)), *[None] * (-len(facts) % columns)]
        lines = [("", tuple(numbers[start : start + columns])) for start in range(0, len(numbers), columns)]
        yield from _cut("", "", ("",) * columns, lines)
        return
    for apart in _ordered(facts, axes["apart"]):
        chosen = [number for number, fact in enumerate(facts) if fact.get(axes["apart"], "") == apart]
        heads = _ordered([facts[number] for number in chosen], axes["across"])
        lines = list(_lines(facts, chosen, axes["across"], axes["down"], heads))
        title = _titled(axes["apart"], apart) if axes["apart"] else ""
        for start in range(0, len(heads), MAX_COLUMNS):
            some = [(label, row[start : start + MAX_COLUMNS]) for label, row in lines]
            labels = tuple(_titled(axes["across"], head) for head in heads[start : start + MAX_COLUMNS])
            yield from _cut(title, axes["down"], labels, some)


def _lines(
    facts: Sequence[Facts], chosen: Sequence[int], across: str, down: str, heads: Sequence[str]
) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Yields the rows of a grid: several with one label if several items share a cell."""
    for label in _ordered([facts[number] for number in chosen], down):
        row = [number for number in chosen if facts[number].get(down, "") == label]
        cells = [[number for number in row if facts[number].get(across, "") == head] for head in heads]
        for depth in range(max(map(len, cells))):
            yield label, tuple(cell[depth] if depth < len(cell) else None for cell in cells)


def _cut(
    title: str, corner: str, heads: tuple[str, ...], lines: Sequence[tuple[str, tuple[int | None, ...]]]
) -> Iterator[Grid]:
    """Yields grids of as many rows as fit on a sheet, without empty rows."""
    filled = [line for line in lines if any(number is not None for number in line[1])]
    size = CELLS_OF_A_SHEET // len(heads)
    for _, part in groupby(enumerate(filled), key=lambda each: each[0] // size):
        yield Grid(title, corner, heads, tuple(line for _, line in part))


def _ordered(facts: Sequence[Facts], name: str) -> list[str]:
    """Returns the values of a setting: numbers in rising order, others in order of appearance."""
    values = list(dict.fromkeys(fact.get(name, "") for fact in facts))
    try:
        return sorted(values, key=float)
    except ValueError:
        return values
