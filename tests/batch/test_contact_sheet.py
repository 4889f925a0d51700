"""Contact sheets: where pictures lie, what is said of them, and how many sheets there may be."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vsf_cli.batch.contact_sheet import check_sheets, write_sheets
from vsf_cli.batch.facts import axes_of, columns_of, in_common
from vsf_cli.batch.grids import CELLS_OF_A_SHEET, captions, sheets_of
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.table import Row, read_table
from vsf_cli.config.ranges import ValueList
from vsf_cli.errors import RequestError
from vsf_cli.media.formats import write_image
from vsf_cli.settings.options import Given

TWO = "prompt\na red bike\na blue house\n"


def planned(table: str, seeds: Any = None, **options: Any) -> tuple[list[Item], list[Row]]:
    rows = read_table(Path("a.csv"), table)
    return items_of("a.csv", rows, options, Given(negative=("wheels",), seeds=seeds))[0], rows


def laid_out(table: str, seeds: Any = None, **options: Any) -> tuple[list[Any], list[str]]:
    facts, varying, swept = columns_of(*planned(table, seeds, **options))
    axes = axes_of(varying, swept)
    return sheets_of(facts, axes), captions(facts, varying, [name for name in axes.values() if name])


def test_what_was_swept_stands_across_down_and_apart() -> None:
    ((first, second),), below = laid_out(TWO, [1, 2], alpha=ValueList([0, 2, 4]))
    assert (first.title, second.title, first.corner) == ("a red bike", "a blue house", "seed")
    assert first.heads == ("alpha 0", "alpha 2", "alpha 4") and [label for label, _ in first.rows] == ["1", "2"]
    assert first.rows[0][1] == (0, 2, 4) and second.rows[1][1] == (7, 9, 11)
    assert below == [""] * 12


def test_what_all_have_is_told_with_the_strength_and_without_rare_numbers() -> None:
    items, rows = planned(TWO, [1, 2], stop=ValueList([0.5]))
    facts, varying, _ = columns_of(items, rows)
    common, told = in_common(items, facts, varying)
    assert {"alpha": "2.5", "beta": "0.5", "stop": "0.5", "method": "vsf"}.items() <= told.items()
    assert common["slope"] == "0" and not {"slope", "contrast", "special_tokens"} & told.keys()


def test_what_the_axes_do_not_say_stands_below() -> None:
    ((grid, _),), below = laid_out(TWO, [1, 2], alpha=ValueList([0, 2]), beta=ValueList([0, 1]))
    assert len(grid.rows) == 4 and grid.rows[0][1] != grid.rows[1][1] and below[:2] == ["seed 1", "seed 2"]
    ((grid,),), below = laid_out(TWO, [5])
    assert grid.heads == ("",) and below == ["a red bike", "a blue house"]


def test_every_item_has_one_place_and_a_sheet_has_so_many() -> None:
    for alphas, seeds in [(1, 1), (30, 3), (7, 40), (1, 250)]:
        options = {"alpha": ValueList(range(alphas))}
        sheets, below = laid_out(TWO, range(seeds), **options)
        places = [number for sheet in sheets for grid in sheet for _, row in grid.rows for number in row if number is not None]
        assert sorted(places) == list(range(2 * alphas * seeds)) and len(below) == len(places)
        assert all(sum(grid.cells for grid in sheet) <= CELLS_OF_A_SHEET for sheet in sheets)


def test_pictures_keep_their_proportions_and_missing_ones_their_places(tmp_path: Path) -> None:
    items, rows = planned(TWO, [1], alpha=ValueList([0, 2]))
    sizes = {0: (400, 200), 1: (200, 400), 3: (1000, 1000)}
    for number, size in sizes.items():
        write_image(tmp_path / items[number].name, Image.new("RGB", size, (255, 0, number)), "png", None)
    (path,) = write_sheets(tmp_path, items, rows)
    with Image.open(path) as sheet:
        pixels = sheet.convert("RGB").getcolors(sheet.width * sheet.height)
        area = {color: count for count, color in pixels or []}
    assert area[255, 0, 0] == 384 * 192 and area[255, 0, 1] == 192 * 384 and area[255, 0, 3] == 384 * 384
    # The edges of letters have greys of their own.
    assert 0 <= area[228, 228, 228] - 384 * 384 < 100, "the one that is not there"


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    assert write_sheets(tmp_path, *planned(TWO)) == [] and not list(tmp_path.iterdir())


def test_more_sheets_than_there_may_be_are_refused() -> None:
    # Two places of ten are taken in each of 600 rows.
    rows_of_table = "".join(f'a red bike {number},"{number % 9},{number % 9 + 1}"\n' for number in range(600))
    items, rows = planned(f"prompt,alpha\n{rows_of_table}")
    with pytest.raises(RequestError, match=r"at most, but there would be \d+: look at index.html"):
        check_sheets(items, rows)
    check_sheets(*planned(TWO, range(3), alpha=ValueList([1, 2])))
