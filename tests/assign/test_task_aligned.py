"""Task-aligned assignment: a case worked by hand, and what must not change its result."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.assign import Assignment, aligned_pairs, task_aligned

# A 16 x 16 image with stride 8: the points (4,4), (12,4), (4,12), (12,12).
POINTS = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
STRIDES = torch.full((4, 1), 8.0)


def centred(side: float) -> list[float]:
    """A square about the middle: against another one, CIoU is IoU (same centre, same shape)."""
    return [8 - side / 2, 8 - side / 2, 8 + side / 2, 8 + side / 2]


def assign(
    scores: list[list[float]], boxes: list[list[float]], labels: list[int], gt: list[list[float]], **options: Any
) -> Assignment:
    """One image; scores by point and class."""
    return task_aligned(
        torch.tensor([scores]),
        torch.tensor([boxes]),
        POINTS,
        STRIDES,
        torch.tensor([labels], dtype=torch.int64).reshape(1, -1),
        torch.tensor([gt]).reshape(1, -1, 4),
        torch.ones(1, len(labels), dtype=torch.bool),
        **options,
    )


def test_worked() -> None:
    """One object, the whole image, class 1; alpha = beta = 1, so metric = score of class 1 * IoU.

    point 0: box 16 x 16, IoU 1,               score .2: .2
    point 1: box 8 x 8,   IoU 64/256 = .25,    score .4: .1
    point 2: box 12 x 12, IoU 144/256 = .5625, score .8: .45
    point 3: a box elsewhere, IoU 0,           score .9: 0
    The top two are points 2 and 0; the best metric .45 is scaled to the best overlap 1 among them:
    targets .45/.45 = 1 for point 2, .2/.45 for point 0.
    """
    scores = [[0.9, 0.2], [0.9, 0.4], [0.9, 0.8], [0.1, 0.9]]
    boxes = [centred(16), centred(8), centred(12), [100.0, 100.0, 116.0, 116.0]]
    result = assign(scores, boxes, [1], [centred(16)], topk=2, alpha=1, beta=1)
    assert result.foreground.tolist() == [[True, False, True, False]]
    assert result.labels[result.foreground].tolist() == [1, 1]
    assert result.gt_index[result.foreground].tolist() == [0, 0]
    assert result.boxes[result.foreground].tolist() == [centred(16)] * 2
    expected = torch.tensor([[[0, 0.2 / 0.45], [0, 0], [0, 1.0], [0, 0]]])
    assert_close(result.scores, expected, atol=1e-6, rtol=0)


def test_one_point_takes_the_best_metric() -> None:
    """topk = 1 of the case above: point 2 alone; its target is its own overlap, .5625 (the best among the assigned)."""
    scores = [[0.2], [0.4], [0.8], [0.9]]
    boxes = [centred(16), centred(8), centred(12), [100.0, 100.0, 116.0, 116.0]]
    result = assign(scores, boxes, [0], [centred(16)], topk=1, alpha=1, beta=1)
    assert result.foreground.tolist() == [[False, False, True, False]]
    assert result.scores[0, 2, 0].item() == pytest.approx(0.5625, abs=1e-6)


def test_exponents() -> None:
    """Same scores and overlaps: alpha = 0 ranks by overlap alone (point 0), beta = 0 by score alone (point 3)."""
    scores = [[0.2], [0.4], [0.8], [0.9]]
    boxes = [centred(16), centred(8), centred(12), centred(2)]
    for alpha, beta, winner in [(0, 1, 0), (1, 0, 3)]:
        result = assign(scores, boxes, [0], [centred(16)], topk=1, alpha=alpha, beta=beta)
        assert result.foreground[0].nonzero().flatten().tolist() == [winner]


def test_points_outside_are_never_assigned() -> None:
    """The object (0,0,8,8) holds point 0 only; the border does not count: (4,4) is not inside (4,0,12,8)."""
    perfect = [[0.0, 0.0, 8.0, 8.0]] * 4
    result = assign([[0.9]] * 4, perfect, [0], perfect[:1])
    assert result.foreground.tolist() == [[True, False, False, False]]
    shifted = [[4.0, 0.0, 12.0, 8.0]]
    assert not assign([[0.9]] * 4, shifted * 4, [0], shifted).foreground.any()


def test_more_than_all_points() -> None:
    """topk above the number of points takes all points inside, no error."""
    result = assign([[0.9]] * 4, [centred(16)] * 4, [0], [centred(16)], topk=10)
    assert result.foreground.all()


def test_positive_without_overlap() -> None:
    """Points inside whose boxes miss the object are positives of target 0 (the first `topk` need not overlap)."""
    result = assign([[0.9]] * 4, [[100.0, 100.0, 110.0, 110.0]] * 4, [0], [centred(16)], topk=4)
    assert result.foreground.all()
    assert result.scores.abs().max() == 0


def test_min_side_widens_small_objects() -> None:
    """A 2 x 2 object at the middle holds no point; widened to 8 x 8 none, to 12 x 12 all four (2 < 4)."""
    tiny = [7.0, 7.0, 9.0, 9.0]
    for min_side, count in [(0.0, 0), (8.0, 0), (12.0, 4)]:
        result = assign([[0.9]] * 4, [tiny] * 4, [0], [tiny], min_side=min_side)
        assert int(result.foreground.sum()) == count
    # Only the candidate region widens: the target box stays the object's own.
    assert result.boxes[result.foreground].tolist() == [tiny] * 4
    # Larger objects are left alone: the point (12, 4) is outside (0,0,8,16), whatever min_side up to 8.
    tall = [0.0, 0.0, 8.0, 16.0]
    result = assign([[0.9]] * 4, [tall] * 4, [0], [tall], min_side=8.0)
    assert result.foreground.tolist() == [[True, False, True, False]]


def test_point_claimed_twice_goes_to_the_larger_overlap() -> None:
    """Objects of sides 16 (class 0) and 12 (class 1); every point predicts the 12 square and loves class 0.

    Both claim all points. Overlaps: .5625 with the first, 1 with the second. Class 0's metric is larger
    (.9 * .5625 > .1 * 1), yet all points go to the second object.
    """
    result = assign([[0.9, 0.1]] * 4, [centred(12)] * 4, [0, 1], [centred(16), centred(12)], alpha=1, beta=1)
    assert result.foreground.all()
    assert result.gt_index.tolist() == [[1, 1, 1, 1]]
    assert result.labels.tolist() == [[1, 1, 1, 1]]
    assert result.scores[..., 0].abs().max() == 0
    assert_close(result.scores[..., 1], torch.ones(1, 4))


def test_no_objects() -> None:
    result = task_aligned(
        torch.rand(2, 4, 3),
        torch.rand(2, 4, 4),
        POINTS,
        STRIDES,
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.bool),
    )
    assert result.foreground.shape == (2, 4)
    assert not result.foreground.any()
    assert result.scores.shape == (2, 4, 3)
    assert result.scores.abs().max() == 0
    assert result.boxes.shape == (2, 4, 4)


def scene() -> dict[str, Tensor]:
    """Two images of 64 x 64 (64 points), 5 and 3 objects of 4 classes that overlap, noisy predictions of them."""
    axis = torch.arange(8) * 8 + 4.0
    points = torch.stack([axis.repeat(8), axis.repeat_interleave(8)], 1)
    corner = torch.rand(2, 5, 2) * 30
    gt_boxes = torch.cat([corner, corner + 15 + torch.rand(2, 5, 2) * 20], 2)
    nearest = torch.randint(0, 5, (2, 64))
    boxes = gt_boxes.gather(1, nearest[..., None].expand(-1, -1, 4)) + torch.randn(2, 64, 4)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return {
        "scores": torch.rand(2, 64, 4),
        "boxes": boxes,
        "points": points,
        "strides": torch.full((64, 1), 8.0),
        "gt_labels": torch.randint(0, 4, (2, 5)),
        "gt_boxes": gt_boxes,
        "gt_mask": mask,
    }


def same(a: Assignment, b: Assignment) -> None:
    """Equal where it is specified, but for the numbering of objects."""
    assert torch.equal(a.foreground, b.foreground)
    assert 0 < int(a.foreground.sum()) < a.foreground.numel()
    assert torch.equal(a.labels[a.foreground], b.labels[b.foreground])
    assert torch.equal(a.boxes[a.foreground], b.boxes[b.foreground])
    assert torch.equal(a.scores, b.scores)


def test_order_of_objects_does_not_matter() -> None:
    inputs = scene()
    first = task_aligned(**inputs)
    order = torch.tensor([3, 0, 4, 2, 1])
    for name in ("gt_labels", "gt_boxes", "gt_mask"):
        inputs[name] = inputs[name][:, order]
    second = task_aligned(**inputs)
    same(first, second)
    assert torch.equal(first.gt_index[first.foreground], order[second.gt_index[second.foreground]])


def test_padding_does_not_matter() -> None:
    """Whatever stands in masked rows; and an image alone, without its padding, gives the same."""
    inputs = scene()
    first = task_aligned(**inputs)
    inputs["gt_boxes"][1, 3:] = torch.tensor([0.0, 0.0, 64.0, 64.0])
    inputs["gt_labels"][1, 3:] = 3
    same(first, task_aligned(**inputs))
    alone = {k: v if k in ("points", "strides") else v[1:] for k, v in inputs.items()}
    alone |= {k: alone[k][:, :3] for k in ("gt_labels", "gt_boxes", "gt_mask")}
    second = task_aligned(**alone)
    assert torch.equal(first.foreground[1:], second.foreground)
    assert torch.equal(first.scores[1:], second.scores)


def test_choices_of_the_same_pairs() -> None:
    """One after the other they are what each alone is; no row of padding is looked at."""
    inputs = scene()
    said = (inputs[name] for name in ("scores", "boxes", "points"))
    truth = tuple(inputs[name] for name in ("gt_labels", "gt_boxes", "gt_mask"))
    pairs = aligned_pairs(*said, truth, alpha=0.5, beta=6.0, min_side=0.0)
    same(pairs.best(1), task_aligned(**inputs, topk=1))
    same(pairs.best(10), task_aligned(**inputs, topk=10))
    same(pairs.best(1), task_aligned(**inputs, topk=1))
    assert set(pairs.row.tolist()) == set(range(int(inputs["gt_mask"].sum())))


def test_targets_are_bounded_by_overlap() -> None:
    """Each object with a positive has a best target equal to its best overlap, at most 1; no gradient flows."""
    inputs = scene()
    inputs["scores"].requires_grad_()
    result = task_aligned(**inputs)
    assert not result.scores.requires_grad
    target = result.scores.sum(-1)
    assert target.max() <= 1
    assert (target[~result.foreground] == 0).all()
    assert ((result.scores > 0).sum(-1) <= 1).all()


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at in one go bounds memory alone; coarse numbers, so that many are equal."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0)) * 8 + 4
    corner = (8 * torch.rand(3, 9, 2, generator=generator)).round() * 8
    gt = torch.cat([corner, corner + 16 * torch.randint(1, 3, (3, 9, 2), generator=generator)], -1)
    half = 8 * torch.randint(1, 4, (3, 144, 2), generator=generator)
    given = (
        (4 * torch.rand(3, 144, 4, generator=generator)).round() / 4,
        torch.cat([cells - half, cells + half], -1),
        cells,
        torch.full((144, 1), 8.0),
        torch.randint(4, (3, 9), generator=generator),
        gt,
        torch.rand(3, 9, generator=generator) < 0.8,
    )
    whole = task_aligned(*given)
    monkeypatch.setattr(sys.modules[task_aligned.__module__], "CHUNK", 500)
    pieces = task_aligned(*given)
    for field in fields(Assignment):
        assert torch.equal(getattr(whole, field.name), getattr(pieces, field.name)), field.name
    assert whole.foreground.sum() > 20
