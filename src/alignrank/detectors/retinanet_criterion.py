"""RetinaNet's loss: a class loss over all anchors that are not ignored, L1 on the deltas of positives.

Source: Lin et al. 2017, section 4. With an IoU-aware class loss the target is the IoU of the predicted box, as
VarifocalNet has it (its table 5 tries that on RetinaNet).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignrank.assign import max_iou
from alignrank.boxes import xyxy_to_deltas
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.class_weights import weights_for
from alignrank.detectors.positives import Positives, class_targets, gathered
from alignrank.detectors.retinanet import RetinaNetConfig
from alignrank.losses import class_loss
from alignrank.losses.normalizer import shared_normalizer


class RetinaNetCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls, box."""

    def __init__(self, config: RetinaNetConfig) -> None:
        self.config = config
        self.class_weights = weights_for(config.loss.class_weights, config.num_classes)

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        loss, anchors = self.config.loss, predictions.anchors
        assert anchors is not None
        assigned = self._assign(anchors, targets)
        positives = image, point, _, gt = gathered((gt_index for gt_index, _, _ in assigned), targets)
        own = predictions.boxes[image, point]
        quality = class_targets(predictions, positives)
        keep = ~torch.stack([ignored for _, _, ignored in assigned])
        error = xyxy_to_deltas(anchors[point], own) - xyxy_to_deltas(anchors[point], gt)
        count = shared_normalizer(gt.new_tensor(float(len(gt))), alone=alone)
        classes = class_loss(
            loss.classification,
            predictions.logits[keep],
            quality[keep],
            iou_weighted=loss.iou_weighted,
            class_weights=self.class_weights,
        )
        parts = {
            "box": loss.box * error.abs().sum() / count,
            "cls": loss.cls * classes / count,
        }
        return LossTerms(parts["box"] + parts["cls"], parts)

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> Positives:
        """The assigned anchors of all images."""
        assert predictions.anchors is not None
        return gathered((gt_index for gt_index, _, _ in self._assign(predictions.anchors, targets)), targets)

    def _assign(self, anchors: Tensor, targets: Sequence[Targets]) -> list[tuple[Tensor, Tensor, Tensor]]:
        assign = self.config.assign
        limits = {"positive": assign.positive, "negative": assign.negative}
        return [max_iou(anchors, target.boxes, target.labels, **limits) for target in targets]
