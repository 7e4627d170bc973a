"""One query for one object: costs of all pairs, and the assignment of the least total (Carion et al., End-to-End Object
Detection with Transformers, ECCV 2020, section 3.1; Pu et al., Rank-DETR, NeurIPS 2023, high-order matching cost).

Shape letters: Q queries, C classes, T objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, pairwise_giou, pairwise_iou, xyxy_to_cxcywh
from alignrank.errors import TrainingError
from alignrank.extras import optional

# Of the class cost, as Deformable DETR has it; EPS keeps the logarithm of a score of 0 finite.
ALPHA, GAMMA, EPS = 0.25, 2.0, 1e-8


@torch.no_grad()
def detr_cost(
    logits: Tensor,
    boxes: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    *,
    size: tuple[float, float],
    weights: tuple[float, float, float] = (2.0, 5.0, 2.0),
) -> Tensor:
    """DETR's cost of every pair, with the class in the form of focal loss (Zhu et al., Deformable DETR, ICLR 2021).

    logits [Q,C]; boxes [Q,4], gt_boxes [T,4] xyxy; gt_labels [T] int64; size, the (width, height) by which centres and
    sides are divided, in the boxes' units. weights: of the class, of the L1 distance, of -GIoU. Returns [Q,T].
    """
    scores = at_least_float32(logits)[:, gt_labels].sigmoid()
    as_object = ALPHA * (1 - scores).pow(GAMMA) * -(scores + EPS).log()
    as_background = (1 - ALPHA) * scores.pow(GAMMA) * -(1 - scores + EPS).log()
    boxes, gt_boxes = at_least_float32(boxes), at_least_float32(gt_boxes)
    apart = (xyxy_to_cxcywh(boxes)[:, None] - xyxy_to_cxcywh(gt_boxes)).abs()
    # Not divided by a tensor: to make one on a GPU waits for it.
    distance = apart[..., 0::2].sum(-1) / size[0] + apart[..., 1::2].sum(-1) / size[1]
    of_class, of_distance, of_giou = weights
    return of_class * (as_object - as_background) + of_distance * distance - of_giou * pairwise_giou(boxes, gt_boxes)


@torch.no_grad()
def high_order_cost(
    logits: Tensor,
    boxes: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    *,
    alpha: float = 4.0,
    overlap: Literal["iou", "giou"] = "iou",
    tie_break: float = 0.0,
) -> Tensor:
    """Rank-DETR's high-order cost of every pair: -score * overlap^alpha.

    logits [Q,C]; boxes [Q,4], gt_boxes [T,4] xyxy; gt_labels [T] int64. overlap: IoU, or GIoU mapped to 0..1. An object
    that no query overlaps has a column of zeros, in which all queries are as good; with `tie_break` (small, 0 as in the
    paper) such a column is -tie_break * GIoU. Returns [Q,T], NaN for boxes that are not finite. Raises ValueError for
    another overlap.
    """
    if overlap not in ("iou", "giou"):
        raise ValueError(f"overlap must be 'iou' or 'giou', got {overlap!r}")
    base = pairwise_iou(boxes, gt_boxes) if overlap == "iou" else (pairwise_giou(boxes, gt_boxes) + 1) / 2
    scores = at_least_float32(logits)[:, gt_labels].sigmoid()
    cost = -scores * base.clamp(min=0).pow(alpha)  # rounding can put GIoU below -1
    if tie_break:
        cost = torch.where((cost == 0).all(0), -tie_break * pairwise_giou(boxes, gt_boxes).to(cost.dtype), cost)
    # The overlap of NaN and of endless boxes is 0, which would hide from `match` that a model has diverged.
    return torch.where(boxes.isfinite().all(1, keepdim=True), cost, torch.nan)


def match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of least total cost, as many as there can be.

    cost [Q,T]. Returns query_index, ascending, and gt_index, both [min(Q,T)] int64 on the cost's device. Raises
    TrainingError for a cost that is not finite.
    """
    return match_all([cost])[0]


@torch.no_grad()
def match_all(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """`match` of each cost [Q,T], with one transfer from their device and one back, because a GPU waits for each."""
    if not costs:
        return []
    solve = optional("train", "scipy.optimize").linear_sum_assignment  # imported where it is needed: takes long
    together = torch.cat([at_least_float32(cost).flatten() for cost in costs]).cpu()
    if not together.isfinite().all():
        raise TrainingError(
            "the predictions are not finite, so they cannot be matched with objects: the model has diverged"
        )
    parts = together.split([cost.numel() for cost in costs])
    solved = [solve(part.view(cost.shape).numpy()) for part, cost in zip(parts, costs, strict=True)]
    pairs = [torch.stack([torch.from_numpy(index) for index in pair]).long() for pair in solved]
    on_device = torch.cat(pairs, 1).to(costs[0].device).split([pair.shape[1] for pair in pairs], 1)
    return [(queries, objects) for queries, objects in on_device]
