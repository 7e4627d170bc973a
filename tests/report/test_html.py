"""The HTML report needs nothing but itself, tells every figure in words, and survives any content."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_report import (
    CLASSES,
    NASTY,
    NOTHING,
    RANK,
    SCALARS,
    content,
    crop,
    figures,
    misranked,
    only_one,
    operating_point,
    picture,
)

from alignrank.errors import InputError
from alignrank.report.content import Difference, ReportContent
from alignrank.report.figures import verdict
from alignrank.report.html import write_html

HEADLINES = 10


class Node:
    """An element of a parsed page."""

    def __init__(self, name: str, attributes: Mapping[str, str | None]) -> None:
        self.name, self.attributes = name, attributes
        self.children: list[Node | str] = []

    def __getitem__(self, attribute: str) -> str:
        return self.attributes[attribute] or ""

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, name: str = "", **attributes: str) -> Iterator[Node]:
        """Elements below; `class_` asks for one of the classes, data_key for the attribute data-key."""
        for child in self.children:
            if isinstance(child, Node):
                wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
                found = {key: child.attributes.get(key) or "" for key in wanted}
                held = all(v in found[k].split() if k == "class" else v == found[k] for k, v in wanted.items())
                if name in ("", child.name) and held:
                    yield child
                yield from child.all(name, **attributes)

    def one(self, name: str = "", **attributes: str) -> Node:
        (node,) = self.all(name, **attributes)
        return node


class Page(HTMLParser):
    """A strict reader: what is opened must be closed in order."""

    VOID = ("meta", "link", "img", "br", "col", "rect", "line")

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.source = path.read_bytes().decode("utf-8")
        self.feed(self.source)
        assert self.open == [self.root], f"<{self.open[-1].name}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), f"an attribute of {attrs} stands twice"
        self.open[-1].children.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    @property
    def charts(self) -> dict[str, Any]:
        """What is drawn: {id: {data, layout}}."""
        loaded: dict[str, Any] = json.loads(self.root.one("script", id="chart-data").text)
        return loaded

    def section(self, key: str) -> Node:
        return self.root.one("section", id=key)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Page]:
    """The ordinary report of one and of two detectors."""
    folder = tmp_path_factory.mktemp("pages")
    return {n: Page(write_html(content(n), folder / f"{n}.html")) for n in (1, 2)}


def page(of: ReportContent, folder: Path) -> Page:
    return Page(write_html(of, folder / "report.html"))


@pytest.mark.parametrize("number", [1, 2])
def test_needs_nothing_but_itself(pages: dict[int, Page], number: int) -> None:
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    assert pages[number].source.count(plotly) == 1
    own = pages[number].source.replace(plotly, "")
    assert not re.findall(r"https?://|//cdn|@import|url\(", own)
    for node in pages[number].root.all():
        for attribute in ("src", "href", "srcset", "poster", "action"):
            value = node.attributes.get(attribute)
            assert value is None or value.startswith(("#", "data:")), f"{node.name} {attribute}={value[:80]}"
    assert len(own) < 700_000


def test_policy_names_the_scripts_by_their_hash(pages: dict[int, Page]) -> None:
    policy = pages[2].root.one("meta", http_equiv="Content-Security-Policy")["content"]
    scripts = [node for node in pages[2].root.all("script") if "type" not in node.attributes]
    digests = [base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode() for node in scripts]
    assert len(scripts) == 2
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {sources};" in policy
    assert policy.startswith("default-src 'none';")


def test_sections_and_counts(pages: dict[int, Page]) -> None:
    of_two = ("detection-errors", "gains", "only-one")
    order = ["headlines", "charts", "operating-points", *of_two[:2], "figures", "by-class", "misranked", "only-one"]
    for number, keys in ((1, [key for key in order if key not in of_two]), (2, order)):
        root = pages[number].root
        assert [node["id"] for node in root.all("section")] == keys
        assert [node["href"] for node in root.one("nav").all("a")] == [f"#{key}" for key in keys]
        assert "5,000 images" in root.one("header").text
        assert "36,335 objects" in root.one("header").text
        assert "182,311 detections" in root.one("header").text
        assert "All 12 classes." in root.one("header").text
    ids = [node["id"] for node in pages[2].root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in pages[2].root.all("th"):
        assert "scope" in node.attributes


def test_headlines_of_one_detector(pages: dict[int, Page]) -> None:
    cards = list(pages[1].section("headlines").all("li", class_="figure"))
    assert len(cards) == HEADLINES
    values = {card["data-figure"]: card.one(class_="value").text for card in cards}
    figures_shown = content(1).detectors[0].metrics
    assert values["ap"] == f"{figures_shown['ap']:.3f}"
    assert values["rank.ap_lost_duplicates"] == "0.031"
    assert values["rank.laece"] == f"{figures_shown['rank']['laece']:.3f}"
    assert not list(pages[1].root.all(class_="badge"))
    for card in cards:
        assert card.one("p", class_="meaning").text.endswith(".")


@pytest.mark.parametrize(
    ("key", "low", "high", "word"),
    [
        ("ap", 0.01, 0.03, "better"),
        ("ap", -0.03, -0.01, "worse"),
        ("ap", -0.01, 0.03, "no clear difference"),
        ("ap", 0.0, 0.03, "no clear difference"),
        ("lrp", 0.01, 0.03, "worse"),
        ("lrp", -0.03, -0.01, "better"),
        ("rank.spearman", 0.01, 0.03, "better"),
        ("rank.misranked", 0.01, 0.03, "worse"),
        ("rank.best_box_missed", -0.03, -0.01, "better"),
        ("rank.ap_lost_ranking", 0.01, 0.03, "worse"),
        ("rank.ap_lost_duplicates", -0.03, -0.01, "better"),
        ("rank.duplicates_70", 0.01, 0.03, "worse"),
        ("rank.laece", -0.03, -0.01, "better"),
    ],
)
def test_a_difference_in_words(key: str, low: float, high: float, word: str) -> None:
    assert verdict(Difference((low + high) / 2, low, high), key) == word


def test_differences_on_the_page(tmp_path: Path) -> None:
    differences = {
        "ap": Difference(np.float64(0.02), np.float64(0.01), np.float64(0.03)),
        "lrp": Difference(0.02, 0.01, 0.03),
        "rank.spearman": Difference(0.0, -0.01, 0.01),
        "ap75": Difference(None, None, None),
    }
    shown = page(content(differences=differences), tmp_path).section("headlines")
    lines = {card["data-figure"]: card.one("p", class_="difference").text for card in shown.all("li", class_="figure")}
    assert lines["ap"] == "Difference +0.020 (+0.010 to +0.030) better"
    assert lines["lrp"] == "Difference +0.020 (+0.010 to +0.030) worse"
    assert lines["rank.spearman"] == "Difference 0.000 (−0.010 to +0.010) no clear difference"
    first, second = (detector.metrics["ap75"] for detector in content().detectors)
    assert lines["ap75"] == f"Difference {second - first:+.3f}".replace("-", "−")  # no interval, no verdict


def test_all_figures(pages: dict[int, Page]) -> None:
    for number in (1, 2):
        rows = {
            row["data-figure"]: row
            for row in pages[number].root.one(id="figures-table").all("tr")
            if "data-figure" in row.attributes
        }
        assert set(rows) == {*SCALARS, *(f"rank.{key}" for key in RANK)}
        assert [cell.text for cell in rows["ap_large"].all("td")][:number] == ["–"] * number
        assert len(list(rows["ap"].all("td"))) == (2 if number == 1 else 6)


def test_figures_before_nms(tmp_path: Path) -> None:
    before = {"misranked": 0.31, "best_box_missed": 0.5, "iou_lost": 0.02, "suppressed": 0.125}
    detector = figures("a", seed=1)
    detector = replace(detector, metrics={**detector.metrics, "rank_before_nms": before})
    shown = page(content(1, detectors=[detector], misranked={}), tmp_path)
    rows = {row["data-figure"]: row.text for row in shown.root.all("tr") if "data-figure" in row.attributes}
    assert "0.125" in rows["rank_before_nms.suppressed"]
    assert "Ranking before NMS" in shown.section("figures").text


def test_operating_points(pages: dict[int, Page], tmp_path: Path) -> None:
    rows = [[cell.text for cell in row.all("td")] for row in pages[1].root.one(id="operating").one("tbody").all("tr")]
    assert rows[0] == ["0.250", "4,210", "1,403", "990", "0.750", "0.810", "0.779"]
    assert len(rows) == 2
    assert len(list(pages[2].root.one(id="operating").one("tbody").all("tr"))) == 4
    chosen = figures("a", seed=1, operating={"chosen": operating_point(0.5, 1, 1, 1), "best": None})
    shown = page(content(1, detectors=[chosen]), tmp_path)
    assert len(list(shown.root.one(id="operating").one("tbody").all("tr"))) == 1


def test_detection_errors_and_gains(pages: dict[int, Page]) -> None:
    """Counts with a true minus sign; rates of a difference with their sign; a relative gain in per cent, or a dash."""
    root = pages[2].root

    def texts(table: str, key: str) -> dict[str, list[str]]:
        rows = [row for row in root.one(id=table).all("tr") if key in row.attributes]
        return {row[key]: [cell.text for cell in row.all("td")] for row in rows}

    rows = texts("detection-errors-table", "data-row")
    assert rows["dt"] == ["0.500", "1,210", "403", "990", "0.750", "0.550", "0.635"]
    assert rows["difference"] == ["–", "+1,000", "−203", "0", "+0.167", "+0.141", "+0.152"]
    gains = texts("gains-table", "data-gain")
    assert gains["ap"] == ["0.400", "0.420", "+0.020", "+5.0 %"]
    assert gains["ap_small"] == ["0.200", "0.150", "−0.050", "−25.0 %"]
    assert gains["ap_large"] == ["–", "0.100", "–", "–"]


def test_classes(pages: dict[int, Page]) -> None:
    one, two = (pages[n].root.one("table", id="classes") for n in (1, 2))
    columns = ["name", "ap", "lrp", "lrp_loc", "lrp_fp", "lrp_fn", "threshold", "rank.spearman", "rank.misranked"]
    assert [node["data-key"] for node in one.one("thead").all("button")] == columns
    keys = [node["data-key"] for node in two.one("thead").all("button")]
    assert keys[:4] == ["name", "ap:0", "ap:1", "ap:difference"]
    assert {"lrp:difference", "threshold:0", "rank.misranked:1"} < set(keys)
    for table in (one, two):
        heads = [node["data-key"] for node in table.one("thead").all("button")]
        rows = list(table.one("tbody").all("tr"))
        assert [row.one("th").text for row in rows] == list(CLASSES)
        for row in rows:
            assert [cell["data-key"] for cell in row.children if isinstance(cell, Node)] == heads
        assert next(rows[4].all("td"))["data-value"] == ""
        assert next(rows[4].all("td")).text == "–"


def test_misranked_objects(pages: dict[int, Page]) -> None:
    section = pages[2].section("misranked")
    cards = list(section.all("li", class_="card"))
    assert len(cards) == 48
    lost = [float(card["data-lost"]) for card in cards if card["data-detector"] == "0"]
    assert len(lost) == 24
    assert lost == sorted(lost, reverse=True)
    assert [
        (node["data-shown"], node["data-total"]) for node in section.all("p") if "data-total" in node.attributes
    ] == [
        ("24", "812"),
        ("24", "512"),
    ]
    options = {node["value"]: node.text for node in section.one("select", id="misranked-class").all("option")}
    assert set(options) == {"", *CLASSES}
    picture_of = cards[0].one("img")
    assert picture_of["src"].startswith("data:image/jpeg;base64,/9j/")
    assert cards[0]["data-class"] in picture_of["alt"]
    roles = [node["class"] for node in cards[0].one("svg").all("rect") if "box" in node["class"].split()]
    assert roles == ["box role-object", "box role-chosen", "box role-better"]
    assert [node.text for node in cards[0].one("svg").all("text")] == ["0.91", "0.55"]
    assert not list(pages[1].root.all("select", id="misranked-detector"))


def test_boxes_of_one_detector_alone(pages: dict[int, Page]) -> None:
    section = pages[2].section("only-one")
    groups = [
        (g["data-by"], g["data-correct"], len(list(g.all("li", class_="card")))) for g in section.all(class_="group")
    ]
    assert groups == [("first", "true", 4), ("second", "true", 4), ("first", "false", 2), ("second", "false", 2)]
    assert "12 of 140" in section.text


def test_charts(pages: dict[int, Page]) -> None:
    one, two = pages[1].charts, pages[2].charts
    kinds = ["alignment", "precision-recall", "reliability", "densities", "unmatched", "errors"]
    assert list(one) == [f"plot-{kind}-0" for kind in kinds]
    assert set(two) == {*one, "plot-alignment-1", "plot-densities-1"}
    for n in (1, 2):
        plots = [node["id"] for node in pages[n].root.all("div", class_="plot")]
        assert plots == list(pages[n].charts)
        assert len(list(pages[n].root.all("figcaption"))) == len(kinds)
    assert len(one["plot-precision-recall-0"]["data"]) == 3
    assert len(two["plot-precision-recall-0"]["data"]) == 6
    heat, points, tenths = one["plot-alignment-0"]["data"]
    counts = 10 ** np.array([value for row in heat["z"] for value in row if value is not None], float) - 1
    assert counts.sum() == pytest.approx(6000, rel=0.01)
    for axis, end in (("x", 1.0), ("y", 1.0)):  # middles of cells that end at 1
        middles = np.array(heat[axis], float)
        assert middles[-1] + (middles[1] - middles[0]) / 2 == pytest.approx(end, abs=0.02)
    assert len(points["x"]) == 2000
    assert tenths["y"][-1] > tenths["y"][0]
    assert "2,000 are drawn" in pages[1].root.one(id="chart-alignment").text
    assert len(two["plot-reliability-0"]["data"][1]["x"]) == 9  # an empty bin is left out
    bars = two["plot-errors-0"]["data"]
    first = content().detectors[0].errors["classification"]
    assert bars[0]["text"][0] == f"{first['ap_lost']:.3f} ({first['count']:,})"
    assert "gl" not in {trace["type"] for figure in two.values() for trace in figure["data"]}


@pytest.mark.parametrize(
    "text", [NASTY, "a & b", '" onload="alert(1)', "<img src=x onerror=alert(1)>", "-->", "${title}"]
)
def test_text_stays_text(text: str, tmp_path: Path) -> None:
    of = content(
        title=text,
        notes=[text],
        detectors=[figures(f"{text} {i}", seed=i + 1) for i in range(2)],
        misranked={f"{text} 0": [misranked(0, text, image=text)]},
        only_one=[replace(only_one(1), crop=crop(1, ("second",), text, image=text))],
    )
    of.detectors[0].metrics["per_class"][1]["name"] = text
    shown = page(of, tmp_path)
    assert len(list(shown.root.all("script"))) == 3
    assert shown.root.one("h1").text == shown.root.one("title").text == text
    assert shown.section("misranked").one(class_="card")["data-class"] == text
    assert shown.section("misranked").one("p", class_="file").text == text
    assert next(shown.root.one(id="classes").one("tbody").all("th")).text == text
    assert not [node for node in shown.root.all() if any(key.startswith("on") for key in node.attributes)]
    block = shown.root.one("script", id="chart-data").text
    assert not set(block) & set("<>&\u2028\u2029")
    # Plotly takes < for markup, and its entities for characters.
    assert shown.charts["plot-errors-0"]["data"][0]["name"] == html.escape(f"{text} 0", quote=False)


def test_text_beyond_utf8(tmp_path: Path) -> None:
    """File names of unknown encoding hold lone surrogates; line separators end a line in scripts."""
    of = content(
        1, detectors=[figures("a\u2028b\udcff", seed=1)], misranked={"a\u2028b\udcff": [misranked(0, "信号\udce9")]}
    )
    shown = page(of, tmp_path)
    assert shown.section("misranked").one(class_="card")["data-class"] == "信号?"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("detectors", [1, 2])
def test_nothing_to_show(detectors: int, tmp_path: Path) -> None:
    both = [figures(f"d{i}", seed=1, **NOTHING) for i in range(detectors)]
    of = ReportContent("empty", 0, 0, [0] * detectors, both)
    shown = page(of, tmp_path)
    assert [node["id"] for node in shown.root.all("section")] == ["headlines", "figures"]
    assert {node.text for node in shown.root.all(class_="value")} == {"–"}
    assert shown.charts == {}
    assert "plotly.js" not in shown.source  # nothing to draw with it


@pytest.mark.filterwarnings("error")
def test_one_detector_without_detections(tmp_path: Path) -> None:
    """What is empty for one detector alone keeps its place beside the other's."""
    both = [figures("full", seed=1), figures("empty", seed=2, **NOTHING)]
    shown = page(content(detectors=both, misranked={}, only_one=[]), tmp_path)
    assert "no matched detections" in json.dumps(shown.charts["plot-alignment-1"])
    assert "no detections" in json.dumps(shown.charts["plot-densities-1"])
    assert {node["id"] for node in shown.root.all("section")} == {
        *("headlines", "charts", "operating-points", "detection-errors", "gains", "figures", "by-class")
    }


