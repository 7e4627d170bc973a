"""Errors of two detectors at score .5, and gains by size: hand-worked."""

from __future__ import annotations

import pytest
from cases import A, B, C, Found, Objects, cut, diagnose

from alignrank.metrics import compare
from alignrank.metrics.gain import Gain, detection_errors, gains_by_size

OBJECTS: Objects = [(1, 1, A), (1, 1, B), (1, 2, C), (2, 1, [0, 0, 40, 40])]
# By score: A; A again, false; B; the larger object, below .5.
FIRST: Found = [(1, 1, A, 0.9), (1, 1, A, 0.8), (1, 1, B, 0.5), (2, 1, [0, 0, 40, 40], 0.4)]
# A; B with an IoU of .6; C; nothing false, and the larger object is missed.
SECOND: Found = [(1, 1, A, 0.9), (1, 1, cut(B, 0.6), 0.8), (1, 2, C, 0.7)]


def test_errors_at_score_half() -> None:
    """First: TP A and B, FP 1, FN C and the larger one: precision 2/3, recall 1/2, F1 4 / (4 + 1 + 2) = 4/7.

    Second: TP 3, FP 0, FN 1: precision 1, recall 3/4, F1 6/7. The operating point that is chosen does not matter.
    """
    for conf in (0.25, 0.95):
        found = detection_errors(diagnose(OBJECTS, FIRST, conf=conf), diagnose(OBJECTS, SECOND, conf=conf)).to_dict()
        assert found["dt"] == pytest.approx(
            {"threshold": 0.5, "tp": 2, "fp": 1, "fn": 2, "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7}
        )
        assert found["dt2"] == pytest.approx(
            {"threshold": 0.5, "tp": 3, "fp": 0, "fn": 1, "precision": 1, "recall": 3 / 4, "f1": 6 / 7}
        )
        assert found["difference"] == pytest.approx(
            {"tp": 1, "fp": -1, "fn": -1, "precision": 1 / 3, "recall": 1 / 4, "f1": 2 / 7}
        )


def test_an_undefined_rate_has_no_difference() -> None:
    """Nothing at score .5: precision 0 / 0."""
    nothing: Found = [(1, 1, A, 0.4)]
    found = detection_errors(diagnose(OBJECTS, nothing), diagnose(OBJECTS, SECOND)).to_dict()
    assert found["dt"]["precision"] is None
    assert found["difference"]["precision"] is None
    assert found["difference"]["recall"] == 3 / 4


def test_gains_by_size() -> None:
    """Small: A, B of class 1 and C of class 2. First: of class 1 precision 1 up to recall 1/2 (51 of 101 recalls), then
    2/3; class 2 has nothing. Second: class 1 whole at IoU .5, .55 and .6, else half (51/101); class 2 whole.
    Medium: the larger object, which the first finds behind three others (on no medium object), the second not.
    """
    gains = gains_by_size(diagnose(OBJECTS, FIRST), diagnose(OBJECTS, SECOND))
    first = (51 + 50 * 2 / 3) / 101 / 2
    second = ((3 + 7 * 51 / 101) / 10 + 1) / 2
    small = gains["ap_small"]
    assert (small.first, small.second) == pytest.approx((first, second))
    assert small.absolute == pytest.approx(second - first)
    assert small.relative == pytest.approx((second - first) / first)
    assert gains["ap_medium"].to_dict() == {"dt": 1, "dt2": 0, "absolute": -1, "relative": -1}
    assert gains["ap_large"].to_dict() == dict.fromkeys(("dt", "dt2", "absolute", "relative"))
    assert list(gains) == ["ap", "ap_small", "ap_medium", "ap_large"]


def test_from_nothing_there_is_no_relative_gain() -> None:
    assert (Gain(0.0, 0.5).absolute, Gain(0.0, 0.5).relative) == (0.5, None)
    assert Gain(None, 0.5).absolute is None


def test_a_comparison_has_both() -> None:
    first, second = diagnose(OBJECTS, FIRST), diagnose(OBJECTS, SECOND)
    found = compare(first, second, replicates=2).to_dict()
    assert found["detection_errors"] == detection_errors(first, second).to_dict()
    assert found["gains"]["ap_small"] == gains_by_size(first, second)["ap_small"].to_dict()
