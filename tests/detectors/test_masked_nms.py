"""Suppression without loops finds what suppression box by box finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignrank.contracts import Predictions
from alignrank.detectors.masked_nms import MaskedNms
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression

POINTS = (60, 20)


def predictions(seed: int) -> Predictions:
    """Two images, 80 points in two levels, 3 classes; boxes of 30 to 40 px within 120 px, so that chains are long."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, sum(POINTS), 2, generator=generator) * 90
    boxes = torch.cat([corner, corner + 30 + 10 * torch.rand(2, sum(POINTS), 2, generator=generator)], -1)
    strides = torch.tensor([8.0, 16.0]).repeat_interleave(torch.tensor(POINTS))[:, None]
    return Predictions(torch.randn(2, sum(POINTS), 3, generator=generator) - 1, boxes, strides=strides)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"agnostic": True}, {"consensus": 0.7}, {"per_level": 15}])
def test_it_is_greedy_suppression(options: dict[str, Any], seed: int) -> None:
    nms = NonMaximumSuppression(NmsConfig(**{"per_level": 0} | options))
    made = predictions(seed)
    masked = MaskedNms.of(nms, iou=0.4, level_points=POINTS)
    boxes, scores, labels = masked(made.scores(), made.boxes, 200)
    expected = nms(made, conf=0.0, iou=0.4, max_dets=1000)
    for image, found in enumerate(expected):
        kept = scores[image] > 0
        assert 0 < len(found.scores) < 200
        assert int(kept.sum()) == len(found.scores)
        torch.testing.assert_close(scores[image][kept], found.scores)
        torch.testing.assert_close(boxes[image][kept], found.boxes)
        assert torch.equal(labels[image][kept], found.labels)


def test_a_chain_worked() -> None:
    """Four boxes 10 wide, each 4 px further, best first: IoU of neighbours is 6 / 14 = .43, of others 2 / 18 = .11.

    The first drops the second, which so does not drop the third; that drops the fourth.
    """
    left = 4.0 * torch.arange(4)
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], -1)[None]
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])[None, :, None]
    found = MaskedNms(0.4)(scores, boxes, 3)
    assert [round(score, 3) for score in found[1][0].tolist()] == [0.9, 0.7, 0.0]
    assert found[0][0, :2, 0].tolist() == [0.0, 8.0]
    assert MaskedNms(0.5)(scores, boxes, 9)[1].shape == (1, 4)
    assert (MaskedNms(0.5)(scores, boxes, 9)[1] > 0).all()


def test_only_the_best_candidates_enter() -> None:
    """Two of four points: the third and fourth are gone although nothing overlaps them."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]])
    scores = torch.tensor([[[0.3, 0.2], [0.9, 0.0], [0.1, 0.8], [0.2, 0.1]]])
    _, kept, labels = MaskedNms(0.5, candidates=2)(scores, boxes, 10)
    assert [round(score, 3) for score in kept[0].tolist()] == [0.9, 0.8]
    assert labels[0].tolist() == [0, 1]