@pytest.mark.filterwarnings("error")
def test_undefined_numbers(tmp_path: Path) -> None:
    nan = np.full(10, np.nan)
    zero = dict.fromkeys(("matched_density", "unmatched_density"), np.zeros(40))
    strange = figures(
        "strange",
        seed=1,
        matched=3,
        confidence=nan,
        quality=nan,
        counts=np.zeros(10),
        precision={0.5: np.full(101, np.nan)},
        errors={"missed": {"count": np.int64(3), "ap_lost": None}},
        operating={"chosen": dict.fromkeys(("threshold", "tp", "fp", "fn", "precision", "recall", "f1")), "best": None},
        **zero,
    )
    strange = replace(strange, scores=strange.scores * 9 - 3, metrics={**strange.metrics, "ap": np.float32("nan")})
    shown = page(content(1, detectors=[strange], misranked={}), tmp_path)
    assert list(shown.charts) == ["plot-alignment-0", "plot-unmatched-0", "plot-errors-0"]
    assert shown.charts["plot-errors-0"]["data"][0]["text"] == ["3"]
    low, high = shown.charts["plot-alignment-0"]["layout"]["xaxis"]["range"]
    assert low < strange.scores.min()
    assert high > strange.scores.max()


@pytest.mark.filterwarnings("error")
def test_many_classes_and_one(tmp_path: Path) -> None:
    for kinds in (1, 90):
        shown = page(content(kinds=kinds), tmp_path)
        assert len(list(shown.root.one(id="classes").one("tbody").all("tr"))) == kinds


