"""Assignment to the nearest point of the level that fits an object's size (Yang et al., RepPoints, ICCV 2019, 3.3).

Shape letters: A points over all levels, T objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32

# An object of so many strides belongs to a level: of 32 px to stride 8.
SCALE = 4.0


@torch.no_grad()
def nearest_point(points: Tensor, strides: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Assign one point of one image to each object: of the level of its size, the nearest to its centre.

    points [A,2] and strides [A,1], gt_boxes [T,4], input pixels; gt_labels [T] int64. The level is the one whose stride
    is sqrt(width * height) / SCALE, rounded down to a power of two. Distances are in parts of the object's sides. A
    point that several objects want belongs to the one it is nearer to, of equal ones the first.

    Returns gt_index [A] int64 and labels [A] int64, -1 for a negative. Costs memory of A*T.
    """
    nothing = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if not len(gt_boxes) or not len(points):
        return nothing, nothing.clone()
    points, gt_boxes = at_least_float32(points), at_least_float32(gt_boxes)
    level = strides[:, 0].log2().round().long()  # [A]
    sides = (gt_boxes[:, 2:] - gt_boxes[:, :2]).clamp(min=1e-6)
    wanted = (sides / SCALE).log2().mean(1).floor().long().clamp(int(level.min()), int(level.max()))  # [T]
    centres = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    distance = ((points - centres[:, None]) / sides[:, None]).norm(dim=-1)  # [T,A]
    nearest, point = torch.where(level == wanted[:, None], distance, torch.inf).min(1)
    claims = torch.full_like(distance, torch.inf).scatter(1, point[:, None], nearest[:, None])
    closest, gt_index = claims.min(0)
    foreground = closest.isfinite()
    return torch.where(foreground, gt_index, -1), torch.where(foreground, gt_labels[gt_index], -1)
