"""The base detector's loss: task-aligned targets, CIoU + DFL on positives, one of four class losses.

Sources: YOLOv8's published loss (weights 7.5 / 0.5 / 1.5, targets scaled by the alignment metric);
Wang et al. 2024 (YOLOv10) for dual assignment with a consistent metric: both heads rank points by the same
alpha and beta, the one-to-one head takes the best one.

Shape letters: B images, A points, C classes, T objects (padded), P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from alignrank.assign import Assignment, task_aligned
from alignrank.boxes import aligned_iou, xyxy_to_distances
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.yolo import YoloConfig
from alignrank.losses import (
    ciou_loss,
    distribution_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from alignrank.losses.normalizer import shared_normalizer


class YoloCriterion:
    """(Predictions, targets of every image) -> LossTerms. Parts of the one-to-one head are named `o2o_*`."""

    def __init__(self, config: YoloConfig) -> None:
        self.config = config

    def __call__(self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False) -> LossTerms:
        topk = self.config.assign.topk
        if not self.config.head.dual:
            parts = self._terms(predictions, targets, topk, alone)
        else:
            parts = {f"o2o_{name}": term for name, term in self._terms(predictions, targets, 1, alone).items()}
            if predictions.one_to_many is not None:
                parts |= self._terms(predictions.one_to_many, targets, topk, alone)
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def _terms(self, predictions: Predictions, targets: Sequence[Targets], topk: int, alone: bool) -> dict[str, Tensor]:
        gt_labels, gt_boxes, gt_mask = padded(targets)
        assert predictions.points is not None
        assert predictions.strides is not None
        assert predictions.distribution is not None
        config = self.config
        assignment = task_aligned(
            predictions.logits.detach().sigmoid(),
            predictions.boxes.detach(),
            predictions.points,
            predictions.strides,
            gt_labels,
            gt_boxes,
            gt_mask,
            topk=topk,
            alpha=config.assign.alpha,
            beta=config.assign.beta,
            min_side=config.assign.min_side,
        )
        image, point = assignment.foreground.nonzero(as_tuple=True)
        boxes = predictions.boxes[image, point]  # [P,4]
        gt = assignment.boxes[image, point]
        weight = assignment.scores[image, point].sum(-1)  # [P]
        normalizer = shared_normalizer(weight.sum(), alone=alone)

        strides = predictions.strides[point]  # [P,1]
        distances = xyxy_to_distances(predictions.points[point], gt) / strides  # [P,4] bins
        distribution = predictions.distribution[image, point]  # [P,4,R]
        dfl = distribution_focal_loss(distribution.flatten(0, 1), distances.flatten(), reduction="none")
        return {
            "box": config.loss.box * (ciou_loss(boxes, gt) * weight).sum() / normalizer,
            "cls": config.loss.cls * self._classification(predictions, assignment, image, point, normalizer, alone),
            "dfl": config.loss.dfl * (dfl.unflatten(0, (-1, 4)).mean(-1) * weight).sum() / normalizer,
        }

    def _classification(
        self,
        predictions: Predictions,
        assignment: Assignment,
        image: Tensor,
        point: Tensor,
        normalizer: Tensor,
        alone: bool,
    ) -> Tensor:
        logits = predictions.logits
        kind = self.config.loss.classification
        if kind == "bce":
            return binary_cross_entropy_with_logits(logits, assignment.scores, reduction="sum") / normalizer
        labels = assignment.labels[image, point]
        if kind == "focal":
            target = torch.zeros_like(logits).index_put_((image, point, labels), logits.new_ones(len(labels)))
            return sigmoid_focal_loss(logits, target) / shared_normalizer(target.sum(), alone=alone)
        iou = aligned_iou(predictions.boxes[image, point].detach(), assignment.boxes[image, point])
        quality = torch.zeros_like(logits).index_put_((image, point, labels), iou)
        loss = varifocal_loss if kind == "vfl" else quality_focal_loss
        return loss(logits, quality) / shared_normalizer(quality.sum(), alone=alone)


def padded(targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of B images -> labels [B,T] int64, boxes [B,T,4], mask [B,T] bool; T is the largest count."""
    labels = pad_sequence([t.labels for t in targets], batch_first=True)
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)
    counts = torch.tensor([len(t.labels) for t in targets], device=labels.device)
    mask = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    return labels, boxes, mask
