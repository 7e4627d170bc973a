"""RetinaNet's loss: a class loss over all anchors that are not ignored, L1 on the deltas of positives.

Source: Lin et al. 2017, section 4. With an IoU-aware class loss the target is the IoU of the predicted box, as
VarifocalNet has it (its table 5 tries that on RetinaNet).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignrank.assign import max_iou
from alignrank.boxes import aligned_iou, xyxy_to_deltas
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.retinanet import RetinaNetConfig
from alignrank.detectors.varifocalnet_criterion import LEAST_QUALITY
from alignrank.losses import class_loss
from alignrank.losses.normalizer import shared_normalizer


class RetinaNetCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls, box."""

    def __init__(self, config: RetinaNetConfig) -> None:
        self.config = config

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        loss, anchors = self.config.loss, predictions.anchors
        assert anchors is not None
        assigned = self._assign(anchors, targets)
        image, point, labels, gt = _gathered(assigned, targets)
        own = predictions.boxes[image, point]
        quality = torch.zeros_like(predictions.logits)
        quality[image, point, labels] = aligned_iou(own.detach(), gt).clamp(min=LEAST_QUALITY).to(quality.dtype)
        keep = ~torch.stack([ignored for _, _, ignored in assigned])
        error = xyxy_to_deltas(anchors[point], own) - xyxy_to_deltas(anchors[point], gt)
        count = shared_normalizer(gt.new_tensor(float(len(gt))), alone=alone)
        classes = class_loss(
            loss.classification, predictions.logits[keep], quality[keep], iou_weighted=loss.iou_weighted
        )
        parts = {
            "box": loss.box * error.abs().sum() / count,
            "cls": loss.cls * classes / count,
        }
        return LossTerms(parts["box"] + parts["cls"], parts)

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images [P], anchors [P], labels [P] and boxes of the objects [P,4]."""
        assert predictions.anchors is not None
        return _gathered(self._assign(predictions.anchors, targets), targets)

    def _assign(self, anchors: Tensor, targets: Sequence[Targets]) -> list[Assigned]:
        assign = self.config.assign
        limits = {"positive": assign.positive, "negative": assign.negative}
        return [max_iou(anchors, target.boxes, target.labels, **limits) for target in targets]


# Of one image: object or -1, label or -1, ignored; all [A].
Assigned = tuple[Tensor, Tensor, Tensor]


def _gathered(assigned: Sequence[Assigned], targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, chosen, labels, boxes = [], [], [], []
    for number, ((gt_index, label, _), target) in enumerate(zip(assigned, targets, strict=True)):
        point = (gt_index >= 0).nonzero().squeeze(1)
        images.append(torch.full_like(point, number))
        chosen.append(point)
        labels.append(label[point])
        boxes.append(target.boxes[gt_index[point]])
    return torch.cat(images), torch.cat(chosen), torch.cat(labels), torch.cat(boxes)
