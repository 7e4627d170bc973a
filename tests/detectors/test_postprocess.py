"""Top k and NMS on hand-made predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignrank.contracts import Predictions, Selection, Thresholds, WantedThresholds
from alignrank.detectors.postprocess import (
    MAX_CANDIDATES,
    NmsConfig,
    NonMaximumSuppression,
    TopK,
    best_of_levels,
    soft_nms,
    top_k,
)
from alignrank.weights.recipe import load_recipe

NO_TIMM = {"model.freeze": 0, "model.norm": "learn"}
BOTH = [TopK(), NonMaximumSuppression()]


def predictions(scores: list[list[float]], boxes: list[list[float]]) -> Predictions:
    """One image; scores by point and class."""
    return Predictions(torch.tensor([scores]).logit(), torch.tensor([boxes]))


def rows(selection: Selection) -> list[tuple[list[float], float, int]]:
    scores = [round(score, 4) for score in selection.scores.tolist()]
    return list(zip(selection.boxes.tolist(), scores, selection.labels.tolist(), strict=True))


# Two boxes whose overlap is 1/3: 10 x 10 each, 5 px apart, intersection 50 of a union of 150. The third lies apart.
A, B, FAR = [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def test_nms_worked() -> None:
    """Class 0: A (.9) suppresses B (.8) below IoU 1/3, not above; class 1's B (.7) never by class 0's A."""
    made = predictions([[0.9, 0.01], [0.8, 0.7], [0.6, 0.02]], [A, B, FAR])
    nms = NonMaximumSuppression()
    (strict,) = nms(made, conf=0.05, iou=0.3, max_dets=10)
    assert rows(strict) == [(A, 0.9, 0), (B, 0.7, 1), (FAR, 0.6, 0)]
    (loose,) = nms(made, conf=0.05, iou=0.4, max_dets=10)
    assert rows(loose) == [(A, 0.9, 0), (B, 0.8, 0), (B, 0.7, 1), (FAR, 0.6, 0)]


def test_nms_is_greedy_in_order_of_score() -> None:
    """A chain of three, each 5 px from the next: the middle one, best, suppresses both ends; as the worst, neither."""
    chain = [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0]]
    nms = NonMaximumSuppression()
    (middle,) = nms(predictions([[0.7], [0.9], [0.8]], chain), conf=0.05, iou=0.3, max_dets=10)
    assert rows(middle) == [(chain[1], 0.9, 0)]
    (ends,) = nms(predictions([[0.7], [0.6], [0.8]], chain), conf=0.05, iou=0.3, max_dets=10)
    assert rows(ends) == [(chain[2], 0.8, 0), (chain[0], 0.7, 0)]


def test_top_k_worked() -> None:
    """k = 2 of three points: the points of best class are 0 (.9) and 1 (.8); of their pairs the best two are
    (0, class 0) and (0, class 1), though point 2's .6 was never looked at. One point may give two detections."""
    scores = torch.tensor([[[0.9, 0.85], [0.8, 0.1], [0.6, 0.6]]])
    boxes, best, labels = top_k(scores, torch.tensor([[A, B, FAR]]), 2)
    assert boxes.tolist() == [[A, A]]
    assert best[0].tolist() == pytest.approx([0.9, 0.85])
    assert labels.tolist() == [[0, 1]]


def test_top_k_does_not_suppress() -> None:
    """Two equal boxes of one class both stay."""
    (selection,) = TopK()(predictions([[0.9], [0.8]], [A, A]), conf=0.05, iou=0.1, max_dets=10)
    assert rows(selection) == [(A, 0.9, 0), (A, 0.8, 0)]


def test_top_k_of_fewer_points() -> None:
    boxes, scores, labels = top_k(torch.rand(2, 3, 4), torch.rand(2, 3, 4), 100)
    assert (boxes.shape, scores.shape, labels.shape) == ((2, 3, 4), (2, 3), (2, 3))
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("postprocess", BOTH, ids=["topk", "nms"])
def test_conf_is_a_lower_bound(postprocess: TopK | NonMaximumSuppression) -> None:
    made = predictions([[0.9], [0.5], [0.2]], [A, [20.0, 0.0, 30.0, 10.0], FAR])
    for conf, count in [(0.1, 3), (0.3, 2), (0.6, 1), (0.95, 0)]:
        (selection,) = postprocess(made, conf=conf, iou=0.5, max_dets=10)
        assert len(selection.scores) == count
        assert selection.boxes.shape == (count, 4)


