"""Boxes that only one of two detectors has."""

from __future__ import annotations

import pytest
from cases import FAR, A, B, C, Found, Objects, cut, diagnose

from alignrank.metrics import compare
from alignrank.metrics.differing import only_first

OBJECTS: Objects = [(1, 1, A), (1, 1, B), (1, 1, C, True)]
# Objects A and B, a crowd region C. The first finds A, and has a false box far off and one on the crowd region.
FIRST: Found = [(1, 1, FAR, 0.95), (1, 1, A, 0.9), (1, 1, C, 0.8)]


def only(first: Found, second: Found) -> list[tuple[float, bool]]:
    """(score, whether it finds an object) of each, in the order given."""
    one, other = (diagnose(OBJECTS, found, images=1, classes=1) for found in (first, second))
    found = only_first(one, other)
    return [
        (float(one.inputs.dt_scores[dt]), gt >= 0) for dt, gt in zip(found.dt.tolist(), found.gt.tolist(), strict=True)
    ]


def test_true_and_false_boxes_of_one_alone() -> None:
    """The second finds B only, exactly. So A is the first's alone, and so is its far box; the box on the crowd region
    is neither true nor false. FAR lies above the first's threshold .9, at which LRP is (0 + 1 + 1) / 3 = 2/3."""
    assert only(FIRST, [(1, 1, B, 0.7)]) == [(0.95, False), (0.9, True)]
    assert only([(1, 1, B, 0.7)], FIRST) == [(0.7, True)]


def test_boxes_that_both_have_are_left_out() -> None:
    """The second has a box of IoU .8 with the first's far one, and finds A by another box."""
    assert only(FIRST, [(1, 1, cut(FAR, 0.8), 0.9), (1, 1, cut(A, 0.6), 0.6)]) == []
    assert only(FIRST, [(1, 1, cut(FAR, 0.4), 0.9), (1, 1, cut(A, 0.6), 0.6)]) == [(0.95, False)]


def test_boxes_below_the_threshold_do_not_count() -> None:
    """The second finds A with its worst score, below false boxes: LRP is lowest at B (.5: (0 + 0 + 1) / 2), and A's box
    (.1), behind two false ones, would make it (0 + 2 + 0) / 4 = 1/2 as well; the higher score wins the tie."""
    second: Found = [(1, 1, B, 0.5), (1, 1, FAR, 0.3), (1, 1, cut(FAR, 0.3), 0.2), (1, 1, A, 0.1)]
    assert only([(1, 1, A, 0.9)], second) == [(0.9, True)]


def test_nothing_to_differ() -> None:
    assert only([], []) == []
    assert only(FIRST, FIRST) == []


def test_other_ground_truth_is_refused() -> None:
    one, other = (diagnose([(1, 1, box)], [(1, 1, A, 0.9)]) for box in (A, B))
    with pytest.raises(ValueError, match="ground truth"):
        compare(one, other)
    with pytest.raises(ValueError, match="ground truth"):
        diagnose([(1, 1, A)], [(1, 1, A, 0.9)], before_nms=other.inputs)


def test_chosen_classes() -> None:
    """Figures of one class alone are those of its row among both; unknown ids are refused."""
    both = diagnose([(1, 1, A), (1, 2, B)], [(1, 1, cut(A, 0.8), 0.9), (1, 2, B, 0.4), (1, 1, FAR, 0.95)]).inputs
    one = both.only([2])
    assert (one.names, one.category_ids) == (("c2",), (2,))
    assert (one.gt_category.tolist(), one.dt_category.tolist(), one.dt_scores.tolist()) == ([0], [0], [0.4])
    with pytest.raises(KeyError):
        both.only([3])