def test_detectors_of_one_name(tmp_path: Path) -> None:
    shown = page(content(detectors=[figures("same", seed=1), figures("same", seed=2)], misranked={}), tmp_path)
    assert "same (first)" in shown.root.one("header").text
    assert "same (second)" in shown.root.one("header").text


def test_size(tmp_path: Path) -> None:
    """200 crops of about 12 kB, 5,000 images' worth of points: below 15 MB."""
    side = (220, 165)
    pieces = [picture(i, side, noise=90) for i in range(100)]
    assert 8_000 < np.mean([len(piece) for piece in pieces]) < 20_000
    cards = {
        detector.name: [misranked(i, jpeg=piece, width=side[0], height=side[1]) for i, piece in enumerate(pieces)]
        for detector in content(2).detectors
    }
    detectors = [figures(name, seed=i + 1, kinds=80, matched=150_000) for i, name in enumerate(cards)]
    path = write_html(content(kinds=80, detectors=detectors, misranked=cards), tmp_path / "large.html")
    assert path.stat().st_size < 15e6


def test_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_html(content(1, cards=1), str(tmp_path / "new" / "folder" / "report.html"))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_html(content(2, cards=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_same_content_gives_the_same_file(tmp_path: Path) -> None:
    first = write_html(content(), tmp_path / "a.html")
    assert first.read_bytes() == write_html(content(), tmp_path / "b.html").read_bytes()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_html(content(1), tmp_path)
    with pytest.raises(ValueError, match="has 0 detectors"):
        write_html(content(1, detectors=[]), tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
