"""Chosen cells: in which order they are chosen, and what is around them on their maps.

Shape letters: B images, A cells over all levels, K chosen ones, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

MARGIN = 0.1  # logits: a step from 0 to 1 would leave the choice between two equal cells to rounding


def best_class(logits: Tensor) -> Tensor:
    """logits [B,C,A] -> [B,A], the highest of the classes.

    In two steps where their number can be divided: of 80 classes ONNX Runtime takes a third of the time, because it
    shares the first among threads.
    """
    classes = logits.shape[1]
    parts = next((divisor for divisor in range(2, classes) if classes % divisor == 0), 0)
    return logits.unflatten(1, (parts, -1)).amax(2).amax(1) if parts else logits.amax(1)


def priorities(logits: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """logits [B,A], each cell's best class; maps: L of [B,D,H,W] -> [B,A] by which cells are chosen: a cell beside a
    better one comes later, by the sum of the scores (0..1) of the 3x3 cells around it.

    An object has high scores in as many cells as it covers. In the order of scores alone sixty objects fill 300 places
    with each other's neighbours, and some have none. Where there is room for all, it changes nothing.
    """
    best, around = [], []
    for x, level in zip(maps, logits.split([x.shape[-2] * x.shape[-1] for x in maps], 1), strict=True):
        of_cells = level.unflatten(1, x.shape[-2:])[:, None]
        best.append(max_pool2d(of_cells, 3, 1, 1).flatten(1))
        around.append(avg_pool2d(of_cells.sigmoid(), 3, 1, 1).flatten(1))
    beaten = ((torch.cat(best, 1) - logits) / MARGIN).clamp(max=1)
    return logits - beaten * 9 * torch.cat(around, 1)


def patches_at(maps: Sequence[Tensor], cells: Tensor) -> tuple[Tensor, Tensor]:
    """L maps [B,D,H,W], cells [B,K] int64 of all levels one after the other, as `cell_rows` has them -> [B,K,9D], the
    3x3 cells around each (by row, column and channel; 0 outside of its map), and its level [B,K,1].

    Rows of D numbers are copied, which runtimes do fast; gathering them channel by channel is not. What is outside is
    one row of zeros, in place of a margin around each map.
    """
    outside = sum(x.shape[-2] * x.shape[-1] for x in maps)
    around, levels, begin = [], [], 0
    for level, x in enumerate(maps):
        height, width = x.shape[-2:]
        inside = torch.arange(begin, begin + height * width, device=x.device).view(height, width)
        places = pad(inside, (1, 1, 1, 1), value=outside).flatten()
        around.append(places[_counted(height, width, width + 2, x)[:, None] + _counted(3, 3, width + 2, x)])
        levels.append(torch.full((height * width, 1), level, device=x.device))
        begin += height * width
    inner = [x.flatten(2).transpose(1, 2) for x in maps]
    rows = torch.cat([*inner, torch.zeros_like(inner[0][:, :1])], 1)  # [B,A+1,D]
    images = torch.arange(cells.shape[0], device=cells.device)[:, None, None]
    patches = rows.flatten(0, 1)[torch.cat(around)[cells] + (outside + 1) * images]
    return patches.flatten(2), torch.cat(levels)[cells]


def _counted(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Places [height * width] of cells in rows that are `stride` long."""
    rows, columns = (torch.arange(side, device=like.device) for side in (height, width))
    return (stride * rows[:, None] + columns).flatten()
