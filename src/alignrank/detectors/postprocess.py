"""Predictions to selections: the NMS-free top k, and non-maximum suppression.

Both work on tensors in input pixels; mapping to the original image is `Frame.to_original`.
Shape letters: B images, A points, C classes, K selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from alignrank.contracts import Predictions, Selection

# Candidates an image may bring into NMS; its cost grows with their square.
MAX_CANDIDATES = 3000


def top_k(scores: Tensor, boxes: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """scores [B,A,C], boxes [B,A,4] -> boxes [B,K,4], scores [B,K], labels [B,K], best first; K = min(k, A).

    Two stages, as YOLOv10's: the k points with the best class, then the k best of (point, class) among them.
    Plain operations only, so it exports.
    """
    num_classes = scores.shape[-1]
    k = min(k, scores.shape[1])
    points = scores.amax(-1).topk(k).indices  # [B,K]
    scores = scores.gather(1, points[..., None].expand(-1, -1, num_classes))
    boxes = boxes.gather(1, points[..., None].expand(-1, -1, 4))
    best, index = scores.flatten(1).topk(k)
    boxes = boxes.gather(1, (index // num_classes)[..., None].expand(-1, -1, 4))
    return boxes, best, index % num_classes


class TopK:
    """For one-to-one heads: the best (point, class) pairs above `conf`; `iou` is not used."""

    def __call__(
        self, predictions: Predictions, *, conf: float, iou: float, max_dets: int, classes: Sequence[int] | None = None
    ) -> list[Selection]:
        scores = _of_classes(predictions.scores(), classes)
        boxes, scores, labels = top_k(scores, predictions.boxes, max_dets)
        keep = scores > conf
        return [Selection(b[m], s[m], c[m]) for b, s, c, m in zip(boxes, scores, labels, keep, strict=True)]

    def candidates(self, predictions: Predictions, *, conf: float) -> list[Selection]:
        return _candidates(predictions, predictions.scores(), conf)


class NonMaximumSuppression:
    """For one-to-many heads: every (point, class) above `conf`, then class-wise greedy suppression at `iou`."""

    def __call__(
        self, predictions: Predictions, *, conf: float, iou: float, max_dets: int, classes: Sequence[int] | None = None
    ) -> list[Selection]:
        all_scores = _of_classes(predictions.scores(), classes)
        selections = []
        for found in _candidates(predictions, all_scores, conf):
            keep = batched_nms(found.boxes, found.scores, found.labels, iou)[:max_dets]
            selections.append(Selection(found.boxes[keep], found.scores[keep], found.labels[keep]))
        return selections

    def candidates(self, predictions: Predictions, *, conf: float) -> list[Selection]:
        return _candidates(predictions, predictions.scores(), conf)


def _candidates(predictions: Predictions, all_scores: Tensor, conf: float) -> list[Selection]:
    """Every (point, class) of each image scored above `conf`, the best MAX_CANDIDATES where there are more."""
    selections = []
    for image_scores, image_boxes in zip(all_scores, predictions.boxes, strict=True):
        point, label = (image_scores > conf).nonzero(as_tuple=True)
        scores = image_scores[point, label]
        if len(scores) > MAX_CANDIDATES:
            scores, best = scores.topk(MAX_CANDIDATES)
            point, label = point[best], label[best]
        selections.append(Selection(image_boxes[point], scores, label))
    return selections


def _of_classes(scores: Tensor, classes: Sequence[int] | None) -> Tensor:
    """Scores of all other classes set to 0, so that they neither win a point nor take part in NMS."""
    if classes is None:
        return scores
    wanted = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    wanted[list(classes)] = True
    return scores * wanted
