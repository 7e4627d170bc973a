"""The base detector's loss: task-aligned targets, CIoU + DFL on positives, one of five class losses.

Terms that compare candidates with each other: `alignrank.detectors.yolo_ranking`.

Sources: YOLOv8's published loss (weights 7.5 / 0.5 / 1.5, targets scaled by the alignment metric);
Wang et al. 2024 (YOLOv10) for dual assignment with a consistent metric: both heads rank points by the same
alpha and beta, the one-to-one head takes the best one.

Shape letters: B images, A points, C classes, T objects (padded), P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from alignrank.assign import AlignedPairs, Assignment, aligned_pairs
from alignrank.assign.task_aligned import Truth
from alignrank.boxes import aligned_iou, xyxy_to_distances
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.alignrank_quality import passed_share
from alignrank.detectors.class_weights import weights_for
from alignrank.detectors.positives import Positives
from alignrank.detectors.yolo import YoloConfig
from alignrank.detectors.yolo_ranking import one_to_one_terms, ranking_terms
from alignrank.losses import ciou_loss, class_loss, distribution_focal_loss, sigmoid_focal_loss
from alignrank.losses.candidates import faded
from alignrank.losses.class_loss import weighed_sum
from alignrank.losses.normalizer import shared_normalizer


class YoloCriterion:
    """(Predictions, targets of every image) -> LossTerms.

    Parts of the one-to-one output are named `o2o_*`, of what it was before it suppressed duplicates `quality_*`.
    """

    def __init__(self, config: YoloConfig) -> None:
        self.config = config
        self.class_weights = weights_for(config.loss.class_weights, config.num_classes)

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        truth = padded(targets)
        call = _Call(truth, alone, self._fade(progress))
        one_to_many, unsuppressed = (predictions.auxiliary.get(name) for name in ("one_to_many", "unsuppressed"))
        if not self.config.head.dual or (one_to_many is None and self.config.postprocess.nms):
            parts = self._one_to_many(predictions, call)
        else:
            parts = {f"o2o_{name}": term for name, term in self._one_to_one(predictions, call).items()}
            if one_to_many is not None:
                parts |= self._one_to_many(one_to_many, call)
            if unsuppressed is not None:
                parts |= {f"quality_{name}": term for name, term in self._one_to_many(unsuppressed, call).items()}
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def _fade(self, progress: float) -> float:
        """Weight of the ranking terms."""
        return faded(progress, self.config.loss.fade_start, self.config.loss.fade_end)

    def _one_to_many(self, predictions: Predictions, call: _Call) -> dict[str, Tensor]:
        assignment = self._pairs(predictions, call.truth).best(self.config.assign.topk)
        parts = self._terms(predictions, assignment, call)
        if predictions.quality is not None:
            parts["iou"] = self.config.loss.quality * _quality_loss(predictions, assignment, call.alone)
        if call.fade:
            parts |= ranking_terms(predictions, assignment, self.config.loss, fade=call.fade, alone=call.alone)
        return parts

    def _one_to_one(self, predictions: Predictions, call: _Call) -> dict[str, Tensor]:
        """Where duplicates of fixed boxes are suppressed, their scores before that are ordered instead."""
        pairs = self._pairs(predictions, call.truth)
        assignment = pairs.best(1)
        parts = self._terms(predictions, assignment, call)
        loss = self.config.loss
        if loss.rank and call.fade and not predictions.fixed_boxes:
            wider = pairs.best(self.config.assign.topk)
            parts |= one_to_one_terms(predictions, assignment, wider, loss, fade=call.fade, alone=call.alone)
        return parts

    def positives(self, predictions: Predictions, targets: Sequence[Targets]) -> Positives:
        """Points that the main output is trained on."""
        one_to_one = self.config.head.dual and not self.config.postprocess.nms
        assignment = self._pairs(predictions, padded(targets)).best(1 if one_to_one else self.config.assign.topk)
        image, point = assignment.foreground.nonzero(as_tuple=True)
        return image, point, assignment.labels[image, point], assignment.boxes[image, point]

    def _pairs(self, predictions: Predictions, truth: Truth) -> AlignedPairs:
        assert predictions.points is not None
        config = self.config.assign
        return aligned_pairs(
            predictions.logits.detach().sigmoid(),
            predictions.boxes.detach(),
            predictions.points,
            truth,
            alpha=config.alpha,
            beta=config.beta,
            min_side=config.min_side,
        )

    def _terms(self, predictions: Predictions, assignment: Assignment, call: _Call) -> dict[str, Tensor]:
        assert predictions.points is not None
        assert predictions.strides is not None
        loss = self.config.loss
        image, point = assignment.foreground.nonzero(as_tuple=True)
        gt = assignment.boxes[image, point]  # [P,4]
        weight = assignment.scores[image, point].sum(-1)  # [P]
        normalizer = shared_normalizer(weight.sum(), alone=call.alone)
        parts = {}
        if not predictions.fixed_boxes:
            overlap = ciou_loss(predictions.boxes[image, point], gt)
            parts["box"] = loss.box * (overlap * weight).sum() / normalizer
        classification = self._classification(predictions, assignment, image, point, normalizer, call.alone)
        parts["cls"] = loss.cls * classification
        if predictions.distribution is not None:
            own = predictions.points.ndim == 3  # points of each image
            points = predictions.points[image, point] if own else predictions.points[point]
            strides = predictions.strides[image, point] if own else predictions.strides[point]  # [P,1]
            distances = xyxy_to_distances(points, gt) / strides  # [P,4] bins
            distribution = predictions.distribution[image, point]  # [P,4,R]
            dfl = distribution_focal_loss(distribution.flatten(0, 1), distances.flatten(), reduction="none")
            parts["dfl"] = loss.dfl * (dfl.unflatten(0, (-1, 4)).mean(-1) * weight).sum() / normalizer
        return parts

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
            reduction = "none" if self.class_weights else "sum"
            loss = binary_cross_entropy_with_logits(logits, assignment.scores, reduction=reduction)
            return self._weighed(loss, assignment.scores) / normalizer
        labels = assignment.labels[image, point]
        if kind == "focal":
            target = torch.zeros_like(logits).index_put_((image, point, labels), logits.new_ones(len(labels)))
            loss = sigmoid_focal_loss(logits, target, reduction="none" if self.class_weights else "sum")
            return self._weighed(loss, target) / shared_normalizer(target.sum(), alone=alone)
        iou = aligned_iou(predictions.boxes[image, point].detach(), assignment.boxes[image, point])
        quality = torch.zeros_like(logits).index_put_((image, point, labels), iou)
        total = torch.count_nonzero(quality).to(logits.dtype) if kind == "ranksort" else quality.sum()
        loss = class_loss(kind, logits, quality, class_weights=self.class_weights)
        return loss / shared_normalizer(total, alone=alone)

    def _weighed(self, loss: Tensor, target: Tensor) -> Tensor:
        """The sum of a loss: already that, or by entry where classes have weights."""
        return weighed_sum(loss, target > 0, self.class_weights) if self.class_weights else loss


def _quality_loss(predictions: Predictions, assignment: Assignment, alone: bool) -> Tensor:
    """Mean binary cross-entropy of the positives' quality with what their boxes' IoUs say; others teach nothing."""
    assert predictions.quality is not None
    image, point = assignment.foreground.nonzero(as_tuple=True)
    iou = aligned_iou(predictions.boxes[image, point].detach(), assignment.boxes[image, point])
    raw = predictions.quality[image, point, 0]
    total = binary_cross_entropy_with_logits(raw, passed_share(iou).to(raw.dtype), reduction="sum")
    return total / shared_normalizer(total.new_tensor(float(len(image))), alone=alone)


@dataclass(frozen=True, slots=True)
class _Call:
    """What holds for one call: the padded targets, whether this process computes alone, weight of ranking terms."""

    truth: Truth
    alone: bool
    fade: float


def padded(targets: Sequence[Targets]) -> Truth:
    """Targets of B images -> labels [B,T] int64, boxes [B,T,4], mask [B,T] bool; T is the largest count."""
    labels = pad_sequence([t.labels for t in targets], batch_first=True)
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)
    counts = torch.tensor([len(t.labels) for t in targets], device=labels.device)
    mask = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    return labels, boxes, mask
