"""Boxes on one another above the class's LRP-optimal score: hand-worked."""

from __future__ import annotations

import numpy as np
import pytest
from cases import FAR, A, B, C, Found, Objects, cut, diagnose, inputs

from alignrank.metrics.duplicates import duplicates
from alignrank.metrics.matching import match
from alignrank.metrics.overlaps import find_overlaps


def test_rates_above_the_optimal_threshold() -> None:
    """A: .9 exactly, .8 its left 9.5 px, .7 its left 8 px. B .6, C .5 exactly. B again .4.

    LRP, Loc being 0 (duplicates are false, whatever their fit): s = .9: 2/3. .6: (2 + 1) / 5. .5: 2 / 5 = .4, the
    minimum. .4: 3 / 6. So five detections count. Of them, two lie on a better-scored one:
    .8 on .9 with IoU .95; .7 on .9 with IoU .8 and on .8 with 80/95 = .842.
    Above .7: 2/5; above .9: 1/5. B's second box, an exact copy, is below the threshold.
    """
    found: Found = [
        (1, 1, A, 0.9),
        (1, 1, cut(A, 0.95), 0.8),
        (1, 1, cut(A, 0.8), 0.7),
        (1, 1, B, 0.6),
        (1, 1, C, 0.5),
        (1, 1, B, 0.4),
    ]
    diagnosis = diagnose([(1, 1, A), (1, 1, B), (1, 1, C)], found)
    assert diagnosis.metrics.per_class[1]["threshold"] == 0.5
    assert diagnosis.metrics.rank["duplicates_70"] == pytest.approx(2 / 5, abs=1e-12)
    assert diagnosis.metrics.rank["duplicates_90"] == pytest.approx(1 / 5, abs=1e-12)
    np.testing.assert_allclose(np.sort(diagnosis.duplicates.overlap), [0, 0, 0, 80 / 95, 0.95], atol=1e-12)


def test_each_class_has_its_threshold() -> None:
    """Class 1: A .9, B .3 found, a copy of B .2. Class 2: C .8 found, a copy .7. LRP-optimal: .3 (LRP 0) and .8 (0).

    Three detections count and none lies on another. At class 1's threshold C's copy would be one of four.
    """
    objects: Objects = [(1, 1, A), (1, 1, B), (1, 2, C)]
    found: Found = [(1, 1, A, 0.9), (1, 1, B, 0.3), (1, 1, B, 0.2), (1, 2, C, 0.8), (1, 2, C, 0.7)]
    diagnosis = diagnose(objects, found)
    assert len(diagnosis.duplicates.dt) == 3
    assert diagnosis.metrics.rank["duplicates_70"] == 0


def test_only_of_the_same_image_and_class() -> None:
    """Threshold 0 for both classes. A in image 1 and class 1; equal boxes in class 2 and in image 2; and FAR twice in
    image 2, class 1, with equal scores: one of the two ranks second. 1 of 5. IoU 1 is above .9 as well.
    """
    found: Found = [(1, 1, A, 0.9), (1, 2, A, 0.8), (2, 1, A, 0.7), (2, 1, FAR, 0.6), (2, 1, FAR, 0.6)]
    matching = match(find_overlaps(inputs([], found)), max_dets=100)
    result = duplicates(matching, np.zeros(2))
    assert (result.rate(0.7), result.rate(0.9)) == (0.2, 0.2)


def test_the_better_scored_box_is_no_duplicate() -> None:
    """A .9 exactly, .8 its left and .7 its right 7.5 px: IoU .75 with A, 5/10 with one another. The two lie on A: 2/3.

    The other way round, A would be the only one that lies on another above .7.
    """
    found: Found = [(1, 1, [2.5, 0, 7.5, 10], 0.7), (1, 1, A, 0.9), (1, 1, cut(A, 0.75), 0.8)]
    result = duplicates(match(find_overlaps(inputs([], found)), max_dets=100), np.zeros(2))
    assert result.rate(0.7) == pytest.approx(2 / 3, abs=1e-12)


def test_above_means_more_than() -> None:
    """B's left half in B: IoU .5, exact in binary: not above .5, above .49."""
    matching = match(find_overlaps(inputs([], [(1, 1, B, 0.9), (1, 1, cut(B, 0.5), 0.8)])), max_dets=100)
    result = duplicates(matching, np.zeros(2))
    assert (result.rate(0.5), result.rate(0.49)) == (0, 0.5)


def test_weights_and_classes_without_a_threshold() -> None:
    """A and its copy in image 1, B in image 2. Weights of detections 3, 3, 1: 3/7. A threshold of NaN: none counts.
    A threshold of .8: A alone, no copy.
    """
    matching = match(find_overlaps(inputs([], [(1, 1, A, 0.9), (1, 1, A, 0.7), (2, 1, B, 0.6)])), max_dets=100)
    result = duplicates(matching, np.zeros(2))
    assert result.rate(0.7) == pytest.approx(1 / 3)
    assert result.rate(0.7, np.array([3.0, 3.0, 1.0])) == pytest.approx(3 / 7, abs=1e-12)
    assert duplicates(matching, np.array([np.nan, 0])).rate(0.7) is None
    assert duplicates(matching, np.array([0.8, 0])).rate(0.7) == 0


def test_none_without_a_true_detection() -> None:
    """No class has an optimal threshold, so no detection counts."""
    rank = diagnose([(1, 1, A)], [(1, 1, FAR, 0.9), (1, 1, FAR, 0.8)]).metrics.rank
    assert (rank["duplicates_70"], rank["duplicates_90"]) == (None, None)
