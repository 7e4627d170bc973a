"""Overlaps and COCO's greedy matching, the base of every figure: hand-worked."""

from __future__ import annotations

import numpy as np
import pytest
from cases import FAR, A, B, C, Found, Objects, cut, inputs, random_case

from alignrank.metrics import CocoInputs, read_inputs
from alignrank.metrics import overlaps as overlaps_module
from alignrank.metrics.matching import match
from alignrank.metrics.overlaps import best_of_other_class, edges, find_overlaps, pair_iou, rank_in_run, touching


def test_pair_iou() -> None:
    """Boxes of 10 x 10: equal 1; moved by 5: 50 / 150; corners overlapping by 5 x 5: 25 / 175; touching: 0; apart: 0;
    4 x 5 inside: 20 / 100. A box without area overlaps nothing, itself included.
    """
    others = [A, [5, 0, 10, 10], [5, 5, 10, 10], [10, 0, 10, 10], FAR, [2, 3, 4, 5], [5, 5, 0, 0]]
    a = np.array([A] * 7, dtype=float)
    expected = [1, 1 / 3, 1 / 7, 0, 0, 0.2, 0]
    np.testing.assert_allclose(pair_iou(a, np.array(others, dtype=float)), expected, atol=1e-15)
    point = np.array([[5.0, 5, 0, 0]])
    assert pair_iou(point, point).tolist() == [0]


def test_what_touches_has_an_iou_and_nothing_else() -> None:
    """Boxes of whole numbers, many of them with an edge in common or without area."""
    rng = np.random.default_rng(0)
    a, b = (np.c_[rng.integers(0, 6, (300, 2)), rng.integers(0, 4, (300, 2))].astype(float) for _ in range(2))
    i, j = rng.permutation(300), rng.permutation(300)
    touch = np.flatnonzero(pair_iou(a[i], b[j]) > 0)
    assert 20 < len(touch) < 280
    assert touching(edges(a), edges(b), i, j).tolist() == touch.tolist()


def test_overlap_with_a_crowd_region_is_over_the_detections_area() -> None:
    """A detection of 10 x 10 half in a region of 100 x 100: 50 / 100, not 50 / 10050."""
    detection, region = np.array([[95.0, 0, 10, 10]]), np.array([[0.0, 0, 100, 100]])
    assert pair_iou(detection, region, np.array([True])).tolist() == [0.5]
    assert pair_iou(detection, region, np.array([False])).tolist() == [50 / 10050]
    empty = np.array([[5.0, 5, 0, 0]])
    assert pair_iou(empty, region, np.array([True])).tolist() == [0]


def test_rank_in_run() -> None:
    assert rank_in_run(np.array([3, 3, 3, 5, 7, 7])).tolist() == [0, 1, 2, 0, 0, 1]
    assert rank_in_run(np.zeros(0)).tolist() == []


# Q lies 2 px to the right of A: IoU 8/12. R is of class 2, at A's place. The crowd region covers FAR.
OBJECTS: Objects = [(1, 1, A), (1, 1, [2, 0, 10, 10]), (1, 2, A), (1, 1, [100, 100, 60, 60], True)]
FOUND: Found = [(1, 1, cut(A, 0.8), 0.9), (1, 1, FAR, 0.8), (1, 2, cut(A, 0.3), 0.7), (2, 1, A, 0.6)]


def test_pairs_and_best_objects() -> None:
    """A's left 8 px: .8 with A, 6 / (80 + 100 - 60) = 60/120 with Q. FAR: 1 with the region, which is nobody's best.
    Class 2 at IoU .3: no pair, but A is its best. Image 2: nothing.
    """
    overlaps = find_overlaps(inputs(OBJECTS, FOUND))
    assert list(zip(overlaps.dt, overlaps.gt, overlaps.iou, strict=True)) == [(0, 0, 0.8), (0, 1, 0.5), (1, 3, 1.0)]
    np.testing.assert_allclose(overlaps.best_iou, [0.8, 0, 0.3, 0])
    assert overlaps.best_gt.tolist() == [0, -1, 2, -1]


def test_pairs_of_any_class() -> None:
    overlaps = find_overlaps(inputs(OBJECTS, FOUND), same_class=False, minimum=0.3)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 3), (2, 0), (2, 2)]  # class 2's with Q: 10 / (30 + 100 - 10) = 1/12
    assert list(zip(overlaps.dt, overlaps.gt, strict=True)) == pairs
    assert overlaps.best_gt.tolist() == [0, -1, 0, -1]
    with pytest.raises(ValueError, match=r"threshold 0\.2 is below"):
        match(overlaps, thresholds=(0.2,))


