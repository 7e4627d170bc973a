"""Counts at one score threshold, and the threshold of best F1: hand-worked."""

from __future__ import annotations

from typing import Any

import pytest
from cases import FAR, A, B, C, Found, Objects, diagnose

OBJECTS: Objects = [(1, 1, A), (1, 1, B), (1, 2, C), (1, 1, [100, 100, 45, 45], True)]
FOUND: Found = [
    (1, 1, A, 0.9),
    (1, 1, A, 0.8),
    (1, 1, [110, 110, 9, 9], 0.6),
    (1, 1, B, 0.5),
    (1, 1, C, 0.4),
    (1, 2, C, 0.2),
]


def points(objects: Objects, found: Found, **options: Any) -> tuple[Any, Any]:
    result = diagnose(objects, found, **options).metrics.operating_points
    return result["chosen"], result["best"]


def test_counts_at_a_threshold_and_at_the_best() -> None:
    """By score: .9 A; .8 A again, false; .6 on a crowd region, left out; .5 B; .4 C as class 1, false; .2 C.

    At .25: TP 2, FP 2, FN 1: precision 1/2, recall 2/3, F1 4 / (4 + 2 + 1) = 4/7.
    F1 at .9: 2/4; .8: 2/5; .5: 4/6; .4: 4/7; .2: 6 / (6 + 2) = 3/4, the best: TP 3, FP 2, FN 0.
    """
    chosen, best = points(OBJECTS, FOUND)
    expected = {"threshold": 0.25, "tp": 2, "fp": 2, "fn": 1, "precision": 1 / 2, "recall": 2 / 3, "f1": 4 / 7}
    assert chosen == pytest.approx(expected, abs=1e-12)
    expected = {"threshold": 0.2, "tp": 3, "fp": 2, "fn": 0, "precision": 3 / 5, "recall": 1, "f1": 3 / 4}
    assert best == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("conf", "counts"),
    [(0.0, (3, 2, 0)), (0.2, (3, 2, 0)), (0.5, (2, 1, 1)), (0.51, (1, 1, 2)), (0.9, (1, 0, 2)), (0.95, (0, 0, 3))],
)
def test_a_detection_counts_if_its_score_is_at_least_the_threshold(conf: float, counts: tuple[int, int, int]) -> None:
    chosen, best = points(OBJECTS, FOUND, conf=conf)
    assert (chosen["tp"], chosen["fp"], chosen["fn"]) == counts
    assert chosen["threshold"] == conf
    assert best["threshold"] == 0.2


def test_scores_that_tie_come_together() -> None:
    """A .9 true, and a true (B) and two false boxes at .5. F1 at .9: 2/3 (TP 1, FN 1); at .5: 4 / (4 + 2) = 2/3.

    A threshold between the true and the false ones of .5 would give 1; there is none. Of equal F1, the higher score.
    """
    found: Found = [(1, 1, A, 0.9), (1, 1, B, 0.5), (1, 1, FAR, 0.5), (1, 2, FAR, 0.5)]
    chosen, best = points([(1, 1, A), (1, 1, B)], found)
    assert best == pytest.approx(
        {"threshold": 0.9, "tp": 1, "fp": 0, "fn": 1, "precision": 1, "recall": 1 / 2, "f1": 2 / 3}, abs=1e-12
    )
    assert (chosen["tp"], chosen["fp"], chosen["fn"]) == (2, 2, 0)


def test_the_allowance_counts() -> None:
    """With one detection an image and class: A as the better-scored of class 1, C of class 2."""
    chosen, best = points(OBJECTS, FOUND, max_dets=1, conf=0.0)
    assert (chosen["tp"], chosen["fp"], chosen["fn"]) == (2, 0, 1)
    assert (best["threshold"], best["f1"]) == (0.2, pytest.approx(4 / 5))


def test_nothing_found_and_nothing_to_find() -> None:
    """0 / 0 is None: precision without detections, recall without objects, F1 without both."""
    chosen, best = points([(1, 1, A)], [])
    assert best is None
    assert (chosen["precision"], chosen["recall"], chosen["f1"]) == (None, 0, 0)
    chosen, best = points([], [(1, 1, A, 0.9)])
    assert best is None
    assert (chosen["precision"], chosen["recall"], chosen["f1"]) == (0, None, 0)
    chosen, best = points([], [])
    assert best is None
    assert (chosen["precision"], chosen["recall"], chosen["f1"]) == (None, None, None)
    assert points([(1, 1, A)], [(1, 1, FAR, 0.9)])[1] is None
