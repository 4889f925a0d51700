"""The page of a batch, in a real browser: axes, filters, enlarging, comparing, a thousand cells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from vsf_cli.batch.gallery import MOST_CELLS, gallery
from vsf_cli.batch.items import items_of
from vsf_cli.batch.table import read_table
from vsf_cli.cli import app
from vsf_cli.media import write_picture
from vsf_cli.ranges import Numbers

TABLE = "prompt,neg,theme\na red bike on a road,wheels,street\na blue house on snow,roof,<b>home</b>\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "t.csv").write_text(TABLE, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        done = CliRunner().invoke(
            app, ["batch", "t.csv", "--alpha", "0,2,4", "--seed", "1,2", "--steps", "2", "--batch-size", "6"]
        )
    assert done.exit_code == 0, done.output
    yield folder / "outputs" / "t" / "index.html"


def large(folder: Path, count: int) -> str:
    """A gallery of that many cells, of real pictures of one megapixel or less."""
    image = Image.effect_noise((96, 96), 60).convert("RGB")
    rows = read_table(Path("a.csv"), "prompt\na red bike\n")
    items, _ = items_of("a.csv", rows, {"alpha": Numbers(number / 10 for number in range(count // 10))}, ["wheels"], range(10))
    for item in items:
        write_picture(folder / item.name, image, "png", None)
    return gallery(folder, items, rows, {})


def test_the_page_stands_on_its_own_and_says_what_was_swept(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.find_element("id", "count").text == "12 of 12"
    assert [head.text for head in browser.find_elements("css selector", "thead th")] == [
        "prompt",
        "alpha 0",
        "alpha 2",
        "alpha 4",
    ]
    assert [head.text for head in browser.find_elements("css selector", "tbody th")] == [
        "a red bike on a road",
        "a blue house on snow",
    ]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert browser.get_log("browser") == []
    # What a table says is text, and no part of the page.
    assert not browser.find_elements("css selector", "b")


def test_filters_and_axes_choose_what_is_shown(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    choose(browser, "select[name=theme]", "<b>home</b>")
    assert browser.find_element("id", "count").text == "6 of 12"
    choose(browser, "#down", "seed")
    assert [head.text for head in browser.find_elements("css selector", "tbody th")] == ["1", "2"]
    choose(browser, "#across", "")
    choose(browser, "#down", "")
    assert len(browser.find_elements("css selector", ".flow .cell")) == 6
    choose(browser, "#words", "bike")
    assert browser.find_element("id", "count").text == "0 of 12"


def test_a_click_enlarges_and_two_are_compared(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    cells = browser.find_elements("css selector", ".cell")
    cells[0].click()
    picture = browser.find_element("css selector", "#sides img")
    assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", picture) == 96
    command = browser.find_element("css selector", "#sides code").text
    assert re.fullmatch(r"vsf again [\w.-]+\.png", command) and (page.parent / command.split()[-1]).is_file()
    browser.find_element("id", "close").click()

    mark = "arguments[0].dispatchEvent(new MouseEvent('click', {shiftKey: true, bubbles: true}))"
    browser.execute_script(mark, cells[0])
    assert not browser.find_element("id", "compare").is_enabled()
    browser.execute_script(mark, browser.find_elements("css selector", ".cell")[2])
    browser.find_element("id", "compare").click()
    assert len(browser.find_elements("css selector", "#sides section")) == 2
    assert {other.text for other in browser.find_elements("css selector", "dd.other")} == {"0", "2"}


def choose(browser: Any, selector: str, value: str) -> None:
    find = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
    script = f"{find} e.dispatchEvent(new Event('input', {{bubbles: true}}))"
    browser.execute_script(script, selector, value)


def test_a_thousand_cells_stay_small_and_scroll(browser: Any, tmp_path: Path) -> None:
    """Noise is the worst that a thumbnail can be."""
    text = large(tmp_path, 1_000)
    assert text.count("data:image/webp") == 1_000 and len(text) < 50e6
    path = tmp_path / "index.html"
    path.write_text(text, "utf-8")
    browser.get(path.as_uri())
    assert browser.find_element("id", "count").text == "1000 of 1000"
    last = browser.find_elements("css selector", ".cell")[-1]
    browser.execute_script("arguments[0].scrollIntoView()", last)
    assert last.is_displayed() and browser.execute_script("return scrollY") > 0


def test_what_failed_or_is_not_made_has_a_place(tmp_path: Path) -> None:
    rows = read_table(Path("a.csv"), "prompt\na red bike\na blue house\n")
    items, _ = items_of("a.csv", rows, {}, ["wheels"], [1])
    text = gallery(tmp_path, items, rows, {items[0].id: {"status": "failed", "error": "out of memory"}})
    assert "out of memory" in text and "not made yet" in text and "data:image" not in text
    assert MOST_CELLS >= 1_000
