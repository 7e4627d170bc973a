"""The report's tables and headline cards: figures in words, per detector, with the difference where there are two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignrank.report.content import Difference, ReportContent
from alignrank.report.figures import (
    DASH,
    FIGURES,
    HEADLINES,
    difference_of,
    interval,
    keys_of,
    labels_of,
    meaning_of,
    name_of,
    plain_number,
    value_of,
    verdict,
    written,
)
from alignrank.report.markup import Html, element, join

_GROUPS = {
    "ap": "Average precision and recall",
    "lrp": "Localization recall precision",
    "rank": "Ranking",
    "rank_before_nms": "Ranking before NMS",
    "": "Other",
}
_CLASS_COLUMNS = ("ap", "lrp", "lrp_loc", "lrp_fp", "lrp_fn", "threshold")
_CLASS_NAMES = {
    "lrp_loc": "oLRP loc.",
    "lrp_fp": "oLRP FP",
    "lrp_fn": "oLRP FN",
    "threshold": "Threshold",
    "rank.spearman": "Spearman",
    "rank.spearman_true": "Spearman, true boxes",
    "rank.kendall": "Kendall",
    "rank.pearson": "Pearson",
    "rank.laece": "LaECE",
}
_OPERATING = {"chosen": "chosen threshold", "best": "best F1"}
_OPERATING_COLUMNS = ("threshold", "tp", "fp", "fn", "precision", "recall", "f1")
_FIRST_SECOND = ("first", "second")


def detector_mark(place: int, name: str) -> Html:
    """The detector's name with its colour before it."""
    dot = element("span", class_=f"dot {_FIRST_SECOND[place]}", aria_hidden="true")
    return element("span", dot, element("span", name), class_="detector")


def scrolling(table: Html, label: str) -> Html:
    """A table that scrolls within itself, by keyboard too."""
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def headline_cards(content: ReportContent) -> Html | None:
    """The ten figures to look at first, but those that no detector names; None where none is named."""
    named = set(keys_of([detector.metrics for detector in content.detectors]))
    cards = [_headline(content, key) for key in HEADLINES if key in named]
    return element("ul", cards, class_="figures") if cards else None


def _headline(content: ReportContent, key: str) -> Html:
    labels, two = labels_of(content), len(content.detectors) > 1
    values = []
    for place, detector in enumerate(content.detectors):
        value = element("span", written(value_of(detector.metrics, key)), class_="value")
        values.append(element("div", detector_mark(place, labels[place]) if two else None, value, class_="figure-row"))
    parts = [element("h3", name_of(key)), values]
    if two:
        parts.append(_difference_line(difference_of(content, key), key))
    parts.append(element("p", meaning_of(key), class_="meaning"))
    return element("li", parts, class_="figure", data_figure=key)


def _difference_line(difference: Difference | None, key: str) -> Html:
    if difference is None:
        return element("p", f"Difference: {DASH}", class_="difference")
    text: list[Html | str] = ["Difference ", element("b", written(difference.difference, signed=True))]
    if interval(difference) != DASH:
        text.append(element("span", f" ({interval(difference)})", class_="interval"))
    word = verdict(difference, key)
    return element("p", text, " " if word else None, _badge(word), class_="difference")


def _badge(word: str) -> Html | None:
    """The verdict in a word; colour only repeats it."""
    if not word:
        return None
    return element("span", word, class_=f"badge {word if word in ('better', 'worse') else 'unclear'}")


def figures_table(content: ReportContent) -> Html | None:
    """Every scalar figure of the metrics, in groups; None where there is none."""
    labels, two = labels_of(content), len(content.detectors) > 1
    head = [element("th", "Figure", scope="col")]
    if two:
        head += [element("th", detector_mark(i, name), scope="col", class_="n") for i, name in enumerate(labels)]
        head += [element("th", "Difference", scope="col", class_="n"), element("th", "95 % interval", scope="col")]
        head.append(element("th", "Verdict", scope="col"))
    else:
        head.append(element("th", "Value", scope="col", class_="n"))
    head.append(element("th", "Meaning", scope="col"))
    bodies = []
    for title, keys in _grouped(keys_of([detector.metrics for detector in content.detectors])):
        heading = element("tr", element("th", title, scope="rowgroup", colspan=len(head), class_="group"))
        bodies.append(element("tbody", heading, [_figure_row(content, key) for key in keys]))
    if not bodies:
        return None
    table = element("table", element("thead", element("tr", head)), bodies, id="figures-table")
    return scrolling(table, "All figures")


