"""VarifocalNet's loss, and that of its baselines: boxes before and after refinement, IoU-aware classes, centreness.

Sources: Zhang et al., VarifocalNet, CVPR 2021, eq. 6 (three normalisers: each box term is divided by the sum of its own
IoUs, the class term by the number of positives); Tian et al., FCOS, ICCV 2019, eq. 3 (centreness).

Shape letters: B images, A points, C classes, T objects of an image, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from alignrank.assign import atss, fcos
from alignrank.assign.fcos import centreness_target
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.positives import Positives, class_targets, gathered, quality_of
from alignrank.detectors.varifocalnet import VarifocalNetConfig
from alignrank.losses import class_loss, giou_loss
from alignrank.losses.normalizer import shared_normalizer

# ATSS's anchors are squares of so many strides.
ANCHOR_SIDE = 8.0
GIOU_EPS = 1e-6


class VarifocalNetCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls, box, and refine or centreness where predicted."""

    def __init__(self, config: VarifocalNetConfig) -> None:
        self.config = config

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        loss = self.config.loss
        assert predictions.points is not None
        positives = image, point, _, gt = self.positives(predictions, targets)
        first = predictions.auxiliary.get("first", predictions).boxes
        count = shared_normalizer(gt.new_tensor(float(len(gt))), alone=alone)
        parts = {}
        if predictions.centreness is None:
            weight = quality_of(first[image, point], gt)
        else:
            weight = centreness_target(predictions.points[point], gt)
            logits = predictions.centreness[image, point, 0]
            parts["centreness"] = binary_cross_entropy_with_logits(logits, weight, reduction="sum") / count
        parts["box"] = loss.box * _box_loss(first[image, point], gt, weight, alone)
        if "first" in predictions.auxiliary:
            refined = predictions.boxes[image, point]
            parts["refine"] = loss.refine * _box_loss(refined, gt, quality_of(refined, gt), alone)
        quality = class_targets(predictions, positives)
        classes = class_loss(loss.classification, predictions.logits, quality, iou_weighted=loss.iou_weighted)
        parts["cls"] = loss.cls * classes / count
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> Positives:
        """The assigned points of all images."""
        points, strides = predictions.points, predictions.strides
        assert points is not None
        assert strides is not None
        assign = self.config.assign
        if assign.kind == "fcos":
            chosen = [fcos(points, strides, t.boxes, t.labels, radius=assign.radius)[0] for t in targets]
            return gathered(chosen, targets)
        half = ANCHOR_SIDE / 2 * strides
        anchors = torch.cat([points - half, points + half], 1)
        per_level = torch.unique_consecutive(strides[:, 0], return_counts=True)[1].tolist()
        chosen = [atss(anchors, per_level, t.boxes, t.labels, topk=assign.topk)[0] for t in targets]
        return gathered(chosen, targets)


def _box_loss(boxes: Tensor, gt: Tensor, weight: Tensor, alone: bool) -> Tensor:
    """Weighted mean of 1 - GIoU, 0 without positives."""
    total = (weight * giou_loss(boxes, gt, eps=GIOU_EPS)).sum()
    return total / shared_normalizer(weight.sum(), alone=alone)
