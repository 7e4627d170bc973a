"""Box losses. Shape letters: P positives; boxes are xyxy in any one unit."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from alignrank.boxes import aligned_ciou, aligned_giou, at_least_float32
from alignrank.losses.reduction import Reduction, reduced


def giou_loss(boxes: Tensor, targets: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019): [P,4],[P,4] -> [P] in 0..2."""
    return 1 - aligned_giou(boxes, targets.detach(), eps=eps)


def ciou_loss(boxes: Tensor, targets: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - CIoU (Zheng et al. 2020): [P,4],[P,4] -> [P], at least 0; its alpha is a constant of the gradient."""
    return 1 - aligned_ciou(boxes, targets.detach(), eps=eps)


def distribution_focal_loss(logits: Tensor, target: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    """Distribution focal loss (Li et al., Generalized Focal Loss, eq. 6): cross entropy to the two nearest bins.

    logits [P,bins]; target [P] in bins, clamped to [0, bins - 1.01] so that the right-hand bin exists.
    """
    logits = at_least_float32(logits)
    target = at_least_float32(target.detach()).clamp(0, logits.shape[-1] - 1.01)
    left = target.long()
    right_weight = target - left
    log_probability = log_softmax(logits, -1)
    nearest = log_probability.gather(-1, left[:, None]).squeeze(-1)
    next_one = log_probability.gather(-1, left[:, None] + 1).squeeze(-1)
    return reduced(-(nearest * (1 - right_weight) + next_one * right_weight), reduction)
