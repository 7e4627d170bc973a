"""Predictions to selections: the NMS-free top k, and non-maximum suppression.

Both work on tensors in input pixels; mapping to the original image is `Frame.to_original`.
Shape letters: B images, A points, C classes, K selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from alignrank.boxes import pairwise_iou
from alignrank.config import Config
from alignrank.contracts import Predictions, Selection, Thresholds
from alignrank.detectors.consensus import consensus
from alignrank.detectors.nms import batched_nms

# Candidates an image may bring into NMS; its cost grows with their square.
MAX_CANDIDATES = 3000


def top_k(scores: Tensor, boxes: Tensor, k: int, *, agnostic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """scores [B,A,C], boxes [B,A,4] -> boxes [B,K,4], scores [B,K], labels [B,K], best first; K = min(k, A).

    Two stages, as YOLOv10's: the k points with the best class, then the k best of (point, class) among them.
    agnostic: a point has its best class only. Plain operations only, so it exports.
    """
    num_classes = scores.shape[-1]
    k = min(k, scores.shape[1])
    if agnostic:
        best, points = scores.amax(-1).topk(k)
        return boxes.gather(1, points[..., None].expand(-1, -1, 4)), best, scores.argmax(-1).gather(1, points)
    points = scores.amax(-1).topk(k).indices  # [B,K]
    scores = scores.gather(1, points[..., None].expand(-1, -1, num_classes))
    boxes = boxes.gather(1, points[..., None].expand(-1, -1, 4))
    best, index = scores.flatten(1).topk(k)
    # Whole numbers already; Core ML's converter takes quotients for floats.
    points, labels = (index // num_classes).long(), (index % num_classes).long()
    return boxes.gather(1, points[..., None].expand(-1, -1, 4)), best, labels


class TopK:
    """For one-to-one heads: the best (point, class) pairs above `conf`; `iou` is not used.

    agnostic: a point has its best class only. consensus: what the network itself merges at, for those who merge views.
    """

    thresholds: Thresholds | None = None

    def __init__(self, *, agnostic: bool = False, consensus: float = 0.0) -> None:
        self.agnostic, self.consensus = agnostic, consensus

    def __call__(
        self, predictions: Predictions, *, conf: float, iou: float, max_dets: int, classes: Sequence[int] | None = None
    ) -> list[Selection]:
        scores = _of_classes(predictions.scores(), classes)
        boxes, scores, labels = top_k(scores, predictions.boxes, max_dets, agnostic=self.agnostic)
        keep = scores > conf
        return [Selection(b[m], s[m], c[m]) for b, s, c, m in zip(boxes, scores, labels, keep, strict=True)]

    def candidates(self, predictions: Predictions, *, conf: float) -> list[Selection]:
        return _candidates(predictions, predictions.scores(), conf)


class NmsConfig(Config):
    """Thresholds of predictions and evaluations that give none, see contracts.Thresholds."""

    conf: float = Field(default=0.05, ge=0, le=1)
    """Lowest score kept."""
    iou: float = Field(default=0.6, ge=0, le=1)
    """Overlap with a better box of its class above which a box is dropped."""
    max_dets: int = Field(default=100, ge=1, le=100_000)
    """Detections of an image at most."""
    per_level: int = Field(default=1000, ge=0, le=1_000_000)
    """Points of each pyramid level that enter, the best by class score; 0: all."""
    pairs: bool = False
    """`per_level` counts (point, class) pairs, as torchvision does."""
    soft: bool = False
    """Boxes that overlap a better one lose score instead of being dropped."""
    consensus: float = Field(default=0.0, ge=0, lt=1)
    """Overlap above which candidates enter the mean that a kept box becomes; 0: off. Not with `soft`."""
    agnostic: bool = False
    """Suppression across classes: one object, one class."""

    @model_validator(mode="after")
    def _one_of_both(self) -> NmsConfig:
        if self.soft and self.consensus:
            raise ValueError("soft and consensus exclude each other: soft suppression leaves all boxes")
        return self


class NonMaximumSuppression:
    """For one-to-many heads: every (point, class) above `conf`, then class-wise suppression at `iou`.

    consensus: the best `max_dets` become means of the candidates that overlap them by more (see `consensus.py`), and
    are suppressed once more; 0: off. agnostic: as if there were one class. Both are the config's where one is given.
    """

    def __init__(self, config: NmsConfig | None = None, *, consensus: float = 0.0, agnostic: bool = False) -> None:
        self.consensus, self.agnostic = (config.consensus, config.agnostic) if config else (consensus, agnostic)
        self.per_level, self.soft = (config.per_level, config.soft) if config else (0, False)
        self.pairs = bool(config and config.pairs)
        self.thresholds = Thresholds(config.conf, config.iou, config.max_dets) if config else None

    def __call__(
        self, predictions: Predictions, *, conf: float, iou: float, max_dets: int, classes: Sequence[int] | None = None
    ) -> list[Selection]:
        entering = self._entering(predictions, _of_classes(predictions.scores(), classes), conf)
        return [self.select(found, conf=conf, iou=iou, max_dets=max_dets) for found in entering]

    def select(self, found: Selection, *, conf: float, iou: float, max_dets: int) -> Selection:
        """Those of one image's candidates that stay, best first."""
        groups = torch.zeros_like(found.labels) if self.agnostic else found.labels
        if self.soft:
            return soft_nms(found, conf=conf, iou=iou, max_dets=max_dets, groups=groups)
        keep = batched_nms(found.boxes, found.scores, groups, iou)[:max_dets]
        boxes = found.boxes[keep]
        if self.consensus:
            boxes = consensus(keep, found.boxes, found.scores, groups, self.consensus)
            again = batched_nms(boxes, found.scores[keep], groups[keep], iou)
            boxes, keep = boxes[again], keep[again]
        return Selection(boxes, found.scores[keep], found.labels[keep])

    def candidates(self, predictions: Predictions, *, conf: float) -> list[Selection]:
        return self._entering(predictions, predictions.scores(), conf)

    def _entering(self, predictions: Predictions, scores: Tensor, conf: float) -> list[Selection]:
        """The candidates of `scores`; where pairs of levels are counted, they are few enough."""
        if not self.per_level or predictions.strides is None:
            return _candidates(predictions, scores, conf)
        scores = best_of_levels(scores, predictions.strides, self.per_level, pairs=self.pairs)
        levels = len(torch.unique_consecutive(predictions.strides))
        return _candidates(predictions, scores, conf, self.per_level * levels if self.pairs else MAX_CANDIDATES)


