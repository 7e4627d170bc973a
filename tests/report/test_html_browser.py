"""The HTML report in a real browser: it draws, sorts, filters, fits a phone, follows the scheme, asks for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, needs_browser, started
from fake_report import CLASSES, NASTY, NOTHING, content, figures, misranked

from alignrank.report.content import ReportContent
from alignrank.report.html import write_html

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
BOLD = "<b>bold</b> & &lt;co&gt;"
ATTACK = "<img src=x onerror=\"document.title='hacked'\">"

pytestmark = [pytest.mark.allow_loopback, needs_browser]


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    guard = request.config.pluginmanager.get_plugin(str(CONFTEST)).GUARD
    with started(guard, tmp_path_factory.mktemp("profile")) as driven:
        yield driven


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    names = (BOLD, ATTACK)
    hostile = content(
        title=NASTY,
        detectors=[figures(name, seed=i + 1) for i, name in enumerate(names)],
        misranked={name: [misranked(0, NASTY, image=ATTACK)] for name in names},
    )
    empty = ReportContent("empty", 0, 0, [0], [figures("nothing", seed=1, **NOTHING)])
    half = content(detectors=[figures("full", seed=1), figures("empty", seed=2, **NOTHING)])
    contents = {
        "one": content(1),
        "two": content(2),
        "hostile": hostile,
        "empty": empty,
        "half": half,
        "large": content(2, cards=150, kinds=90),
    }
    return {name: write_html(of, folder / f"{name}.html") for name, of in contents.items()}


def drawn(browser: Browser) -> list[dict[str, Any]]:
    """For each chart: its own and its panel's width, in px, and the number of shapes in it."""
    found: list[dict[str, Any]] = browser.run(
        """return [...document.querySelectorAll(".plot")].map((plot) => {
          const svg = plot.querySelector("svg.main-svg");
          return {
            width: svg ? svg.getBoundingClientRect().width : 0,
            room: plot.getBoundingClientRect().width,
            shapes: plot.querySelectorAll(".plot path, .plot image, .annotation-text").length,
          };
        })"""
    )
    return found


@pytest.mark.parametrize(
    ("name", "charts", "width"),
    [("one", 6, 390), ("two", 8, 1280), ("hostile", 8, 390), ("empty", 0, 390), ("half", 8, 1280), ("large", 8, 390)],
)
def test_draws_everything_and_asks_for_nothing(
    browser: Browser, reports: dict[str, Path], name: str, charts: int, width: int
) -> None:
    browser.open(reports[name], width=width)
    plots = drawn(browser)
    assert len(plots) == charts
    for plot in plots:
        assert 200 < plot["width"] <= plot["room"] <= width - 40
        assert plot["shapes"] > 0
    assert browser.complaints() == []
    asked = browser.requests()
    assert asked[0].startswith("file:")
    assert [address for address in asked[1:] if not address.startswith(("data:", "blob:"))] == []
    if name == "two":
        browser.emulate(width=390, scheme="light")
        wait_for_redrawing(browser)
    assert overflow(browser) == []


def wait_for_redrawing(browser: Browser) -> None:
    """Plotly waits a little before it draws at a new width."""
    for _ in range(40):
        if all(abs(plot["width"] - plot["room"]) < 1 for plot in drawn(browser)):
            return
        browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    raise AssertionError(f"the charts keep their width: {drawn(browser)}")


def overflow(browser: Browser) -> list[str]:
    """What sticks out of the page to the right."""
    wide: list[str] = browser.run(
        """const inner = ".scroll *, svg *, .plot *, .unseen";
        const found = [...document.querySelectorAll("header, header *, main *, footer *")].filter(
          (node) => !node.matches(inner) && node.getBoundingClientRect().right > arguments[0] + 0.5,
        );
        if (document.documentElement.scrollWidth > arguments[0]) {
          found.push(document.documentElement);
        }
        return found.map((node) => node.outerHTML.slice(0, 90))""",
        min(browser.width, browser.run("return innerWidth")),
    )
    return wide


def visible(browser: Browser, section: str = "misranked") -> list[list[str]]:
    """Class and detector of the cards that are seen."""
    cards: list[list[str]] = browser.run(
        """return [...document.querySelectorAll(`#${arguments[0]} .card`)].filter((card) => card.offsetParent !== null)
          .map((card) => [card.dataset.class, card.dataset.detector])""",
        section,
    )
    return cards


def choose(browser: Browser, element: str, value: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    Select(browser.driver.find_element(By.ID, element)).select_by_value(value)


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).textContent", selector))


def test_more_cards_on_demand(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["large"])
    press_more = "document.querySelector('#misranked button.more').click()"
    assert len(visible(browser)) == 24
    assert text_of(browser, "#misranked button.more") == "Show 24 more of 126"
    for shown in (48, 72, 96, 120, 144, 150):
        browser.run(press_more)
        assert len(visible(browser)) == shown
    assert browser.run("return document.querySelector('#misranked button.more').offsetParent") is None
    choose(browser, "misranked-detector", "1")
    assert len(visible(browser)) == 24


