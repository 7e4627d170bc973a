"""The table of figures by hand: a row's cells, with the verdict or a dash."""

from __future__ import annotations

import re

from fake_report import content

from alignrank.report.content import Difference
from alignrank.report.tables import classes_table, figures_table


def cells(table: str, key: str) -> list[str]:
    """The texts of a row."""
    row = re.search(rf'<tr data-figure="{re.escape(key)}">(.*?)</tr>', table)
    assert row is not None
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[1])]


def test_a_row_of_two_detectors() -> None:
    """Both figures, second minus first, its interval and what that says; a dash where no interval says anything."""
    two = content(2, cards=0, differences={"ap": Difference(0.25, 0.125, 0.375), "lrp": Difference(0.25, 0.125, 0.375)})
    for detector, value in zip(two.detectors, (0.25, 0.5), strict=True):
        detector.metrics.update(ap=value, lrp=value, ap50=value)
    table = figures_table(two)
    assert table is not None
    assert cells(table, "ap")[:5] == ["0.250", "0.500", "+0.250", "+0.125 to +0.375", "better"]
    assert cells(table, "lrp")[:5] == ["0.250", "0.500", "+0.250", "+0.125 to +0.375", "worse"]
    assert cells(table, "ap50")[:5] == ["0.250", "0.500", "+0.250", "–", "–"]
    assert cells(table, "ap_large")[:5] == ["–"] * 5


def test_a_row_of_one_detector() -> None:
    """The figure and what it means."""
    one = content(1, cards=0)
    one.detectors[0].metrics["ap"] = 0.25
    table = figures_table(one)
    assert table is not None
    assert len(cells(table, "ap")) == 2
    assert cells(table, "ap")[0] == "0.250"


def test_a_class_table_has_the_columns_that_are_measured() -> None:
    """Figures of ranking that no class has are no empty columns."""
    whole = content(1)
    table = str(classes_table(whole))
    assert "mis-ranked" in table.lower()
    for detector in whole.detectors:
        for row in detector.metrics["per_class"].values():
            del row["spearman"], row["misranked"]
    bare = str(classes_table(whole))
    assert "mis-ranked" not in bare.lower()
    assert bare.count("<th") < table.count("<th")
