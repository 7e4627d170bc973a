"""What the report is drawn from: what an object lost, and differences between two detectors."""

from __future__ import annotations

import pytest
from fake_report import content, misranked

from alignrank.report.content import Difference
from alignrank.report.figures import difference_of, value_of


def test_what_an_object_lost() -> None:
    """The better box has IoU .93, the chosen one .55."""
    card = misranked(0)
    assert (card.better_iou, card.chosen_iou) == (0.93, 0.55)
    assert card.iou_lost == pytest.approx(0.38)


def test_plain_differences() -> None:
    """Without a given one: second minus first, without an interval; none with one detector or an undefined figure."""
    two = content(2, cards=0, differences={})
    first, second = (value_of(detector.metrics, "ap") for detector in two.detectors)
    assert first is not None
    assert second is not None
    assert difference_of(two, "ap") == Difference(second - first, None, None)
    assert difference_of(content(1, cards=0), "ap") is None
    two.detectors[0].metrics["ap"] = None
    assert difference_of(two, "ap") is None
    given = content(2, cards=0, differences={"ap": Difference(0.25, 0.1, 0.4)})
    assert difference_of(given, "ap") == Difference(0.25, 0.1, 0.4)