@pytest.mark.parametrize("postprocess", BOTH, ids=["topk", "nms"])
def test_max_dets_keeps_the_best(postprocess: TopK | NonMaximumSuppression) -> None:
    made = predictions([[0.2], [0.9], [0.5]], [A, [20.0, 0.0, 30.0, 10.0], FAR])
    (selection,) = postprocess(made, conf=0.05, iou=0.5, max_dets=2)
    assert rows(selection) == [([20.0, 0.0, 30.0, 10.0], 0.9, 0), (FAR, 0.5, 0)]


@pytest.mark.parametrize("postprocess", BOTH, ids=["topk", "nms"])
def test_classes_filter(postprocess: TopK | NonMaximumSuppression) -> None:
    """Only class 1: the stronger class 0 of point A neither appears nor takes a place among max_dets = 1."""
    made = predictions([[0.9, 0.3], [0.8, 0.4]], [A, FAR])
    (selection,) = postprocess(made, conf=0.05, iou=0.5, max_dets=10, classes=[1])
    assert rows(selection) == [(FAR, 0.4, 1), (A, 0.3, 1)]
    (one,) = postprocess(made, conf=0.05, iou=0.5, max_dets=1, classes=[1])
    assert rows(one) == [(FAR, 0.4, 1)]
    (none,) = postprocess(made, conf=0.05, iou=0.5, max_dets=10, classes=[])
    assert len(none.scores) == 0


@pytest.mark.parametrize("postprocess", BOTH, ids=["topk", "nms"])
def test_classes_filter_at_conf_zero(postprocess: TopK | NonMaximumSuppression) -> None:
    """conf = 0 keeps everything, still of the wanted classes alone."""
    made = predictions([[0.9, 0.3], [0.8, 0.4]], [A, FAR])
    (selection,) = postprocess(made, conf=0.0, iou=0.5, max_dets=10, classes=[0])
    assert selection.labels.tolist() == [0, 0]


@pytest.mark.parametrize("postprocess", BOTH, ids=["topk", "nms"])
def test_images_are_independent(postprocess: TopK | NonMaximumSuppression) -> None:
    """Three images, the middle one without detections: each gives what it gives alone; dtype and order hold."""
    scores = torch.rand(3, 20, 4)
    scores[1] *= 0.01
    corner = torch.rand(3, 20, 2) * 40
    boxes = torch.cat([corner, corner + 20], 2)
    together = postprocess(Predictions(scores.logit(), boxes), conf=0.1, iou=0.5, max_dets=10)
    assert [len(s.scores) > 0 for s in together] == [True, False, True]
    for i, selection in enumerate(together):
        (alone,) = postprocess(Predictions(scores[i : i + 1].logit(), boxes[i : i + 1]), conf=0.1, iou=0.5, max_dets=10)
        assert rows(alone) == rows(selection)
        assert (selection.scores.diff() <= 0).all()
        assert selection.labels.dtype == torch.int64
        assert selection.boxes.dtype == torch.float32


def test_nms_candidates_are_capped_by_score() -> None:
    """Above MAX_CANDIDATES (point, class) pairs only the best enter; all of them are apart, so exactly those stay."""
    count = MAX_CANDIDATES + 50
    order: Tensor = torch.randperm(count)
    x = torch.arange(count, dtype=torch.float32) * 20
    boxes = torch.stack([x, torch.zeros(count), x + 10, torch.full((count,), 10.0)], 1)
    logits = order[None, :, None] / count * 4
    (selection,) = NonMaximumSuppression()(Predictions(logits, boxes[None]), conf=0.1, iou=0.5, max_dets=count)
    assert len(selection.scores) == MAX_CANDIDATES
    assert set((selection.boxes[:, 0] / 20).long().tolist()) == set((order >= 50).nonzero().flatten().tolist())


@pytest.mark.parametrize("postprocess", BOTH, ids=["top-k", "nms"])
def test_candidates_are_all_that_reach_conf(postprocess: TopK | NonMaximumSuppression) -> None:
    """Both of the overlapping boxes, and both classes of a point; the selection is among them."""
    made = predictions([[0.9, 0.01], [0.8, 0.7], [0.6, 0.02]], [A, B, FAR])
    (found,) = postprocess.candidates(made, conf=0.05)
    assert sorted(rows(found)) == sorted([(A, 0.9, 0), (B, 0.8, 0), (B, 0.7, 1), (FAR, 0.6, 0)])
    (chosen,) = postprocess(made, conf=0.05, iou=0.3, max_dets=10)
    assert all(row in rows(found) for row in rows(chosen))
    (nothing,) = postprocess.candidates(made, conf=0.95)
    assert nothing.boxes.shape == (0, 4)


