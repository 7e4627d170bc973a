"""Assignment by overlap with anchors (Girshick 2015; with RetinaNet's thresholds, Lin et al. 2017, section 4).

Shape letters: A anchors, T objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, pairwise_iou


@torch.no_grad()
def max_iou(
    anchors: Tensor, gt_boxes: Tensor, gt_labels: Tensor, *, positive: float = 0.5, negative: float = 0.4
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign the anchors of one image to the objects they overlap most.

    anchors [A,4], gt_boxes [T,4], input pixels; gt_labels [T] int64. Positive from IoU `positive` on, negative below
    `negative`, ignored between. The best anchors of an object are its own, however little they overlap (but not 0).

    Returns gt_index [A] and labels [A] int64, -1 unless positive, and ignored [A] bool. Costs memory of A*T. Raises
    ValueError unless 0 <= negative <= positive <= 1.
    """
    if not 0 <= negative <= positive <= 1:
        raise ValueError(f"expected 0 <= negative <= positive <= 1, got {negative} and {positive}")
    if not len(gt_boxes) or not len(anchors):
        nothing = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        return nothing, nothing.clone(), torch.zeros_like(nothing, dtype=torch.bool)
    overlap = pairwise_iou(at_least_float32(gt_boxes), at_least_float32(anchors))  # [T,A]
    largest, gt_index = overlap.max(0)
    best_of_object = overlap.amax(1, keepdim=True)
    forced = (overlap == best_of_object) & (best_of_object > 0)
    # Of two objects that claim an anchor as their best, the one that it overlaps more has it.
    gt_index = torch.where(forced.any(0), torch.where(forced, overlap, -1).argmax(0), gt_index)
    foreground = forced.any(0) | (largest >= positive)
    ignored = ~foreground & (largest >= negative)
    return torch.where(foreground, gt_index, -1), torch.where(foreground, gt_labels[gt_index], -1), ignored