def _grouped(keys: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The keys under their headings; empty headings are left out."""
    families: dict[str, list[str]] = {family: [] for family in _GROUPS}
    for key in keys:
        family = key.rpartition(".")[0] or ("lrp" if key.startswith("lrp") else "ap" if key in FIGURES else "")
        families[family if family in families else ""].append(key)
    return [(_GROUPS[family], members) for family, members in families.items() if members]


def _figure_row(content: ReportContent, key: str) -> Html:
    cells = [element("th", name_of(key), " ", element("code", key), scope="row")]
    cells += [element("td", written(value_of(d.metrics, key)), class_="n") for d in content.detectors]
    if len(content.detectors) > 1:
        difference = difference_of(content, key)
        cells.append(element("td", written(difference.difference if difference else None, signed=True), class_="n"))
        cells.append(element("td", interval(difference), class_="interval"))
        cells.append(element("td", _badge(verdict(difference, key)) or DASH))
    cells.append(element("td", meaning_of(key), class_="meaning"))
    return element("tr", cells, data_figure=key)


def operating_table(content: ReportContent) -> Html | None:
    """What each detector does at its chosen threshold and at that of best F1; None where neither is known."""
    labels, two = labels_of(content), len(content.detectors) > 1
    rows = []
    for place, detector in enumerate(content.detectors):
        for kind, title in _OPERATING.items():
            point = detector.operating.get(kind)
            if point is None:
                continue
            cells = [element("th", detector_mark(place, labels[place]), scope="row")] if two else []
            cells.append(element("td" if two else "th", title, scope=None if two else "row"))
            cells += [element("td", _operating(point, column), class_="n") for column in _OPERATING_COLUMNS]
            rows.append(element("tr", cells, data_point=kind))
    if not rows:
        return None
    names = {"f1": "F1", "tp": "TP", "fp": "FP", "fn": "FN"}
    head = [element("th", "Detector", scope="col")] if two else []
    head.append(element("th", "Point", scope="col"))
    head += [element("th", names.get(c, c.capitalize()), scope="col", class_="n") for c in _OPERATING_COLUMNS]
    table = element("table", element("thead", element("tr", head)), element("tbody", rows), id="operating")
    return scrolling(table, "Operating points")


def _operating(point: Mapping[str, Any], column: str) -> str:
    value = plain_number(point.get(column))
    return f"{int(value):,}" if value is not None and column in ("tp", "fp", "fn") else written(value)


def classes_table(content: ReportContent) -> Html | None:
    """One row for each class, sortable; None without classes."""
    rows = _class_rows(content)
    if not rows:
        return None
    columns = _class_columns(content)
    two = len(content.detectors) > 1
    first, second = [element("th", _sort_button("Class", "name"), scope="col", rowspan=2 if two else None)], []
    for column in columns:
        title = _CLASS_NAMES.get(column) or name_of(column)
        if not two:
            first.append(element("th", _sort_button(title, column), scope="col", class_="n"))
            continue
        keys = [(f"{column}:{place}", detector_mark(place, "AB"[place])) for place in range(2)]
        if _has_difference(content, column):
            keys.append((f"{column}:difference", Html("B − A")))
        first.append(element("th", title, scope="colgroup", colspan=len(keys), class_="over"))
        second += [element("th", _sort_button(text, key, title), scope="col", class_="n") for key, text in keys]
    head = element("thead", element("tr", first), element("tr", second) if two else None)
    body = element("tbody", [_class_row(content, rows, category, columns) for category in rows])
    return scrolling(element("table", head, body, id="classes"), "Figures by class")


def _sort_button(text: str, key: str, group: str = "") -> Html:
    hidden = element("span", f"{group} ", class_="unseen") if group else None
    arrow = element("span", class_="arrow", aria_hidden="true")
    return element("button", hidden, text, arrow, type="button", data_key=key)


def _class_rows(content: ReportContent) -> dict[Any, list[Mapping[str, Any]]]:
    """{category id: each detector's row, empty where it has none}."""
    tables = [detector.metrics.get("per_class") or {} for detector in content.detectors]
    ids = dict.fromkeys(category for table in tables for category in table)
    return {category: [table.get(category, {}) for table in tables] for category in ids}


def _class_columns(content: ReportContent) -> list[str]:
    rows = [row for detector_rows in _class_rows(content).values() for row in detector_rows]
    named = {key for row in rows for key in row} | {f"rank.{key}" for row in rows for key in row.get("rank") or ()}
    ranking = [key for key in FIGURES if key.startswith("rank.") and {key, key.removeprefix("rank.")} & named]
    return [key for key in _CLASS_COLUMNS if key in named] + ranking


def _has_difference(content: ReportContent, column: str) -> bool:
    return any(column in row or column.removeprefix("rank.") in row for row in content.class_differences.values())


def _class_row(
    content: ReportContent, rows: Mapping[Any, Sequence[Mapping[str, Any]]], category: Any, columns: Sequence[str]
) -> Html:
    own = rows[category]
    name = next((str(row["name"]) for row in own if row.get("name") is not None), str(category))
    cells = [element("th", name, scope="row", data_key="name", data_value=name)]
    for column in columns:
        for place, row in enumerate(own):
            value = value_of(row, column)
            value = plain_number(row.get(column.removeprefix("rank."))) if value is None else value
            cells.append(_cell(value, f"{column}:{place}" if len(own) > 1 else column, written(value)))
        if len(own) > 1 and _has_difference(content, column):
            given = content.class_differences.get(category, {})
            difference = given.get(column) or given.get(column.removeprefix("rank."))
            value = plain_number(difference.difference) if difference else None
            cells.append(_cell(value, f"{column}:difference", _class_difference(difference, column)))
    return element("tr", cells)


def _cell(value: float | None, key: str, text: str) -> Html:
    """data_value: what the table is sorted by."""
    return element("td", text, class_="n", data_key=key, data_value="" if value is None else repr(value))


def _class_difference(difference: Difference | None, key: str) -> Html:
    if difference is None or plain_number(difference.difference) is None:
        return Html(DASH)
    word = verdict(difference, key)
    value = element("span", written(difference.difference, signed=True), class_=f"by {word}" if word else None)
    note = element("span", f" {word}", class_="unseen") if word in ("better", "worse") else None
    small = element("small", interval(difference)) if interval(difference) != DASH else None
    return join([value, note, small])
