"""Task-aligned assignment (Feng et al., TOOD, ICCV 2021), in the form YOLOv8 and YOLOv10 use.

Differences from the paper: the overlap is CIoU clamped at 0, and the top k are taken even when fewer
than k have a metric above 0 (those are positives with target score 0).

Shape letters: B images, A points, C classes, T objects (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignrank.boxes import aligned_ciou, at_least_float32

EPS = 1e-9


@dataclass(slots=True)
class Assignment:
    """foreground [B,A] bool; gt_index [B,A] int64; labels [B,A] int64; boxes [B,A,4]; scores [B,A,C] in 0..1.

    Where not foreground, scores are 0 and the rest is unspecified.
    """

    foreground: Tensor
    gt_index: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_mask: Tensor,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    min_side: float = 0.0,
) -> Assignment:
    """Assign each object its `topk` points of highest score^alpha * overlap^beta inside its box.

    scores [B,A,C] after sigmoid; boxes [B,A,4], points [A,2] or [B,A,2], strides [A,1], gt_boxes [B,T,4], input
    pixels; gt_labels [B,T] int64; gt_mask [B,T] bool, False on padding. `min_side` > 0 widens the
    candidate region of smaller objects to that many pixels. A point claimed twice goes to the object
    it overlaps most. Target scores are the metric, scaled so that an object's best equals its best overlap.
    """
    num_images, num_points, _ = scores.shape
    num_objects = gt_boxes.shape[1]
    scores, boxes, gt_boxes = at_least_float32(scores), at_least_float32(boxes), at_least_float32(gt_boxes)
    if num_objects == 0:
        nothing = torch.zeros(num_images, num_points, dtype=torch.int64, device=scores.device)
        return Assignment(nothing.bool(), nothing, nothing, torch.zeros_like(boxes), torch.zeros_like(scores))

    inside = _points_inside(points, gt_boxes, min_side) & gt_mask[..., None]  # [B,T,A]
    # Only pairs with the point inside the box are scored: a few per cent of B*T*A.
    image, gt, point = inside.nonzero(as_tuple=True)
    pair_overlap = aligned_ciou(gt_boxes[image, gt], boxes[image, point]).clamp(min=0)
    pair_metric = scores[image, point, gt_labels[image, gt]].pow(alpha) * pair_overlap.pow(beta)
    overlap = pair_overlap.new_zeros(inside.shape)
    metric = torch.zeros_like(overlap)
    overlap[image, gt, point] = pair_overlap
    metric[image, gt, point] = pair_metric

    best = metric.topk(min(topk, num_points), dim=-1).indices
    positive = torch.zeros_like(inside).scatter_(-1, best, True) & inside
    claims = positive.sum(1)  # [B,A]
    winner = overlap.argmax(1)
    contested = claims > 1
    gt_index = torch.where(contested, winner, positive.to(torch.uint8).argmax(1))
    foreground = claims > 0

    images = torch.arange(num_images, device=scores.device)[:, None]
    own_metric = metric.gather(1, gt_index[:, None]).squeeze(1) * foreground  # [B,A]
    own_overlap = overlap.gather(1, gt_index[:, None]).squeeze(1) * foreground
    top_metric = _max_per_object(own_metric, gt_index, num_objects).gather(1, gt_index)
    top_overlap = _max_per_object(own_overlap, gt_index, num_objects).gather(1, gt_index)
    target = own_metric * top_overlap / (top_metric + EPS)

    labels = gt_labels.gather(1, gt_index)
    target_scores = torch.zeros_like(scores).scatter_(-1, labels[..., None], target[..., None])
    return Assignment(foreground, gt_index, labels, gt_boxes[images, gt_index], target_scores)


def _points_inside(points: Tensor, gt_boxes: Tensor, min_side: float) -> Tensor:
    """[A,2] or [B,A,2],[B,T,4] -> [B,T,A] bool: strictly inside the (widened) box."""
    left_top, right_bottom = gt_boxes.split(2, -1)
    if min_side > 0:
        centre = (left_top + right_bottom) / 2
        half = ((right_bottom - left_top) / 2).clamp(min=min_side / 2)
        left_top, right_bottom = centre - half, centre + half
    x, y = points.unsqueeze(-3).unbind(-1)  # [1,A] or [B,1,A]
    left, top = left_top[..., :1], left_top[..., 1:]
    right, bottom = right_bottom[..., :1], right_bottom[..., 1:]
    inside: Tensor = (x - left > EPS) & (right - x > EPS) & (y - top > EPS) & (bottom - y > EPS)
    return inside


def _max_per_object(values: Tensor, gt_index: Tensor, num_objects: int) -> Tensor:
    """values [B,A] >= 0, gt_index [B,A] -> [B,T], the largest value assigned to each object."""
    return values.new_zeros(values.shape[0], num_objects).scatter_reduce_(1, gt_index, values, "amax")
