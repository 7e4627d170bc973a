"""RetinaNet's loss: a class loss over all anchors that are not ignored, L1 on the deltas of positives.

Source: Lin et al. 2017, section 4. With an IoU-aware class loss the target is the IoU of the predicted box, as
VarifocalNet has it (its table 5 tries that on RetinaNet).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
        loss, assign = self.config.loss, self.config.assign
        anchors = predictions.anchors
        assert anchors is not None
        quality = torch.zeros_like(predictions.logits)
        kept, own, gt = [], [], []
        for number, target in enumerate(targets):
            gt_index, labels, ignored = max_iou(
                anchors, target.boxes, target.labels, positive=assign.positive, negative=assign.negative
            )
            kept.append(~ignored)
            positive = (gt_index >= 0).nonzero().squeeze(1)
            boxes = target.boxes[gt_index[positive]]
            overlap = aligned_iou(predictions.boxes[number, positive].detach(), boxes).clamp(min=LEAST_QUALITY)
            quality[number, positive, labels[positive]] = overlap.to(quality.dtype)
            own.append(xyxy_to_deltas(anchors[positive], predictions.boxes[number, positive]))
            gt.append(xyxy_to_deltas(anchors[positive], boxes))
        keep, deltas = torch.stack(kept), torch.cat(own)
        count = shared_normalizer(deltas.new_tensor(float(len(deltas))), alone=alone)
        classes = class_loss(
            loss.classification, predictions.logits[keep], quality[keep], iou_weighted=loss.iou_weighted
        )
        parts = {
            "box": loss.box * (deltas - torch.cat(gt)).abs().sum() / count,
            "cls": loss.cls * classes / count,
        }
        return LossTerms(parts["box"] + parts["cls"], parts)
