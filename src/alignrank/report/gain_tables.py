"""The report's tables of what a second detector gains: counts at one score, AP by size of object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignrank.report.content import ReportContent
from alignrank.report.figures import DASH, MINUS, labels_of, name_of, plain_number, written
from alignrank.report.markup import Html, element
from alignrank.report.tables import detector_mark, scrolling

_COUNTS = ("tp", "fp", "fn")
_COLUMNS = {"tp": "TP", "fp": "FP", "fn": "FN", "precision": "Precision", "recall": "Recall", "f1": "F1"}


def detection_errors_table(content: ReportContent) -> Html | None:
    """A row for each of two detectors, and one for second minus first; None for one detector."""
    rows = content.detection_errors
    if not rows:
        return None
    labels = labels_of(content)
    headings = {"dt": detector_mark(0, labels[0]), "dt2": detector_mark(1, labels[1]), "difference": "Difference"}
    body = []
    for key, heading in headings.items():
        cells = [element("th", heading, scope="row")]
        cells.append(element("td", written(rows[key].get("threshold")), class_="n"))
        signed = key == "difference"
        cells += [element("td", _count_or_rate(rows[key], column, signed), class_="n") for column in _COLUMNS]
        body.append(element("tr", cells, data_row=key))
    return _table(["Detector", "Score", *_COLUMNS.values()], body, "detection-errors-table", "Detection errors")


def gains_table(content: ReportContent) -> Html | None:
    """A row for each figure of AP: both, the difference, and the relative gain; None for one detector."""
    if not content.gains:
        return None
    labels = labels_of(content)
    rows = []
    for key, gain in content.gains.items():
        cells = [element("th", name_of(key), scope="row")]
        values = (
            written(gain.first),
            written(gain.second),
            written(gain.absolute, signed=True),
            _percent(gain.relative),
        )
        cells += [element("td", value, class_="n") for value in values]
        rows.append(element("tr", cells, data_gain=key))
    heads = ["Figure", detector_mark(0, labels[0]), detector_mark(1, labels[1]), "Difference", "Relative gain"]
    return _table(heads, rows, "gains-table", "Gain by size of object")


def _table(heads: Sequence[Html | str], rows: Sequence[Html], name: str, label: str) -> Html:
    first, *others = heads
    head = [element("th", first, scope="col"), *(element("th", text, scope="col", class_="n") for text in others)]
    return scrolling(element("table", element("thead", element("tr", head)), element("tbody", rows), id=name), label)


def _count_or_rate(row: Mapping[str, Any], column: str, signed: bool) -> str:
    value = plain_number(row.get(column))
    if column not in _COUNTS or value is None:
        return written(value, signed=signed)
    return (f"{int(value):+,}" if signed and value else f"{int(value):,}").replace("-", MINUS)


def _percent(share: float | None) -> str:
    value = plain_number(share)
    return DASH if value is None else f"{100 * value:+.1f} %".replace("-", MINUS)
