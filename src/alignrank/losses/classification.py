"""Classification losses on sigmoid logits. Shape letters: N rows (anchors), C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from alignrank.boxes import at_least_float32
from alignrank.losses.reduction import Reduction, reduced


def varifocal_loss(
    logits: Tensor,
    quality: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    reduction: Reduction = "sum",
) -> Tensor:
    """Varifocal loss (Zhang et al., VarifocalNet, CVPR 2021, eq. 2).

    logits [N,C]; quality [N,C] in 0..1, the IoU-aware target: > 0 marks a positive entry, which
    weighs its own quality (1 if not `iou_weighted`); a negative entry weighs alpha * sigmoid(logit)^gamma.
    That weight is part of the graph, as in the authors' code.
    """
    logits, quality = at_least_float32(logits), at_least_float32(quality.detach())
    positive = quality > 0
    positive_weight = quality if iou_weighted else positive.to(quality.dtype)
    weight = positive_weight + alpha * logits.sigmoid().pow(gamma) * ~positive
    return reduced(weight * bce(logits, quality, reduction="none"), reduction)


def quality_focal_loss(logits: Tensor, quality: Tensor, *, beta: float = 2.0, reduction: Reduction = "sum") -> Tensor:
    """Quality focal loss (Li et al., Generalized Focal Loss, NeurIPS 2020, eq. 5).

    logits [N,C]; quality [N,C] in 0..1, 0 where negative. The factor |quality - score|^beta is part
    of the graph.
    """
    logits, quality = at_least_float32(logits), at_least_float32(quality.detach())
    distance = (quality - logits.sigmoid()).abs()
    return reduced(distance.pow(beta) * bce(logits, quality, reduction="none"), reduction)


def sigmoid_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, reduction: Reduction = "sum"
) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 5). logits [N,C]; target [N,C], 0 or 1 (values between interpolate)."""
    logits, target = at_least_float32(logits), at_least_float32(target.detach())
    scores = logits.sigmoid()
    miss = scores * (1 - target) + (1 - scores) * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return reduced(weight * miss.pow(gamma) * bce(logits, target, reduction="none"), reduction)


def giou_aware_focal_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0, reduction: Reduction = "sum"
) -> Tensor:
    """GIoU-aware classification loss (Pu et al., Rank-DETR, NeurIPS 2023, eq. 6).

    logits [N,C]; target [N,C] in 0..1: (GIoU + 1) / 2 at the class of a match, 0 elsewhere; > 0 marks a positive entry.
    The factor |target - score|^gamma is part of the graph. Difference from the paper, as in the authors' code: a
    positive entry weighs alpha, a negative one 1 - alpha.
    """
    loss = quality_focal_loss(logits, target, beta=gamma, reduction="none")
    return reduced(torch.where(target > 0, alpha * loss, (1 - alpha) * loss), reduction)
