"""Assignment by size and centre (Tian et al., FCOS, ICCV 2019, 3.1 and 3.2; centre sampling as in its later version).

Shape letters: A points over all levels, T objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, xyxy_to_distances

# The largest distance to a side that a level is for, in strides: 4 to 8, from 0 on the finest, without end on the last.
SMALLEST, LARGEST = 4.0, 8.0


@torch.no_grad()
def fcos(
    points: Tensor, strides: Tensor, gt_boxes: Tensor, gt_labels: Tensor, *, radius: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Assign the points of one image to its objects.

    points [A,2] and strides [A,1], gt_boxes [T,4], input pixels; gt_labels [T] int64. A point is positive for an object
    if it is inside of it, at most `radius` strides from its centre in x and y, and if the largest of its distances to
    the four sides fits its level. An ambiguous point goes to the smallest object, of equal ones the first.

    Returns gt_index [A] int64 and labels [A] int64, -1 for a negative. Costs memory of A*T. Raises ValueError for a
    radius that is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    nothing = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if not len(gt_boxes) or not len(points):
        return nothing, nothing.clone()
    points, strides, gt_boxes = at_least_float32(points), at_least_float32(strides), at_least_float32(gt_boxes)
    distances = xyxy_to_distances(points[:, None], gt_boxes[None])  # [A,T,4]
    inside = distances.amin(-1) > 0
    centres = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    near = (points[:, None] - centres).abs().amax(-1) < radius * strides
    lower = torch.where(strides == strides.min(), 0, SMALLEST * strides)
    upper = torch.where(strides == strides.max(), torch.inf, LARGEST * strides)
    reach = distances.amax(-1)
    positive = inside & near & (reach >= lower) & (reach <= upper)
    area = (gt_boxes[:, 2] - gt_boxes[:, 0]) * (gt_boxes[:, 3] - gt_boxes[:, 1])
    gt_index = torch.where(positive, area, torch.inf).argmin(1)
    foreground = positive.any(1)
    return torch.where(foreground, gt_index, -1), torch.where(foreground, gt_labels[gt_index], -1)


def centreness_target(points: Tensor, gt: Tensor) -> Tensor:
    """points [P,2] inside of boxes [P,4] -> [P] in 0..1 (FCOS, eq. 3): 1 in the middle, 0 on an edge."""
    left, top, right, bottom = xyxy_to_distances(points, gt).clamp(min=0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-9)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-9)
    return (across * down).sqrt()
