"""RepPoints' loss: first boxes at the nearest points, second boxes and classes where the first boxes fit.

Source: Yang et al., RepPoints, ICCV 2019, section 3.3. With an IoU-aware class loss the target is the IoU of the second
box, as VarifocalNet has it (its table 5 tries that on RepPoints).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from alignrank.assign import max_iou, nearest_point
from alignrank.assign.nearest_point import SCALE
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.class_weights import weights_for
from alignrank.detectors.positives import Positives, class_targets, gathered
from alignrank.detectors.reppoints import RepPointsConfig
from alignrank.losses import class_loss
from alignrank.losses.normalizer import shared_normalizer

BETA = 0.11  # of smooth L1, in units of SCALE strides


class RepPointsCriterion:
    """(Predictions, targets of every image) -> LossTerms: first, box, cls."""

    def __init__(self, config: RepPointsConfig) -> None:
        self.config = config
        self.class_weights = weights_for(config.loss.class_weights, config.num_classes)

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        loss, points, strides = self.config.loss, predictions.points, predictions.strides
        assert points is not None
        assert strides is not None
        first_boxes = predictions.auxiliary.get("first", predictions).boxes
        nearest = gathered((nearest_point(points, strides, t.boxes, t.labels)[0] for t in targets), targets)
        assigned = self._assign(first_boxes, targets)
        positives = gathered((gt_index for gt_index, _, _ in assigned), targets)
        quality = class_targets(predictions, positives)
        keep = ~torch.stack([ignored for _, _, ignored in assigned])
        classes = class_loss(
            loss.classification,
            predictions.logits[keep],
            quality[keep],
            iou_weighted=loss.iou_weighted,
            class_weights=self.class_weights,
        )
        parts = {
            "first": loss.first * _box_loss(first_boxes, strides, nearest, alone),
            "box": loss.box * _box_loss(predictions.boxes, strides, positives, alone),
            "cls": loss.cls * classes / _count(positives, alone),
        }
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> Positives:
        """The points of the second stage, by the boxes that there are."""
        boxes = predictions.auxiliary.get("first", predictions).boxes
        return gathered((gt_index for gt_index, _, _ in self._assign(boxes, targets)), targets)

    def _assign(self, boxes: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor, Tensor]]:
        assign = self.config.assign
        limits = {"positive": assign.positive, "negative": assign.negative}
        return [max_iou(own, t.boxes, t.labels, **limits) for own, t in zip(boxes.detach(), targets, strict=True)]


def _box_loss(boxes: Tensor, strides: Tensor, positives: Positives, alone: bool) -> Tensor:
    """Smooth L1 of the four sides in units of SCALE strides, by positive; 0 without any."""
    image, point, _, gt = positives
    unit = SCALE * strides[point]
    total = smooth_l1_loss(boxes[image, point] / unit, gt / unit, beta=BETA, reduction="sum")
    return total / _count(positives, alone)


def _count(positives: Positives, alone: bool) -> Tensor:
    gt = positives[-1]
    return shared_normalizer(gt.new_tensor(float(len(gt))), alone=alone)