def best_of_levels(scores: Tensor, strides: Tensor, count: int, *, pairs: bool = False) -> Tensor:
    """scores [B,A,C], those of all but the `count` best points of each level set to 0; or of all but its best (point,
    class) `pairs`. strides [A,1] tell levels.
    """
    sizes = torch.unique_consecutive(strides.flatten(), return_counts=True)[1].tolist()
    return best_of_parts(scores, sizes, count, pairs=pairs)


def best_of_parts(scores: Tensor, sizes: Sequence[int], count: int, *, pairs: bool = False) -> Tensor:
    """The same for levels of `sizes` points."""
    best = scores if pairs else scores.amax(-1, keepdim=True)
    keep = torch.ones_like(best, dtype=torch.bool)
    for points, kept in zip(best.split(list(sizes), 1), keep.split(list(sizes), 1), strict=True):
        if points.shape[1:].numel() > count:
            chosen = torch.zeros_like(points, dtype=torch.bool).flatten(1)
            kept.copy_(chosen.scatter_(1, points.flatten(1).topk(count, 1).indices, True).view_as(points))
    return scores * keep


def soft_nms(found: Selection, *, conf: float, iou: float, max_dets: int, groups: Tensor | None = None) -> Selection:
    """Linear soft-NMS (Bodla et al. 2017, eq. 2): by class, best first, a chosen box multiplies the scores of those
    that it overlaps by more than `iou` by 1 - IoU. Ends when no score is above `conf`.
    groups [N]: what counts as a class, the labels where not given.
    """
    groups = found.labels if groups is None else groups
    scores = found.scores.clone()
    chosen: list[Tensor] = []
    final: list[Tensor] = []
    for _ in range(min(max_dets, len(scores))):
        best = scores.argmax()
        if scores[best] <= conf:
            break
        chosen.append(best)
        final.append(scores[best].clone())
        overlap = pairwise_iou(found.boxes[best][None], found.boxes)[0] * (groups == groups[best])
        scores = torch.where(overlap > iou, scores * (1 - overlap), scores)
        scores[best] = -1
    if not chosen:
        return Selection(found.boxes[:0], found.scores[:0], found.labels[:0])
    index = torch.stack(chosen)
    return Selection(found.boxes[index], torch.stack(final), found.labels[index])


def _candidates(
    predictions: Predictions, all_scores: Tensor, conf: float, most: int = MAX_CANDIDATES
) -> list[Selection]:
    """Every (point, class) of each image scored above `conf`, the best `most` where there are more."""
    selections = []
    for image_scores, image_boxes in zip(all_scores, predictions.boxes, strict=True):
        point, label = (image_scores > conf).nonzero(as_tuple=True)
        scores = image_scores[point, label]
        if len(scores) > most:
            scores, best = scores.topk(most)
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
