"""Assignment by overlap: cases worked by hand, and a plain loop in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from alignrank.assign import max_iou

OBJECT = [0.0, 0.0, 10.0, 10.0]


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def tenths(*parts: float) -> Tensor:
    """Anchors of which each is so many tenths of OBJECT, and overlaps it by that."""
    return boxes(*[[0.0, 0.0, 10.0, part] for part in parts])


def assigned(anchors: Tensor, gt_boxes: Tensor, **options: float) -> tuple[list[int], list[bool]]:
    """Indices of the objects, and what is ignored; the labels, 100 more, are checked."""
    gt_index, labels, ignored = max_iou(anchors, gt_boxes, torch.arange(len(gt_boxes)) + 100, **options)
    assert torch.equal(labels, torch.where(gt_index >= 0, gt_index + 100, -1))
    assert not (ignored & (gt_index >= 0)).any()
    return gt_index.tolist(), ignored.tolist()


def test_bands() -> None:
    """IoU .9 is the best; .5 and more positive; .4 and more ignored; less negative. The bounds are the upper band's."""
    gt_index, ignored = assigned(tenths(9, 6, 5, 4.9, 4, 3.9, 0.5), boxes(OBJECT))
    assert gt_index == [0, 0, 0, -1, -1, -1, -1]
    assert ignored == [False, False, False, True, True, False, False]


def test_other_bands() -> None:
    anchors = tenths(9, 8, 7, 6, 3, 2)
    gt_index, ignored = assigned(anchors, boxes(OBJECT), positive=0.7, negative=0.3)
    assert gt_index == [0, 0, 0, -1, -1, -1]
    assert ignored == [False, False, False, True, True, False]
    assert not any(assigned(anchors, boxes(OBJECT), positive=0.5, negative=0.5)[1])


def test_best_anchor_is_positive_however_bad() -> None:
    """IoU .2 where the other has .1: below every band, and the object's own. At .45 it is not ignored either."""
    assert assigned(tenths(1, 2), boxes(OBJECT)) == ([-1, 0], [False, False])
    assert assigned(tenths(4.5, 4.4), boxes(OBJECT)) == ([0, -1], [False, True])


def test_equal_anchors_are_all_best() -> None:
    """The first two cover its left and its right half: IoU 50/150 each; the third covers less."""
    anchors = boxes([-5, 0, 5, 10], [5, 0, 15, 10], [6, 0, 16, 10])
    assert assigned(anchors, boxes(OBJECT))[0] == [0, 0, -1]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_anchor_goes_to_the_object_it_overlaps_more(order: list[int]) -> None:
    """The third anchor, (0,0,10,9), has IoU 90/100 with OBJECT and 81/99 with (0,0,9,10).

    Both objects have a better anchor, of IoU 1.
    """
    gt_boxes = boxes(OBJECT, [0, 0, 9, 10])[order]
    anchors = boxes(OBJECT, [0, 0, 9, 10], [0, 0, 10, 9])
    assert assigned(anchors, gt_boxes)[0] == [order.index(i) for i in (0, 1, 0)]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_best_anchor_of_one_is_taken_from_another(order: list[int]) -> None:
    """The second anchor, (0,0,10,8), has IoU .8 with OBJECT, whose best is the first anchor.

    Its IoU with (0,0,10,4) is .5, the largest that this object has, so this object has it.
    """
    gt_boxes = boxes(OBJECT, [0, 0, 10, 4])[order]
    assert assigned(tenths(10, 8), gt_boxes)[0] == [order.index(0), order.index(1)]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_best_of_two_objects(order: list[int]) -> None:
    """One anchor, (0,0,10,4): IoU .4 with OBJECT and .5 with (0,0,10,2). It is the best of both: .5 has it."""
    gt_boxes = boxes(OBJECT, [0, 0, 10, 2])[order]
    assert assigned(tenths(4), gt_boxes) == ([order.index(1)], [False])


