"""The page of the maps in a real browser, without a display and without a network."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.maps.example_maps import example_images, example_maps
from vsf_cli.maps.page import SHARE, _groups, _layer, render_page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "index.html"
    maps, (final, unguided, estimates) = example_maps(), example_images()
    path.write_text(render_page(maps, "a <bike> − wheels", {"seed": 1}, final, unguided, estimates), "utf-8")
    return path


def shown(browser: Any) -> str:
    pixels: str = browser.execute_script("return document.getElementById('map').toDataURL()")
    return pixels


def choose(browser: Any, name: str, value: str) -> None:
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    browser.execute_script(script, name, value)


def test_the_page_stands_on_its_own(browser: Any, file: Path) -> None:
    import json

    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(file.as_uri())
    assert browser.find_element("tag name", "h1").text == "a <bike> − wheels"
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)
    assert sum(url.startswith("file:") for url in urls) == 1
    assert browser.get_log("browser") == []


def test_the_slider_and_the_choices_change_what_is_shown(browser: Any, file: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(file.as_uri())
    before = shown(browser)
    assert not browser.find_element("id", "frame").is_displayed(), "an image has one frame"
    choose(browser, "step", "1")
    second = shown(browser)
    assert second != before and "step 2" in browser.find_element("id", "caption").text
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_LEFT)
    assert shown(browser) == before
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_DOWN)
    assert shown(browser) != before and "wheels" in browser.find_element("id", "caption").text
    browser.find_element("tag name", "body").send_keys(Keys.ARROW_UP)
    assert SHARE in browser.find_element("id", "caption").text and shown(browser) == before
    choose(browser, "group", "early (1\u20132)")
    assert shown(browser) != before
    source = browser.find_element("id", "under").get_attribute("src")
    choose(browser, "base", "estimate")
    assert browser.find_element("id", "under").get_attribute("src") != source
    choose(browser, "opacity", "0")
    assert browser.find_element("id", "map").value_of_css_property("opacity") == "0"
    assert browser.get_log("browser") == []


def test_the_frames_of_a_video_can_be_walked_through(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    maps, (final, unguided, estimates) = example_maps(frames=5), example_images(frames=5)
    (tmp_path / "video.html").write_text(render_page(maps, "a car", {"seed": 1}, final, unguided, estimates), "utf-8")
    browser.get((tmp_path / "video.html").as_uri())
    before, source = shown(browser), browser.find_element("id", "under").get_attribute("src")
    browser.find_element("tag name", "body").send_keys(".")
    assert shown(browser) != before and browser.find_element("id", "under").get_attribute("src") != source
    assert browser.find_element("id", "frame-name").text == "2 of 5"
    browser.find_element("tag name", "body").send_keys(",")
    assert shown(browser) == before
    frame = browser.find_element("id", "frame")
    frame.send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element("id", "frame-name").text == "2 of 5", "a slider that is focused moves by its own arrows"
    assert "step 1" in browser.find_element("id", "caption").text
    assert browser.get_log("browser") == []


def test_each_group_of_blocks_has_its_own_scale() -> None:
    maps = example_maps()
    maps.share[:, :2] *= 0.01
    layer = _layer(maps.share.mean(2), "share", _groups(maps.blocks))
    values = np.frombuffer(base64.b64decode(layer["bytes"]), np.uint8).reshape(4, 3, 1, 4, 4)
    assert all((group.min(), group.max()) == (0, 255) for group in values)
    assert (
        layer["high"][1] == pytest.approx(maps.share[:, :2].mean((1, 2)).max()) and layer["high"][1] < 0.01 < layer["high"][3]
    )


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_phone_and_a_desk(browser: Any, file: Path, width: int) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(file.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element("id", "map").rect["width"] > 0.5 * min(width, 600)
