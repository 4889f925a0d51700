"""The page of a batch, in a real browser: axes, filters, enlarging, comparing, a thousand cells."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import vsf_cli.batch.gallery as galleries
from vsf_cli.batch.facts import axes_of, columns_of
from vsf_cli.batch.gallery import gallery, write_gallery
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.replacements import apply_replacements
from vsf_cli.batch.table import Row, read_table
from vsf_cli.cli.app import app
from vsf_cli.config.ranges import ValueList
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import encode_video, write_image
from vsf_cli.media.frames import write_frames
from vsf_cli.media.reading import read_middle
from vsf_cli.prompts.replacements import Replacement
from vsf_cli.settings.options import Given

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
    alphas = ValueList(number / 10 for number in range(count // 10))
    items, _ = items_of("a.csv", rows, {"alpha": alphas}, Given(negative=("wheels",), seeds=tuple(range(10))))
    for item in items:
        write_image(folder / item.name, image, "png", None)
    return gallery(folder, items, rows, {})


def test_the_page_stands_on_its_own_and_says_what_was_swept(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.find_element("id", "count").text == "12 of 12"
    assert texts(browser, "h2") == ["a red bike on a road", "a blue house on snow"]
    assert texts(browser, "#grid thead th") == ["seed", "alpha 0", "alpha 2", "alpha 4"] * 2
    assert texts(browser, "#grid tbody th") == ["1", "2"] * 2
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
    assert texts(browser, "h2") == ["a blue house on snow"]
    choose(browser, "#apart", "")
    choose(browser, "#down", "theme")
    assert texts(browser, "#grid tbody th") == ["<b>home</b>"]
    choose(browser, "#across", "")
    choose(browser, "#down", "")
    assert len(browser.find_elements("css selector", ".flow .cell")) == 6
    choose(browser, "#words", "bike")
    assert browser.find_element("id", "count").text == "0 of 12"


def test_a_column_of_many_values_is_filtered_by_its_text(browser: Any, tmp_path: Path) -> None:
    items, rows = two_items("prompt,note\n" + "".join(f"a red bike,Note {number} of many\n" for number in range(70)))
    (tmp_path / "index.html").write_text(gallery(tmp_path, items, rows, {}), "utf-8")
    browser.get((tmp_path / "index.html").as_uri())
    assert not browser.find_elements("css selector", "select[name=note]")
    choose(browser, "input[name=note]", "note 6")
    assert browser.find_element("id", "count").text == "11 of 70"


def test_a_click_enlarges_and_two_are_compared(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    cells = browser.find_elements("css selector", ".cell")
    cells[0].click()
    picture = browser.find_element("css selector", "#sides img")
    assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", picture) == 96
    command = browser.find_element("css selector", "#sides code").text
    file = Path(shlex.split(command.removeprefix("vsf again "))[0])
    assert file.is_absolute() and file.is_file() and str(page.parent) not in page.read_text("utf-8")
    browser.find_element("id", "after").click()
    assert browser.find_element("css selector", "#sides code").text != command
    browser.find_element("css selector", "#large").send_keys(Keys.ARROW_LEFT)
    assert browser.find_element("css selector", "#sides code").text == command
    browser.find_element("id", "close").click()

    mark = "arguments[0].dispatchEvent(new MouseEvent('click', {shiftKey: true, bubbles: true}))"
    browser.execute_script(mark, cells[0])
    assert not browser.find_element("id", "compare").is_enabled()
    browser.execute_script(mark, browser.find_elements("css selector", ".cell")[5])
    browser.find_element("id", "compare").click()
    assert len(browser.find_elements("css selector", "#sides section")) == 2
    assert texts(browser, "td.other") == ["1", "2", "0", "4"]
    browser.find_element("id", "close").click()

    # Where there is no Shift: the button of the enlarged picture.
    browser.refresh()
    for number in (0, 2):
        browser.find_elements("css selector", ".cell")[number].click()
        browser.find_element("id", "mark").click()
        if number == 0:
            browser.find_element("id", "close").click()
    assert texts(browser, "td.other") == ["0", "4"]


def texts(browser: Any, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


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
    assert last.is_displayed() and browser.execute_script("return grid.scrollTop") > 0


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_phone_and_a_desk(browser: Any, page: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    )
    try:
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.find_element("id", "grid").rect["height"] > 500, "most of the page is for pictures"
        head = browser.find_element("css selector", "#grid tbody th").rect
        assert head["height"] < 250 and browser.find_element("id", "choices").is_displayed() == (width > 600)
        browser.execute_script("enlarge([data.cells[0], data.cells[1]])")
        first, second = (found.rect for found in browser.find_elements("css selector", "#sides img"))
        assert first["y"] == second["y"] and second["x"] + second["width"] <= width, "side by side"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def two_items(table: str = "prompt\na red bike\na blue house\n") -> tuple[list[Item], list[Row]]:
    rows = read_table(Path("a.csv"), table)
    return items_of("a.csv", rows, {}, Given(negative=("wheels",), seeds=(1,)))[0], rows


def test_what_failed_or_is_not_made_has_a_place(browser: Any, tmp_path: Path) -> None:
    items, rows = two_items()
    write_gallery(tmp_path, items, rows, {items[0].key: {"status": "failed", "error": "out of memory"}})
    browser.get((tmp_path / "index.html").as_uri())
    assert texts(browser, ".cell .none") == ["out of memory", "not made yet"]
    choose(browser, "#status", "failed")
    assert texts(browser, ".cell .none") == ["out of memory"]
    choose(browser, "#status", "")
    browser.find_elements("css selector", ".cell")[1].click()
    assert texts(browser, "#sides .none") == ["not made yet"] and not texts(browser, "#sides code, #sides img")


def test_clips_have_a_picture_and_play_when_enlarged(browser: Any, tmp_path: Path) -> None:
    items, rows = two_items()
    items = [replace(items[0], name="a car.webm"), replace(items[1], name="frames")]
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "green", "blue")]
    write_bytes(tmp_path / "a car.webm", encode_video(frames, 8, "webm", None))
    write_frames(tmp_path / "frames", frames, None)
    write_gallery(tmp_path, items, rows, {})
    browser.get((tmp_path / "index.html").as_uri())
    assert len(browser.find_elements("css selector", ".cell img")) == 2
    browser.find_elements("css selector", ".cell")[0].click()
    ready = (
        "const [video, done] = arguments; video.readyState ? done(video.videoWidth) : video.onloadedmetadata = () => done(64)"
    )
    assert browser.execute_async_script(ready, browser.find_element("css selector", "#sides video")) == 64
    browser.find_element("id", "after").click()
    shown = browser.find_element("css selector", "#sides img").get_attribute("src")
    assert shown.endswith("/frames/0000.png")


def test_thumbnails_are_made_once_unless_the_picture_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, rows = two_items()
    read: list[str] = []
    monkeypatch.setattr(galleries, "read_middle", lambda path, at: read.append(path.name) or read_middle(path, at))
    for item in items:
        write_image(tmp_path / item.name, Image.new("RGB", (20, 20), "red"), "png", None)
    write_gallery(tmp_path, items, rows, {})
    page = (tmp_path / "index.html").read_bytes()
    assert len(read) == 2
    write_gallery(tmp_path, items, rows, {})
    assert len(read) == 2 and (tmp_path / "index.html").read_bytes() == page
    write_image(tmp_path / items[1].name, Image.new("RGB", (30, 20), "blue"), "png", None)
    write_gallery(tmp_path, items, rows, {})
    assert read[2:] == [items[1].name] and (tmp_path / "index.html").read_bytes() != page
    (tmp_path / "index.html").write_text('const data = {"cells": [1]};', "utf-8")
    write_gallery(tmp_path, items, rows, {})
    assert (tmp_path / "index.html").read_text("utf-8").count("data:image/webp") == 2


def test_replaced_words_and_cells_with_ranges_are_axes() -> None:
    def axes(table: str, *words: str) -> list[str]:
        read = read_table(Path("a.csv"), table)
        rows, _ = apply_replacements("a.csv", read, [Replacement.parse(text) for text in words], Given(negative=("wheels",)))
        return list(axes_of(*columns_of(items_of("a.csv", rows, {}, Given(negative=("wheels",)))[0], rows)[1:]).values())

    assert axes('prompt,alpha\na red bike,"1,2"\na red car,3\n') == ["alpha", "prompt", ""]
    assert axes("prompt\na red bike\na red car\n", "red=>blue,green") == ["red=>", "before --sr", ""]
    assert axes('prompt,alpha\na red bike,"1,2"\n', "red=>blue,green") == ["alpha", "red=>", ""]
    assert axes("prompt,seed\na red bike,1..3\na red car,1..3\n") == ["seed", "prompt", ""]
    assert axes("prompt,alpha\na red bike,1\na red car,3\n") == ["", "", ""]