def test_equal_objects() -> None:
    """One of them has the anchors, with its label; the next object is served as ever."""
    gt_boxes = boxes(OBJECT, OBJECT, [50, 50, 60, 60])
    gt_index, _ = assigned(boxes(OBJECT, [50, 50, 60, 58]), gt_boxes)
    assert gt_index[0] in (0, 1)
    assert gt_index[1] == 2


def test_object_without_overlap() -> None:
    """Its largest overlap is 0, which all anchors have: none of them is its own."""
    far = [90.0, 90.0, 99.0, 99.0]
    assert assigned(tenths(6, 4.5, 1), boxes(far, OBJECT)) == ([1, -1, -1], [False, True, False])
    assert assigned(tenths(6, 1), boxes(far)) == ([-1, -1], [False, False])
    # Nor of an object that touches them, or has no area.
    assert assigned(tenths(6), boxes([10, 0, 20, 6], [2, 2, 2, 5])) == ([-1], [False])


@pytest.mark.parametrize("count", [0, 4])
def test_no_objects(count: int) -> None:
    """All negative, none ignored."""
    gt_index, labels, ignored = max_iou(tenths(*[5] * count), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert gt_index.tolist() == labels.tolist() == [-1] * count
    assert ignored.tolist() == [False] * count
    assert (gt_index.dtype, labels.dtype, ignored.dtype) == (torch.int64, torch.int64, torch.bool)


def test_no_anchors() -> None:
    found = max_iou(boxes(), boxes(OBJECT), torch.tensor([0]))
    assert [x.shape for x in found] == [(0,)] * 3


def exact_iou(a: list[int], b: list[int]) -> Fraction:
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return Fraction(width * height, areas - width * height)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_equals_plain_loop(seed: int) -> None:
    """100 square anchors, 20 objects in whole pixels, so that many overlaps are equal. Thresholds of eighths."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (20, 2), generator=generator)
    gt = torch.cat([corner, corner + torch.randint(4, 32, (20, 2), generator=generator)], 1).tolist()
    rows = [[x, y, x + side, y + side] for side in (8, 16, 24, 32) for x in range(0, 40, 8) for y in range(0, 40, 8)]
    gt_index, ignored = assigned(torch.tensor(rows).double(), torch.tensor(gt).double(), positive=0.5, negative=0.375)
    best = [max(exact_iou(row, box) for row in rows) for box in gt]
    bands = {"own": 0, "positive": 0, "ignored": 0, "negative": 0}
    for row, index, ignore in zip(rows, gt_index, ignored, strict=True):
        overlaps = [exact_iou(row, box) for box in gt]
        own = [overlap if overlap == top > 0 else Fraction(-1) for overlap, top in zip(overlaps, best, strict=True)]
        if max(own) > 0:
            band, allowed = "own", [i for i, overlap in enumerate(own) if overlap == max(own)]
        elif max(overlaps) >= Fraction(1, 2):
            band, allowed = "positive", [i for i, overlap in enumerate(overlaps) if overlap == max(overlaps)]
        else:
            band, allowed = "ignored" if max(overlaps) >= Fraction(3, 8) else "negative", [-1]
        assert index in allowed
        assert ignore == (band == "ignored")
        bands[band] += 1
    assert min(bands.values()) > 0


def test_half_precision() -> None:
    """Areas of 300 x 300 px do not fit float16. A half of it is at the threshold, a quarter below."""
    anchors = boxes([0, 0, 300, 300], [0, 0, 300, 150], [0, 0, 150, 150]).half()
    assert assigned(anchors, boxes([0, 0, 300, 300]).half())[0] == [0, 0, -1]


@pytest.mark.parametrize(("positive", "negative"), [(0.3, 0.4), (1.1, 0.4), (0.5, -0.1), (float("nan"), 0.4)])
def test_wrong_thresholds(positive: float, negative: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= negative <= positive <= 1"):
        max_iou(tenths(6), boxes(OBJECT), torch.tensor([0]), positive=positive, negative=negative)
