"""The cells of a pyramid as one list, level by level: where they are, and what maps say of them.

Shape letters: B images, L levels, A cells over all levels, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from alignrank.boxes import at_least_float32


def grid_points(maps: Sequence[Tensor], strides: Sequence[int], *, shift: float = 0.5) -> tuple[Tensor, Tensor]:
    """Points [A,2] (x,y) and strides [A,1] of all cells in input pixels, float32. shift: of a point in its cell, in
    strides; 0.5 is the middle, 0 the left upper corner.
    """
    points, all_strides = [], []
    for x, stride in zip(maps, strides, strict=True):
        height, width = x.shape[-2:]
        columns = (torch.arange(width, device=x.device, dtype=torch.float32) + shift) * stride
        rows = (torch.arange(height, device=x.device, dtype=torch.float32) + shift) * stride
        grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
        points.append(grid.reshape(-1, 2))
        all_strides.append(torch.full((height * width, 1), float(stride), device=x.device))
    return torch.cat(points), torch.cat(all_strides)


def cell_rows(maps: Sequence[Tensor]) -> Tensor:
    """L maps [B,D,H,W] -> [B,A,D], at least float32."""
    return torch.cat([at_least_float32(x.flatten(2).transpose(1, 2)) for x in maps], 1)


def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """[B,D,H,W] -> [B,D,h,w], the size of `fine` [B,_,h,w], by nearest neighbours.

    From a level to the next finer one that is a factor of two. A constant factor, unlike a size, lets ONNX Runtime stay
    in its blocked layout.
    """
    if coarse.shape[-2:] == fine.shape[-2:]:
        return coarse
    if (2 * coarse.shape[-2], 2 * coarse.shape[-1]) == (fine.shape[-2], fine.shape[-1]):
        return interpolate(coarse, scale_factor=2.0)
    return interpolate(coarse, fine.shape[-2:])
