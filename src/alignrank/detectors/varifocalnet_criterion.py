"""VarifocalNet's loss, and that of its baselines: boxes before and after refinement, IoU-aware classes, centreness.

Sources: Zhang et al., VarifocalNet, CVPR 2021, eq. 6 (three normalisers: each box term is divided by the sum of its own
IoUs, the class term by the number of positives); Tian et al., FCOS, ICCV 2019, eq. 3 (centreness). Ours, and off by
default: a floor under the class targets, which falls with the progress of the training; another normaliser of the class
term; box terms of both kinds weighed by centreness, or by IoU.

Shape letters: B images, A points, C classes, T objects of an image, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from alignrank.assign import atss, fcos
from alignrank.assign.fcos import centreness_target
from alignrank.boxes import at_least_float32
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.class_weights import weights_for
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
        self.class_weights = weights_for(config.loss.class_weights, config.num_classes)

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        loss = self.config.loss
        assert predictions.points is not None
        positives = image, point, _, gt = self.positives(predictions, targets)
        points = predictions.points[point]
        first = predictions.auxiliary.get("first", predictions).boxes[image, point]
        count = shared_normalizer(gt.new_tensor(float(len(gt))), alone=alone)
        parts = {}
        if predictions.centreness is not None:
            logits, target = predictions.centreness[image, point, 0], centreness_target(points, gt)
            parts["centreness"] = binary_cross_entropy_with_logits(logits, target, reduction="sum") / count
        central = loss.box_weight == "centreness"
        of_first = central or (loss.box_weight == "auto" and predictions.centreness is not None)
        weight = centreness_target(points, gt) if of_first else quality_of(first, gt)
        parts["box"] = loss.box * _box_loss(first, gt, weight, alone)
        if "first" in predictions.auxiliary:
            refined = predictions.boxes[image, point]
            weight = centreness_target(points, gt) if central else quality_of(refined, gt)
            parts["refine"] = loss.refine * _box_loss(refined, gt, weight, alone)
        quality = class_targets(predictions, positives, floor=self._floor(progress))
        classes = class_loss(
            loss.classification,
            predictions.logits,
            quality,
            iou_weighted=loss.iou_weighted,
            class_weights=self.class_weights,
        )
        if loss.normalizer == "targets":
            count = shared_normalizer(at_least_float32(quality).sum(), alone=alone)
        parts["cls"] = loss.cls * classes / count
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def _floor(self, progress: float) -> float:
        """What a positive's target is at least: `loss.iou_floor` at first, 0 from `loss.iou_floor_end` on."""
        return self.config.loss.iou_floor * max(1 - progress / self.config.loss.iou_floor_end, 0.0)

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
