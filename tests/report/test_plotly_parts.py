"""Small parts of charts."""

from __future__ import annotations

import pytest
from fake_report import content

from alignrank.report.charts import charts
from alignrank.report.figures import labels_of
from alignrank.report.html import _mixed
from alignrank.report.plotly_parts import evenly


@pytest.mark.parametrize(
    ("length", "most", "chosen"), [(10, 4, [0, 3, 6, 9]), (3, 5, [0, 1, 2]), (0, 5, []), (5, 5, [0, 1, 2, 3, 4])]
)
def test_places_are_spread_from_the_first_to_the_last(length: int, most: int, chosen: list[int]) -> None:
    assert evenly(length, most).tolist() == chosen


def test_a_colour_between_two() -> None:
    assert _mixed("#000000", "#ffffff", 0.5) == "#808080"
    assert _mixed("#102030", "#506070", 0.25) == "#203040"


@pytest.mark.parametrize("kinds", [1, 2])
def test_charts_with_a_plot_for_each_detector_are_wide_where_there_are_two(kinds: int) -> None:
    shown = content(kinds, cards=0)
    wide = {chart.key: chart.wide for chart in charts(shown.detectors, labels_of(shown)) if len(chart.plots) == kinds}
    assert wide["alignment"] is wide["densities"] is (kinds == 2)
