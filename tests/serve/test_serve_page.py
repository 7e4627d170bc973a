"""The page in a real browser: a picture in, boxes out; threshold, classes, hover, keys, token, phone, dark."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, needs_browser, started

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
from running import SECRET, Client, finder_pipeline, picture, serving

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
pytestmark = [pytest.mark.allow_loopback, needs_browser]


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    guard = request.config.pluginmanager.get_plugin(str(CONFTEST)).GUARD
    with started(guard, tmp_path_factory.mktemp("profile")) as driven:
        driven.downloads = tmp_path_factory.mktemp("downloads")
        behaviour = {"behavior": "allow", "downloadPath": str(driven.downloads)}
        driven.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        yield driven


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    guard = request.config.pluginmanager.get_plugin(str(CONFTEST)).GUARD
    guard.loopback = True
    with serving(finder_pipeline()) as running:
        yield running
        guard.loopback = True
    guard.loopback = False


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo of me.png"
    path.write_bytes(picture(3, (300, 420)))
    return path


def address(client: Client, path: str = "") -> str:
    return f"http://127.0.0.1:{client.port}/{path}"


def until(holds: Callable[[], Any], what: str) -> Any:
    for _ in range(400):
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError(what)


def choose(browser: Browser, photo: Path) -> None:
    browser.driver.find_element("id", "file").send_keys(str(photo))


def shown(browser: Browser, photo: Path) -> None:
    choose(browser, photo)
    until(lambda: browser.run("return !document.getElementById('result').hidden"), status(browser))
    browser.settle()


def status(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('status').textContent"))


def rows(browser: Browser) -> list[list[str]]:
    found: list[list[str]] = browser.run(
        "return [...document.querySelectorAll('#rows tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return found


def threshold(browser: Browser, value: float) -> None:
    browser.run(
        """const slider = document.getElementById("threshold");
        slider.value = arguments[0];
        slider.dispatchEvent(new Event("input"));""",
        value,
    )


def pixels(browser: Browser) -> str:
    """Of the canvas, as a text."""
    return str(browser.run("return document.getElementById('canvas').toDataURL()"))


def overflow(browser: Browser) -> list[str]:
    """What sticks out of the page to the right, but for what scrolls by itself."""
    wide: list[str] = browser.run(
        """const found = [...document.querySelectorAll("body *")].filter((node) =>
          !node.closest(".unseen") && !node.parentElement.closest(".scroll")
          && node.getBoundingClientRect().right > innerWidth + 0.5);
        return found.map((node) => node.outerHTML.slice(0, 90));"""
    )
    return wide


def only_here(browser: Browser, client: Client) -> None:
    asked = browser.requests()
    assert asked
    assert [one for one in asked if not one.startswith((address(client), "blob:", "data:"))] == []
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_picture_and_its_boxes(browser: Browser, client: Client, photo: Path, width: int, scheme: str) -> None:
    browser.open(address(client), width=width, scheme=scheme)
    assert overflow(browser) == []
    shown(browser, photo)
    assert "photo of me.png, 420 × 300 px" in status(browser)
    assert overflow(browser) == []
    assert [row[:2] for row in rows(browser)] == [["red", "0.900"], ["blue", "0.800"]]
    boxes = client.predict(photo.read_bytes()).json["boxes"]
    assert [[float(value) for value in row[2:]] for row in rows(browser)] == [
        pytest.approx(box, abs=0.06) for box in boxes
    ]
    before = pixels(browser)

    threshold(browser, 0.85)
    assert [row[0] for row in rows(browser)] == ["red"]
    assert pixels(browser) != before
    threshold(browser, 0.25)
    assert pixels(browser) == before
    browser.run("document.querySelector('#class-list input').click()")
    assert [row[0] for row in rows(browser)] == ["blue"]
    assert browser.run("return document.getElementById('count').textContent") == "1 of 2 objects"
    only_here(browser, client)
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) > 380) == (scheme == "light")


def test_hover_keys_and_download(browser: Browser, client: Client, photo: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(address(client))
    shown(browser, photo)
    canvas = browser.driver.find_element("id", "canvas")
    ActionChains(browser.driver).move_to_element(canvas).perform()
    tip = browser.run("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.textContent")
    assert tip == "red 0.900"
    hovered = pixels(browser)
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert browser.run("return document.querySelector('#rows tr.active').rowIndex") == 2
    assert pixels(browser) != hovered
    assert canvas.get_attribute("aria-label") == "blue, score 0.800"
    canvas.send_keys(Keys.ESCAPE)
    assert browser.run("return document.querySelector('#rows tr.active')") is None
    browser.run("document.querySelector('#rows tr').focus()")
    assert browser.run("return document.querySelector('#rows tr.active').rowIndex") == 1

    listed = rows(browser)
    browser.driver.find_element("id", "download").send_keys(Keys.ENTER)
    path = until(lambda: [*browser.downloads.glob("*.json")], "nothing was downloaded")[0]
    kept = json.loads(path.read_text())
    assert path.name == "photo of me.json"
    assert kept["source"] == "photo of me.png"
    assert kept["names"] == [row[0] for row in listed]
    assert kept["size"] == [300, 420]
    only_here(browser, client)


def test_what_goes_wrong_is_said(browser: Browser, client: Client, photo: Path, tmp_path: Path) -> None:
    browser.open(address(client))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    choose(browser, broken)
    until(lambda: "not an image" in status(browser), "no word about it")
    assert browser.run("return document.getElementById('result').hidden")
    # A status of 422 is a line in the console, and nothing else is.
    assert [line for line in browser.complaints() if "422" not in line] == []
    shown(browser, photo)


def test_dropped_and_pasted_pictures(browser: Browser, client: Client) -> None:
    script = """const bytes = Uint8Array.from(arguments[0]);
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
      const event = arguments[1] === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
      document.body.dispatchEvent(event);"""
    for kind in ("drop", "paste"):
        browser.open(address(client))
        browser.run(script, list(picture(1, (30, 40))), kind)
        until(lambda: "given.png, 40 × 30 px" in status(browser), kind)


def test_asks_for_the_token(browser: Browser, photo: Path) -> None:
    with serving(finder_pipeline(), token=SECRET) as client:
        browser.open(address(client), width=390)
        choose(browser, photo)
        field = browser.driver.find_element("id", "token")
        until(field.is_displayed, "no field for the token")
        assert overflow(browser) == []
        field.send_keys("wrong")
        field.submit()
        until(lambda: "not the server's token" in status(browser), status(browser))
        field.clear()
        field.send_keys(SECRET)
        field.submit()
        until(lambda: browser.run("return !document.getElementById('result').hidden"), status(browser))
        assert not field.is_displayed()
        assert SECRET not in browser.driver.current_url
        browser.open("about:blank")


def test_the_api_page(browser: Browser, client: Client) -> None:
    for width in (1280, 390):
        browser.open(address(client, "docs"), width=width)
        assert overflow(browser) == []
        text = browser.run("return document.body.innerText")
        for word in ("/predict", "max_dets", "/readyz", "curl"):
            assert word in text
        only_here(browser, client)
