"""ATSS: oracle fixtures, cases worked by hand, and a plain loop in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.assign import atss
from alignrank.boxes import pairwise_iou

FIXTURES = ["atss_0", "atss_crowded", "atss_empty", "atss_one"]

# A 16 x 16 image: level 0 has four anchors of side 8, level 1 one of side 16.
ANCHORS = torch.tensor(
    [[0.0, 0, 8, 8], [8.0, 0, 16, 8], [0.0, 8, 8, 16], [8.0, 8, 16, 16], [0.0, 0, 16, 16]], dtype=torch.float64
)
PER_LEVEL = [4, 1]


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def pyramid(side: int) -> tuple[Tensor, list[int]]:
    """Anchors of side 8 * stride about the points of strides 8, 16, 32 in an image of `side` x `side`, float64."""
    levels = []
    for stride in (8, 16, 32):
        axis = torch.arange(0, side, stride, dtype=torch.float64)
        points = torch.stack([axis.repeat(len(axis)), axis.repeat_interleave(len(axis))], 1)
        levels.append(torch.cat([points - 4 * stride, points + 4 * stride], 1))
    return torch.cat(levels), [len(level) for level in levels]


def scene(seed: int, count: int, *, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Boxes of side 6..66 in 96 x 96 that overlap, float64, and labels, no two equal. `whole`: in whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 60
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 60 + 6
    gt_boxes = torch.cat([corner, corner + side], 1)
    return gt_boxes.round() if whole else gt_boxes, torch.arange(count) + 100


def exact_iou(a: list[Fraction], b: list[Fraction]) -> Fraction:
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), Fraction(0)) for i in (0, 1))
    areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return Fraction(width * height, areas - width * height)


def in_loops(
    anchors: Tensor, num_per_level: list[int], gt_boxes: Tensor, gt_labels: Tensor, topk: int
) -> tuple[list[int], list[int], list[float]]:
    """The docstring in exact arithmetic, one pair at a time."""
    rows = [[Fraction(x) for x in row] for row in anchors.tolist()]
    centres = [((row[0] + row[2]) / 2, (row[1] + row[3]) / 2) for row in rows]
    gt_index, best = [-1] * len(rows), [Fraction(-1)] * len(rows)
    for index, gt in enumerate([[Fraction(x) for x in row] for row in gt_boxes.tolist()]):
        middle = ((gt[0] + gt[2]) / 2, (gt[1] + gt[3]) / 2)
        candidates, start = [], 0
        for size in num_per_level:
            level = range(start, start + size)
            away = {a: (centres[a][0] - middle[0]) ** 2 + (centres[a][1] - middle[1]) ** 2 for a in level}
            candidates += sorted(level, key=lambda a, away=away: (away[a], a))[:topk]
            start += size
        overlaps = {a: exact_iou(rows[a], gt) for a in candidates}
        mean = sum(overlaps.values(), Fraction(0)) / len(candidates)
        squares = sum(((x - mean) ** 2 for x in overlaps.values()), Fraction(0))
        for a, overlap in overlaps.items():
            # overlap >= mean + std, without the root.
            above = overlap >= mean and (overlap - mean) ** 2 * (len(candidates) - 1) >= squares
            (x, y), edge = centres[a], Fraction(1, 100)
            inside = min(x - gt[0], gt[2] - x, y - gt[1], gt[3] - y) > edge
            if above and inside and overlap > best[a]:
                gt_index[a], best[a] = index, overlap
    labels = [int(gt_labels[i]) if i >= 0 else -1 for i in gt_index]
    return gt_index, labels, [float(max(x, Fraction(0))) for x in best]


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(shared: Path, name: str) -> None:
    """There gt_inds is 0 for a negative and k + 1 for object k; the overlap of a negative is not compared."""
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        fixture = {key: torch.from_numpy(value) for key, value in archive.items()}
    gt_index, labels, overlaps = atss(
        fixture["anchors"],
        fixture["num_level"].tolist(),
        fixture["gt_boxes"],
        fixture["gt_labels"],
        topk=int(fixture["topk"]),
    )
    positive = fixture["gt_inds"] > 0
    assert torch.equal(gt_index, fixture["gt_inds"] - 1)
    assert torch.equal(labels, fixture["labels"])
    assert_close(overlaps[positive], fixture["max_overlaps"][positive], rtol=0, atol=1e-6)
    assert torch.equal(overlaps[~positive], torch.zeros(int((~positive).sum())))


def test_worked() -> None:
    """The object (0,0,12,8), centre (6,4), topk 2.

    Candidates: anchors 0 and 1, at 2 and 6 px, of level 0, and anchor 4. IoU 64/96, 32/128, 96/256; in 72nds 48, 18,
    27, mean 31. Deviations 17, -13, -4: squares add up to 474, std sqrt(237). Threshold 46.4 of 72: anchor 0 alone.
    """
    gt_index, labels, overlaps = atss(ANCHORS, PER_LEVEL, boxes([0, 0, 12, 8]), torch.tensor([7]), topk=2)
    assert 31 + sqrt(237) < 48
    assert gt_index.tolist() == [0, -1, -1, -1, -1]
    assert labels.tolist() == [7, -1, -1, -1, -1]
    assert overlaps.tolist() == pytest.approx([2 / 3, 0, 0, 0, 0])
    assert (gt_index.dtype, labels.dtype, overlaps.dtype) == (torch.int64, torch.int64, torch.float64)


def test_deviation_is_of_a_sample() -> None:
    """The same, topk 1: anchors 0 and 4, IoU 48/72 and 27/72.

    Two values a and b have mean (a + b) / 2 and, with n - 1, std |a - b| / sqrt 2: the larger is below the threshold.
    """
    gt_index, _, _ = atss(ANCHORS, PER_LEVEL, boxes([0, 0, 12, 8]), torch.tensor([7]), topk=1)
    assert gt_index.tolist() == [-1] * 5


def test_equal_overlaps_are_at_the_threshold() -> None:
    """The object (2,2,14,14) has IoU 36/172 with each anchor of level 0; std 0, so all four are positive."""
    gt_index, _, overlaps = atss(ANCHORS[:4], [4], boxes([2, 2, 14, 14]), torch.tensor([0]))
    assert gt_index.tolist() == [0] * 4
    assert overlaps.tolist() == pytest.approx([36 / 172] * 4)


@pytest.mark.parametrize("count", [3, 7, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_overlaps_whatever_the_rounding(dtype: torch.dtype, count: int) -> None:
    """The sum of n equal numbers, divided by n, may be above them."""
    for right in torch.linspace(4.5, 7.5, 50, dtype=dtype).tolist():
        anchors = ANCHORS[:1].to(dtype).expand(count, 4)
        gt_index, _, _ = atss(anchors, [count], torch.tensor([[0, 0, right, 8]], dtype=dtype), torch.tensor([0]))
        assert gt_index.tolist() == [0] * count


@pytest.mark.parametrize("side", range(4))
def test_centre_must_be_inside(side: int) -> None:
    """One anchor, centre (4,4), always at its threshold; the object ends 1/64 or 1/128 px beyond the centre."""
    for margin, positive in [(1 / 64, True), (1 / 128, False), (0.0, False)]:
        edges = [4.0 - margin, 4.0 - margin, 4.0 + margin, 4.0 + margin]
        gt = [-2.0, -2.0, 10.0, 10.0]
        gt[side] = edges[side]
        gt_index, _, overlaps = atss(ANCHORS[:1], [1], boxes(gt), torch.tensor([3]))
        assert gt_index.tolist() == [0 if positive else -1]
        assert bool(overlaps[0] > 0) == positive


def test_one_anchor() -> None:
    """A single candidate has no deviation: its threshold is its own IoU, 64/144."""
    gt_index, labels, overlaps = atss(ANCHORS[:1], [1], boxes([-2, -2, 10, 10]), torch.tensor([5]))
    assert (gt_index.tolist(), labels.tolist()) == ([0], [5])
    assert overlaps.tolist() == pytest.approx([64 / 144])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_claimed_twice(order: list[int]) -> None:
    """Anchor 0 alone: IoU 64/80 with (0,0,8,10), 64/96 with (0,0,8,12). It goes to the first of these, in any order."""
    gt_boxes, gt_labels = boxes([0, 0, 8, 10], [0, 0, 8, 12])[order], torch.tensor([4, 6])[order]
    gt_index, labels, overlaps = atss(ANCHORS[:1], [1], gt_boxes, gt_labels)
    assert (gt_index.tolist(), labels.tolist()) == ([order.index(0)], [4])
    assert overlaps.tolist() == pytest.approx([0.8])


def test_equal_boxes() -> None:
    """The first gets all, whatever stands between."""
    anchors, num_per_level = pyramid(96)
    gt_boxes, gt_labels = scene(3, 1)
    alone = atss(anchors, num_per_level, gt_boxes, gt_labels)
    thrice = atss(anchors, num_per_level, gt_boxes.expand(3, 4), torch.tensor([int(gt_labels), 1, 2]))
    assert (alone[0] >= 0).any()
    assert all(torch.equal(a, b) for a, b in zip(alone, thrice, strict=True))


def test_equal_distances_go_to_the_first() -> None:
    """(4,4,12,12) is as far from all four anchors; topk 3 takes 0, 1, 2: IoU 16/112 each, and centres on the border.

    So the object is (3,3,13,13): IoU 25/139, centres 1 px inside.
    """
    gt_index, _, _ = atss(ANCHORS[:4], [4], boxes([3, 3, 13, 13]), torch.tensor([0]), topk=3)
    assert gt_index.tolist() == [0, 0, 0, -1]


@pytest.mark.parametrize("count", [0, 5])
def test_no_objects(count: int) -> None:
    anchors, per_level = ANCHORS[:count].float(), PER_LEVEL if count else [0, 0]
    gt_index, labels, overlaps = atss(anchors, per_level, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(gt_index, torch.full((count,), -1))
    assert torch.equal(labels, torch.full((count,), -1))
    assert torch.equal(overlaps, torch.zeros(count))


def test_no_anchors() -> None:
    gt_index, labels, overlaps = atss(ANCHORS[:0], [0, 0], boxes([0, 0, 8, 8]), torch.tensor([0]))
    assert gt_index.shape == labels.shape == overlaps.shape == (0,)


@pytest.mark.parametrize("topk", [1, 4, 9, 30, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_equals_plain_loop(seed: int, topk: int) -> None:
    """144, 36 and 9 anchors. Objects of whole pixels: every second centre is as far from two anchors or four."""
    anchors, num_per_level = pyramid(96)
    gt_boxes, gt_labels = scene(seed, 12, whole=True)
    gt_index, labels, overlaps = atss(anchors, num_per_level, gt_boxes, gt_labels, topk=topk)
    expected = in_loops(anchors, num_per_level, gt_boxes, gt_labels, topk)
    assert gt_index.tolist() == expected[0]
    assert labels.tolist() == expected[1]
    assert overlaps.tolist() == pytest.approx(expected[2], abs=1e-12)
    if topk > 1:
        assert (gt_index >= 0).sum() > 5


def test_levels_smaller_than_topk() -> None:
    """All of such a level are candidates: topk is as good as its size, and levels without anchors do not count."""
    anchors, num_per_level = pyramid(24)
    assert num_per_level == [9, 4, 1]
    gt_boxes, gt_labels = boxes([2, 2, 60, 50], [-30, -30, 10, 20]), torch.tensor([2, 1])
    expected = in_loops(anchors, num_per_level, gt_boxes, gt_labels, 9)
    assert set(expected[0]) == {-1, 0, 1}
    for per_level, topk in [(num_per_level, 9), (num_per_level, 50), ([9, 0, 4, 1, 0], 9)]:
        assert atss(anchors, per_level, gt_boxes, gt_labels, topk=topk)[0].tolist() == expected[0]


def test_order_of_objects_is_free() -> None:
    anchors, num_per_level = pyramid(96)
    gt_boxes, gt_labels = scene(5, 15)
    gt_index, labels, overlaps = atss(anchors, num_per_level, gt_boxes, gt_labels)
    order = torch.randperm(15)
    shuffled = atss(anchors, num_per_level, gt_boxes[order], gt_labels[order])
    assert torch.equal(torch.where(shuffled[0] >= 0, order[shuffled[0]], -1), gt_index)
    assert torch.equal(shuffled[1], labels)
    assert torch.equal(shuffled[2], overlaps)


def test_outputs_agree() -> None:
    """Label and overlap are those of the object, and the object is one of the highest overlap among its claimants."""
    anchors, num_per_level = pyramid(96)
    gt_boxes, gt_labels = scene(6, 15)
    gt_index, labels, overlaps = atss(anchors, num_per_level, gt_boxes, gt_labels)
    positive = gt_index >= 0
    assert 10 < int(positive.sum()) < len(anchors)
    assert torch.equal(labels[positive], gt_labels[gt_index[positive]])
    assert torch.equal(overlaps, torch.where(positive, pairwise_iou(anchors, gt_boxes)[range(189), gt_index], 0))
    single = [atss(anchors, num_per_level, gt_boxes[[i]], gt_labels[[i]])[2] for i in range(15)]
    assert torch.equal(torch.stack(single).amax(0), overlaps)


def test_without_gradient() -> None:
    anchors = ANCHORS.clone().requires_grad_()
    assert not any(x.requires_grad for x in atss(anchors, PER_LEVEL, boxes([0, 0, 12, 8]), torch.tensor([7])))


def test_half_precision_boxes() -> None:
    _, _, overlaps = atss(ANCHORS.half(), PER_LEVEL, boxes([0, 0, 12, 8]).half(), torch.tensor([7]), topk=2)
    assert overlaps.dtype == torch.float32
    assert overlaps[0].item() == pytest.approx(2 / 3, abs=1e-6)


def test_wrong_arguments() -> None:
    gt_boxes, gt_labels = boxes([0, 0, 12, 8]), torch.tensor([7])
    with pytest.raises(ValueError, match="num_per_level adds up to 4, but there are 5 anchors"):
        atss(ANCHORS, [4], gt_boxes, gt_labels)
    with pytest.raises(ValueError, match="topk must be at least 1, got 0"):
        atss(ANCHORS, PER_LEVEL, gt_boxes, gt_labels, topk=0)