def test_filters(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["two"])
    assert len(visible(browser)) == 24
    assert {detector for _, detector in visible(browser)} == {"0"}
    choose(browser, "misranked-class", CLASSES[9])
    assert visible(browser) == [[CLASSES[9], "0"]] * 2
    assert text_of(browser, "#misranked-count") == "2 of 24 cards"
    choose(browser, "misranked-detector", "1")
    assert visible(browser) == [[CLASSES[9], "1"]] * 2
    choose(browser, "misranked-class", "")
    assert len(visible(browser)) == 24
    assert len(visible(browser, "only-one")) == 12  # the filters of one section leave the other alone
    choose(browser, "only-one-class", CLASSES[0])
    assert {name for name, _ in visible(browser, "only-one")} == {CLASSES[0]}
    shown = browser.run("return [...document.querySelectorAll('#only-one .group')].map((g) => g.offsetParent !== null)")
    assert True in shown
    assert False in shown  # a heading without cards would be empty


def test_sorting(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["two"], fresh=False)
    for key in ("ap:0", "lrp:difference"):
        values = column(browser, key)
        known = sorted(value for value in values if value is not None)
        undefined = [value for value in values if value is None]
        press(browser, key)
        assert column(browser, key) == known + undefined
        assert header_state(browser, key) == "ascending"
        press(browser, key)
        assert column(browser, key) == known[::-1] + undefined
        assert header_state(browser, key) == "descending"
    press(browser, "name")
    assert header_state(browser, key) is None
    names = browser.run("return [...document.querySelectorAll('#classes tbody th')].map((cell) => cell.textContent)")
    assert names[:3] == ["bench", "bicycle", "bus"]


def column(browser: Browser, key: str) -> list[float | None]:
    values = browser.run(
        """const cells = document.querySelectorAll(`#classes td[data-key="${arguments[0]}"]`);
        return [...cells].map((cell) => cell.dataset.value)""",
        key,
    )
    return [float(value) if value else None for value in values]


def press(browser: Browser, key: str) -> None:
    browser.run("""document.querySelector(`table#classes th button[data-key="${arguments[0]}"]`).click()""", key)


def header_state(browser: Browser, key: str) -> Any:
    return browser.run(
        "return document.querySelector(`#classes th button[data-key='${arguments[0]}']`).closest('th').ariaSort", key
    )


def test_follows_the_scheme(browser: Browser, reports: dict[str, Path]) -> None:
    def colors() -> dict[str, str]:
        shown: dict[str, str] = browser.run(
            """const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
            return {
              page: of("body", "backgroundColor"),
              text: of("body", "color"),
              axis: of("#plot-reliability-0 .xtick text", "fill"),
              curve: of("#plot-precision-recall-0 .js-line", "stroke"),
              plot: of("#plot-reliability-0 .main-svg", "backgroundColor"),
            }"""
        )
        return shown

    browser.open(reports["two"], fresh=False)
    light = colors()
    browser.emulate(width=1280, scheme="dark")
    browser.settle()
    dark = colors()
    browser.emulate(width=1280, scheme="light")
    browser.settle()
    assert colors() == light
    assert light["plot"] == dark["plot"] == "rgba(0, 0, 0, 0)"
    changed = {key for key in light if light[key] != dark[key]}
    assert changed == {"page", "text", "axis", "curve"}
    assert brightness(light["page"]) > brightness(light["axis"])
    assert brightness(dark["page"]) < brightness(dark["axis"])
    assert browser.complaints() == []


def brightness(color: str) -> float:
    """Of `rgb(r, g, b)`, 0..255."""
    return sum(float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")) / 3


def test_names_do_no_harm(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["hostile"])
    assert browser.driver.title == NASTY
    assert text_of(browser, "#chart-unmatched .legend") == BOLD + ATTACK
    hover = """Plotly.Fx.hover(arguments[0], [{curveNumber: arguments[1], pointNumber: 2}]);
      return document.querySelector(`#${arguments[0]} .hoverlayer`).textContent"""
    assert BOLD in browser.run(hover, "plot-unmatched-0", 0)
    assert ATTACK[:20] in browser.run(hover, "plot-errors-0", 1)
    choose(browser, "misranked-class", NASTY)
    assert visible(browser) == [[NASTY, "0"]]
    assert browser.complaints() == []

    # Even markup that got in could neither run nor ask for anything.
    browser.run(
        """const script = document.createElement("script");
        script.textContent = "document.title = 'hacked'";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", arguments[0]);
        const image = new Image();
        image.src = "http://127.0.0.1:9/a.png";
        document.body.append(image);""",
        ATTACK,
    )
    refused = browser.driver.execute_async_script(
        "fetch('http://127.0.0.1:9/').then(() => arguments[0](false), () => arguments[0](true))"
    )
    browser.settle()
    assert refused is True
    assert "hacked" not in browser.driver.title
    assert len([message for message in browser.complaints() if "Content Security Policy" in message]) >= 3


def test_reads_without_scripts(browser: Browser, reports: dict[str, Path], tmp_path: Path) -> None:
    """They are taken out: a browser that is told to run none may begin to listen after the page has loaded."""
    plain = tmp_path / "plain.html"
    text = reports["two"].read_text(encoding="utf-8")
    without = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL)
    assert "<script" not in without != text
    plain.write_text(without, encoding="utf-8")
    browser.open(plain)
    assert len(visible(browser)) == 48
    assert browser.run("return document.querySelector('.controls').offsetParent") is None
