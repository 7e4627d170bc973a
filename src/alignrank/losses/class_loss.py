"""The classification losses by their names in recipes, and the quality that they learn at a match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from alignrank.boxes import aligned_giou, aligned_iou
from alignrank.losses.classification import (
    giou_aware_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from alignrank.losses.rank_sort import rank_sort_loss
from alignrank.losses.reduction import Reduction

# Marks a positive whose box misses its object.
LEAST_QUALITY = 1e-6

ClassLoss = Literal["vfl", "qfl", "gcl", "focal", "ranksort"]


def class_loss(
    kind: ClassLoss, logits: Tensor, quality: Tensor, *, iou_weighted: bool = True, class_weights: Sequence[float] = ()
) -> Tensor:
    """logits and quality [...,C] in 0..1, > 0 at the class of a positive -> a sum over all entries, 0-dim.

    Meant to be divided by a number of positives. Rank & Sort is a mean over them already and is multiplied by it here,
    so that one division serves all and processes are weighted by their positives; all images are ranked together, as in
    its paper. Focal loss takes a quality above 0 as 1. iou_weighted: of varifocal loss. class_weights: see
    `weighed_sum`; Rank & Sort has none, since it compares entries of all classes.
    """
    reduction: Reduction = "none" if class_weights else "sum"
    if kind == "vfl":
        loss = varifocal_loss(logits, quality, iou_weighted=iou_weighted, reduction=reduction)
    elif kind == "qfl":
        loss = quality_focal_loss(logits, quality, reduction=reduction)
    elif kind == "gcl":
        loss = giou_aware_focal_loss(logits, quality, reduction=reduction)
    elif kind == "focal":
        loss = sigmoid_focal_loss(logits, (quality > 0).to(logits.dtype), reduction=reduction)
    else:
        return _rank_sort(logits, quality)
    return weighed_sum(loss, quality > 0, class_weights) if class_weights else loss


def weighed_sum(losses: Tensor, positive: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Of losses [...,C], in which a positive entry of class c counts class_weights[c] times; others count once.

    positive [...,C] bool. What a positive learns stays the same, its target; where it meets negatives of the same kind
    it prevails more. The number of positives that losses are divided by counts each once.
    """
    return (losses * torch.where(positive, losses.new_tensor(class_weights), 1.0)).sum()


def _rank_sort(logits: Tensor, quality: Tensor) -> Tensor:
    ranking, sorting = rank_sort_loss(logits.flatten(), quality.flatten())
    return (ranking + sorting) * torch.count_nonzero(quality)


def fit_quality(boxes: Tensor, gt: Tensor, *, overlap: Literal["giou", "iou"] = "giou", power: float = 1.0) -> Tensor:
    """How well boxes [P,4] xyxy fit their objects' [P,4]: (GIoU + 1) / 2 or the IoU, to `power`; constants [P].

    Between `LEAST_QUALITY` and 1. Source: Pu et al., Rank-DETR, NeurIPS 2023, eq. 6.
    """
    boxes = boxes.detach()
    fit = aligned_iou(boxes, gt) if overlap == "iou" else (aligned_giou(boxes, gt) + 1) / 2
    return fit.pow(power).clamp(LEAST_QUALITY, 1)
