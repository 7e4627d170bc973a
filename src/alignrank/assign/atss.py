"""Adaptive training sample selection (Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection
via Adaptive Training Sample Selection, CVPR 2020, algorithm 1).

Difference from the paper: of anchors at the same distance the first are candidates. An object with one candidate in
all has no standard deviation; it counts as 0.

Shape letters: A anchors over all levels, T objects, K candidates of an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, pairwise_iou

# Pixels by which the centre of a positive anchor is inside its object.
MIN_INSIDE = 0.01


@torch.no_grad()
def atss(
    anchors: Tensor, num_per_level: Sequence[int], gt_boxes: Tensor, gt_labels: Tensor, *, topk: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign the anchors of one image to its objects.

    anchors [A,4], gt_boxes [T,4], input pixels; num_per_level, how many of the anchors belong to each level, in their
    order; gt_labels [T] int64. The candidates of an object are, of each level, the `topk` anchors whose centres are
    closest to its own (all, if there are fewer). Positive are those with IoU >= mean + standard deviation (of a
    sample, n - 1) of the candidates' IoU, if their centre is inside the object by more than 0.01 px on each side.
    An anchor claimed twice goes to the object it overlaps most, of equal ones the first.

    Returns gt_index [A] int64, labels [A] int64, overlaps [A] in 0..1: the object, its label and the IoU with it;
    -1, -1 and 0 for a negative. Costs memory of A*T. Raises ValueError where num_per_level does not add up to A, or
    topk is below 1.
    """
    if sum(num_per_level) != len(anchors):
        raise ValueError(f"num_per_level adds up to {sum(num_per_level)}, but there are {len(anchors)} anchors")
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")
    anchors, gt_boxes = at_least_float32(anchors), at_least_float32(gt_boxes)
    overlap = pairwise_iou(gt_boxes, anchors)  # [T,A]
    if overlap.numel() == 0:
        nothing = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        return nothing, nothing.clone(), overlap.new_zeros(len(anchors))

    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    candidate = _candidates(centres, num_per_level, gt_boxes, topk)
    positive = candidate & (overlap >= _threshold(overlap, candidate)) & _inside(centres, gt_boxes)
    best, gt_index = torch.where(positive, overlap, -1).max(0)
    foreground = best >= 0
    labels = torch.where(foreground, gt_labels[gt_index], -1)
    return torch.where(foreground, gt_index, -1), labels, best.clamp(min=0)


def _candidates(centres: Tensor, num_per_level: Sequence[int], gt_boxes: Tensor, topk: int) -> Tensor:
    """centres [A,2], gt_boxes [T,4] -> [T,A] bool."""
    gt_centres = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    distance2 = (gt_centres[:, None] - centres).square().sum(-1)
    levels = []
    for level in distance2.split(list(num_per_level), 1):
        k = min(topk, level.shape[1])
        # topk alone does not say which of equal ones it takes, and grids have many at equal distance.
        furthest = level.topk(k, 1, largest=False).values[:, -1:]
        closer, last = level < furthest, level == furthest
        levels.append(closer | (last & (last.cumsum(1) <= k - closer.sum(1, keepdim=True))))
    return torch.cat(levels, 1)


def _threshold(overlap: Tensor, candidate: Tensor) -> Tensor:
    """overlap, candidate [T,A] -> [T,1], mean + standard deviation of the candidates' overlaps."""
    count = candidate.sum(1, keepdim=True)
    # Summed from the least one on: equal overlaps are then equal to their mean, which rounding could put above them.
    least = torch.where(candidate, overlap, torch.inf).amin(1, keepdim=True)
    mean = least + torch.where(candidate, overlap - least, 0).sum(1, keepdim=True) / count
    variance = torch.where(candidate, (overlap - mean).square(), 0).sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()


def _inside(centres: Tensor, gt_boxes: Tensor) -> Tensor:
    """centres [A,2], gt_boxes [T,4] -> [T,A] bool."""
    before, after = centres - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - centres
    return torch.minimum(before, after).amin(-1) > MIN_INSIDE