def test_best_of_other_class() -> None:
    """Class 1 at .8: R, of class 2. Class 2 at .3: A comes before Q. The crowd region is nobody's best, not even of
    class 2's box over it.
    """
    iou, gt = best_of_other_class(inputs(OBJECTS, [*FOUND, (1, 2, [100, 100, 60, 60], 0.5)]))
    np.testing.assert_allclose(iou, [0.8, 0, 0.3, 0, 0])
    assert gt.tolist() == [2, -1, 0, -1, -1]


def test_of_equal_ious_the_earliest_object_is_best_and_the_latest_is_matched() -> None:
    """Objects 0 and 1 of class 1 are equal; so are all IoUs. COCO's matching takes the later one first."""
    case = inputs([(1, 1, A), (1, 1, A)], [(1, 1, cut(A, 0.6), 0.9), (1, 1, cut(A, 0.8), 0.8), (1, 1, A, 0.7)])
    overlaps = find_overlaps(case)
    assert overlaps.best_gt.tolist() == [0, 0, 0]
    taken, left_out = match(overlaps).at(0.5)
    assert taken.tolist() == [1, 0, -1]
    assert left_out.tolist() == [False] * 3


@pytest.mark.parametrize("seed", range(2))
def test_pieces_do_not_change_the_overlaps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are looked at in pieces, here of at most 3 pairs instead of a million."""
    case = read_inputs(*random_case(seed, whole=True))
    whole, others = find_overlaps(case), best_of_other_class(case)
    monkeypatch.setattr(overlaps_module, "_CHUNK", 3)
    pieces = find_overlaps(case)
    assert len(whole.dt) > 20
    for name in ("dt", "gt", "iou", "best_iou", "best_gt"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
    np.testing.assert_array_equal(best_of_other_class(case), others)


def taken(case: CocoInputs, iou: float = 0.5, **options: object) -> tuple[list[int], list[bool]]:
    """By detection in file order: the object taken, -1 for none, and whether it is left out."""
    overlaps = find_overlaps(case, minimum=min(iou, 0.5))
    gt, left_out = match(overlaps, thresholds=(iou,), **options).at(iou)  # type: ignore[arg-type]
    return gt.tolist(), left_out.tolist()


def test_greedy_in_order_of_score() -> None:
    """A's upper 6 px (.9) takes A before A's exact box (.8), which has nothing left. At IoU .75 only the exact one is
    good enough. B's box in image 2 finds nothing there.
    """
    case = inputs([(1, 1, A), (1, 1, B)], [(1, 1, A, 0.8), (1, 1, [0, 0, 10, 6], 0.9), (2, 1, B, 0.7)])
    assert taken(case) == ([-1, 0, -1], [False] * 3)
    assert taken(case, 0.75) == ([0, -1, -1], [False] * 3)


def test_the_best_free_object_is_taken() -> None:
    """Objects A and Q, 2 px to the right. The box at A (.9) takes A. The second (.8), 1 px to the right, has IoU
    9/11 with both: Q is left. The third (.7), at Q: Q is gone, and so is A, though both overlap it.
    """
    case = inputs(
        [(1, 1, A), (1, 1, [2, 0, 10, 10])],
        [(1, 1, A, 0.9), (1, 1, [1, 0, 10, 10], 0.8), (1, 1, [2, 0, 10, 10], 0.7)],
    )
    assert taken(case) == ([0, 1, -1], [False] * 3)


def test_an_exact_threshold_and_a_threshold_of_one() -> None:
    """IoU .75, exact in binary, reaches .75. Boxes equal up to rounding reach 1."""
    assert taken(inputs([(1, 1, A)], [(1, 1, cut(A, 0.75), 0.9)]), 0.75)[0] == [0]
    box = [20.3, 0.1, 5.7, 9.1]
    assert taken(inputs([(1, 1, box)], [(1, 1, box, 0.9)]), 1.0)[0] == [0]


def test_crowd_regions_take_any_number_and_come_last() -> None:
    """Two boxes on the region are left out. A box on the object inside the region takes the object (IoU .6), though
    its overlap with the region is 1; its duplicate (.6) goes to the region and is left out as well.
    """
    inside = [120, 120, 10, 10]
    case = inputs(
        [(1, 1, [100, 100, 60, 60], True), (1, 1, inside)],
        [(1, 1, FAR, 0.9), (1, 1, FAR, 0.8), (1, 1, cut(inside, 0.6), 0.7), (1, 1, inside, 0.6)],
    )
    assert taken(case) == ([-1, -1, 1, -1], [True, True, False, True])


def test_the_allowance_the_lowest_score_and_other_scores() -> None:
    """Class 1 in image 1 has three boxes: .9 on nothing, .8 and .7 on A. Class 2 and image 2 have one each."""
    case = inputs(
        [(1, 1, A), (1, 2, B), (2, 1, C)],
        [(1, 1, A, 0.7), (1, 1, FAR, 0.9), (1, 2, B, 0.2), (1, 1, cut(A, 0.6), 0.8), (2, 1, C, 0.1)],
    )
    assert taken(case) == ([-1, -1, 1, 0, 2], [False] * 5)
    assert taken(case, max_dets=2) == ([-1, -1, 1, 0, 2], [True, False, False, False, False])
    assert taken(case, max_dets=1) == ([-1, -1, 1, -1, 2], [True, False, False, True, False])
    assert taken(case, conf=0.2) == ([-1, -1, 1, 0, -1], [False] * 4 + [True])
    assert taken(case, conf=0.21) == ([-1, -1, -1, 0, -1], [False, False, True, False, True])
    turned = np.array([0.9, 0.7, 0.2, 0.8, 0.1])
    assert taken(case, scores=turned) == ([0, -1, 1, -1, 2], [False] * 5)


def test_order_is_by_class_score_image_and_file() -> None:
    """Class 1: .9, then the ties of .5: image 1 before image 2, in an image as in the file. Then class 2."""
    case = inputs([], [(1, 2, A, 0.95), (2, 1, A, 0.5), (1, 1, A, 0.5), (1, 1, B, 0.5), (2, 1, B, 0.9)])
    matching = match(find_overlaps(case), max_dets=100)
    assert matching.order.tolist() == [4, 2, 3, 1, 0]
    assert matching.rank.tolist() == [0, 0, 1, 1, 0]


def sized(box: list[float], iou: float, score: float) -> tuple[int, int, list[float], float]:
    return 1, 1, cut(box, iou), score


def test_sizes() -> None:
    """S of 32 x 32 = 1024 px^2 is small and medium (both ends belong to a range); L of 96 x 96 = 9216 is medium and
    large. S's box (768 px^2, .9) is true for all, small, medium; where S does not count it is left out. A box on
    nothing (8 x 8, .8) is false for all and small, elsewhere outside the range. The columns: all, small, medium, large.
    """
    s, large = [0, 0, 32, 32], [0, 50, 96, 96]
    case = inputs([(1, 1, s), (1, 1, large)], [sized(s, 0.75, 0.9), (1, 1, [180, 180, 8, 8], 0.8)])
    matching = match(find_overlaps(case), sizes=True)
    assert matching.gt_counts.tolist() == [[True, True, True, False], [True, False, True, True]]
    assert matching.position.tolist() == [0]
    assert matching.true[0, 0].tolist() == [True, True, True, False]
    assert matching.ignored[0, 0].tolist() == [False, False, False, True]
    assert matching.in_range[1].tolist() == [True, True, False, False]


def test_an_object_of_the_size_is_preferred_to_a_better_fitting_one_of_another() -> None:
    """P = 40 x 40 = 1600 px^2, medium; Q = its left 25 px = 1000, small. The detection, the left 32 px (1280), has IoU
    32/40 = .8 with P and 25/32 = .78 with Q. Among all and medium it takes P, among small Q; among large it is left out
    on the better one.
    """
    p, q = [0, 0, 40, 40], [0, 0, 25, 40]
    matching = match(find_overlaps(inputs([(1, 1, p), (1, 1, q)], [(1, 1, [0, 0, 32, 40], 0.9)])), sizes=True)
    assert matching.gt_index[0, 0].tolist() == [0, 1, 0, 0]
    assert matching.ignored[0, 0].tolist() == [False, False, False, True]


def test_objects_go_by_their_area_field_and_detections_by_their_box() -> None:
    """A box of 40 x 40 whose mask has 900 px^2 is a small object. Its exact box, 1600 px^2, is true among small."""
    gt = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "area": 900}],
    }
    dt = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "score": 0.5}]
    matching = match(find_overlaps(read_inputs(gt, dt)), sizes=True)
    assert matching.true[0, 0].tolist() == [True, True, False, False]
    assert matching.in_range[0].tolist() == [True, False, True, False]


def test_thresholds_are_looked_up() -> None:
    matching = match(find_overlaps(inputs([(1, 1, A)], [(1, 1, A, 0.5)])), thresholds=(0.5, 0.8))
    assert (matching.threshold_index(0.5), matching.threshold_index(0.8 + 1e-12)) == (0, 1)
    with pytest.raises(ValueError, match=r"iou is 0\.6, expected one of 0\.50, 0\.80"):
        matching.at(0.6)