def test_soft_nms_worked() -> None:
    """A (.9) overlaps B by 1/3: B's .8 becomes .8 * 2/3 = .533, behind FAR's .6. B's other class is left alone.

    A copy of A, of IoU 1, becomes 0 and leaves.
    """
    found = Selection(
        torch.tensor([A, B, FAR, B, A]), torch.tensor([0.9, 0.8, 0.6, 0.7, 0.5]), torch.tensor([0, 0, 0, 1, 0])
    )
    softened = soft_nms(found, conf=0.05, iou=0.3, max_dets=10)
    assert rows(softened) == [(A, 0.9, 0), (B, 0.7, 1), (FAR, 0.6, 0), (B, 0.5333, 0)]
    assert rows(soft_nms(found, conf=0.05, iou=0.4, max_dets=2)) == [(A, 0.9, 0), (B, 0.8, 0)]
    assert rows(soft_nms(found, conf=0.55, iou=0.3, max_dets=10))[-1] == (FAR, 0.6, 0)
    assert len(soft_nms(found, conf=0.95, iou=0.3, max_dets=10).scores) == 0
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.7, 0.5])


def test_soft_nms_is_an_option() -> None:
    made = predictions([[0.9], [0.8], [0.6]], [A, B, FAR])
    (hard,) = NonMaximumSuppression(NmsConfig())(made, conf=0.05, iou=0.3, max_dets=10)
    (soft,) = NonMaximumSuppression(NmsConfig(soft=True))(made, conf=0.05, iou=0.3, max_dets=10)
    assert rows(hard) == [(A, 0.9, 0), (FAR, 0.6, 0)]
    assert rows(soft) == [(A, 0.9, 0), (FAR, 0.6, 0), (B, 0.5333, 0)]


def test_best_of_levels() -> None:
    """Two of the four points of the first level, by their best class; the second level has only one."""
    scores = torch.tensor([[[0.1, 0.9], [0.5, 0.2], [0.6, 0.0], [0.3, 0.3], [0.01, 0.02]]])
    strides = torch.tensor([8.0, 8, 8, 8, 16])[:, None]
    kept = best_of_levels(scores, strides, 2)
    assert torch.equal(kept, scores * torch.tensor([1, 0, 1, 0, 1])[:, None])
    assert torch.equal(best_of_levels(scores, strides, 9), scores)
    made = predictions(scores[0].clamp(0.01, 0.99).tolist(), [A, FAR, [20.0, 0, 30, 10], B, [80.0, 0, 90, 10]])
    made.strides = strides
    (selection,) = NonMaximumSuppression(NmsConfig(per_level=1))(made, conf=0.015, iou=0.5, max_dets=10)
    assert rows(selection) == [(A, 0.9, 1), (A, 0.1, 0), ([80.0, 0, 90, 10], 0.02, 1)]


def test_best_pairs_of_levels() -> None:
    """Two of the eight pairs of the first level, and all of the second; then there is no other limit."""
    scores = torch.tensor([[[0.1, 0.9], [0.5, 0.2], [0.6, 0.0], [0.3, 0.3], [0.01, 0.02]]])
    strides = torch.tensor([8.0, 8, 8, 8, 16])[:, None]
    kept = best_of_levels(scores, strides, 2, pairs=True)
    assert torch.equal(kept, torch.tensor([[[0, 0.9], [0, 0], [0.6, 0], [0, 0], [0.01, 0.02]]]))
    cells = [[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(2 * MAX_CANDIDATES)]
    made = predictions([[0.9]] * len(cells), cells)
    made.strides = torch.full((len(cells), 1), 8.0)
    selection = NonMaximumSuppression(NmsConfig(per_level=MAX_CANDIDATES + 50, pairs=True))
    assert len(selection.candidates(made, conf=0.5)[0].scores) == MAX_CANDIDATES + 50


def test_published_thresholds() -> None:
    """Detectors of the FCOS family keep what their papers keep; the YOLO family leaves it to the task."""
    for name, iou in [("vfnet-r50", 0.6), ("atss-r50", 0.6), ("fcos-r50", 0.6), ("retinanet-r50", 0.5)]:
        thresholds = load_recipe(name, num_classes=3, overrides={"model.backbone": "csp"} | NO_TIMM).build().postprocess
        assert thresholds.thresholds is not None
        assert WantedThresholds().over(thresholds.thresholds) == Thresholds(conf=0.05, iou=iou, max_dets=100)
        assert WantedThresholds(0.0, None, 7).over(thresholds.thresholds) == Thresholds(conf=0.0, iou=iou, max_dets=7)
    assert TopK().thresholds is NonMaximumSuppression().thresholds is None
