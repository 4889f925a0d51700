"""How the pictures of a run lie on contact sheets: grids with labelled axes, shared out to sheets. Knows no pixels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["CELLS_OF_A_SHEET", "Grid", "captions", "sheets_of"]

CELLS_OF_A_SHEET = 100
MOST_COLUMNS = 12
FLOW_COLUMNS = 8
Facts = Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A grid of pictures.

    Arguments:
        title: What all of them have in common, and other grids have not; "" if there are no others.
        corner: What the labels of the rows are values of; "" if there are none.
        heads: The labels of the columns; all are "" if there are none.
        rows: Each row's label, and the numbers of its items; None where there is none.
    """

    title: str
    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int | None, ...]], ...]

    @property
    def cells(self) -> int:
        """How many places there are."""
        return len(self.rows) * len(self.heads)


def sheets_of(facts: Sequence[Facts], axes: Mapping[str, str]) -> list[list[Grid]]:
    """The grids of each sheet.

    Arguments:
        facts: What each item was asked, by `vsf_cli.batch.facts.columns_of`.
        axes: What stands across, down and apart, by `vsf_cli.batch.facts.axes_of`; "" for nothing.
    """
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
    """What stands under each picture: in what items differ, unless the axes say it already."""
    names = [name for name in varying if name not in axes and not (axes and _follows(facts, name, axes))]
    return [" · ".join(_titled(name, fact[name]) for name in names if fact.get(name)) for fact in facts]


def _follows(facts: Sequence[Facts], name: str, axes: Sequence[str]) -> bool:
    places = {tuple(fact.get(axis, "") for axis in axes) for fact in facts}
    return len({(*(fact.get(axis, "") for axis in axes), fact.get(name, "")) for fact in facts}) == len(places)


def _titled(name: str, value: str) -> str:
    return value if name == "prompt" else f"{name} {value}"


def _grids(facts: Sequence[Facts], axes: Mapping[str, str]) -> Iterator[Grid]:
    """All grids, each of which has room on a sheet."""
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
        for start in range(0, len(heads), MOST_COLUMNS):
            some = [(label, row[start : start + MOST_COLUMNS]) for label, row in lines]
            labels = tuple(_titled(axes["across"], head) for head in heads[start : start + MOST_COLUMNS])
            yield from _cut(title, axes["down"], labels, some)


def _lines(
    facts: Sequence[Facts], chosen: Sequence[int], across: str, down: str, heads: Sequence[str]
) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """The rows of a grid: several with one label where several items have one place."""
    for label in _ordered([facts[number] for number in chosen], down):
        row = [number for number in chosen if facts[number].get(down, "") == label]
        places = [[number for number in row if facts[number].get(across, "") == head] for head in heads]
        for depth in range(max(map(len, places))):
            yield label, tuple(place[depth] if depth < len(place) else None for place in places)


def _cut(
    title: str, corner: str, heads: tuple[str, ...], lines: Sequence[tuple[str, tuple[int | None, ...]]]
) -> Iterator[Grid]:
    """Grids of as many rows as there is room for on a sheet, without rows that are empty."""
    full = [line for line in lines if any(number is not None for number in line[1])]
    size = CELLS_OF_A_SHEET // len(heads)
    for _, part in groupby(enumerate(full), key=lambda each: each[0] // size):
        yield Grid(title, corner, heads, tuple(line for _, line in part))


def _ordered(facts: Sequence[Facts], name: str) -> list[str]:
    """The values of a setting: numbers by their size, others as they come."""
    values = list(dict.fromkeys(fact.get(name, "") for fact in facts))
    try:
        return sorted(values, key=float)
    except ValueError:
        return values
