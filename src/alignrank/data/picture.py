"""A training picture, and which of its objects are left where a part of it is cut out.

Boxes [T,4] float32 xyxy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A cropped box stays an object if it keeps this share of its area and this many pixels on each side.
MIN_VISIBLE, MIN_SIDE = 0.1, 2.0


@dataclass(slots=True)
class Picture:
    """An image with its objects: pixels [3,H,W] uint8, boxes [T,4] in its pixels, labels [T] int64."""

    pixels: Tensor
    boxes: Tensor
    labels: Tensor


def clip(boxes: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes cut to a window [4] (x0,y0,x1,y1), or to one each [T,4]; those with enough left, the mask [T] of them."""
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low, high = window[..., :2], window[..., 2:]
    cut = boxes.maximum(torch.cat([low, low], -1)).minimum(torch.cat([high, high], -1))
    side = cut[:, 2:] - cut[:, :2]
    # An object that was tiny before may stay so: only what the cut took away counts.
    long_enough = (side >= MIN_SIDE).all(1) | (cut == boxes).all(1)
    kept = (side[:, 0] * side[:, 1] > MIN_VISIBLE * whole) & (side > 0).all(1) & long_enough
    return cut[kept], kept
