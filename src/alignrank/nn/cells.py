"""Chosen cells: what is around them on their maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def patches_at(maps: Sequence[Tensor], cells: Tensor) -> tuple[Tensor, Tensor]:
    """L maps [B,D,H,W], cells [B,K] int64 of all levels one after the other, as `cell_rows` has them -> [B,K,9D], the
    3x3 cells around each (by row, column and channel; 0 outside of its map), and its level [B,K,1].

    Rows of D numbers are copied, which runtimes do fast; gathering them channel by channel is not.
    """
    corners, levels, begin = [], [], 0
    for level, x in enumerate(maps):
        height, width = x.shape[-2:]
        corners.append(begin + _counted(height, width, width + 2, x)[:, None] + _counted(3, 3, width + 2, x))
        levels.append(torch.full((height * width, 1), level, device=x.device))
        begin += (height + 2) * (width + 2)
    rows = torch.cat([pad(x, (1, 1, 1, 1)).flatten(2).transpose(1, 2) for x in maps], 1)  # [B,A',D], with a margin
    images = torch.arange(cells.shape[0], device=cells.device)[:, None, None]
    patches = rows.flatten(0, 1)[torch.cat(corners)[cells] + begin * images]
    return patches.flatten(2), torch.cat(levels)[cells]


def _counted(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Places [height * width] of cells in rows that are `stride` long."""
    rows, columns = (torch.arange(side, device=like.device) for side in (height, width))
    return (stride * rows[:, None] + columns).flatten()
