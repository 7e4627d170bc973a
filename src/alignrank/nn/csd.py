"""Cross-scale sparse sampling (CSD of YOLO-AlignRank): a cell looks at a few learned points of adjacent levels.

Source: Li & Liu 2025, YOLO-AlignRank ("a small set of learnable offsets samples key points from adjacent pyramid
levels"); only the abstract is public. Weights and offsets are Deformable DETR's (Zhu et al. 2021, eq. 3): offsets in
cells of the sampled level, weights a softmax over points and levels.

Two forms. `dense` changes the feature of every cell. `topk` samples for chosen cells only, around the box that each has
predicted: an eighth of the time at 640 px, and the points can go to the edges, which say how well the box fits.

Shape letters: B images, L levels, N cells (or chosen cells), G groups, K points, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, silu

from alignrank.boxes import at_least_float32, outside_autocast
from alignrank.nn.conv import ConvNormAct, depthwise

MAX_OFFSET = 8.0  # cells
OFFSET_RATE = 0.1  # of the learning rate, as Deformable DETR
OUT_OF_REACH = -1e4  # before a softmax; -inf would give NaN gradients


def sampling_grid(reference: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """reference [...,2] in -1..1 and offsets [...,2] (x,y) in cells of a map of `size` (height, width) -> [...,2]."""
    height, width = size
    return reference + offsets * (2 / offsets.new_tensor([width, height]))


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """[H*W,2] (x,y) of a map's cells in -1..1, -1 and 1 being the map's edges, float32."""
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width * 2 - 1
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height * 2 - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(-1, 2)


def weighted_samples(value: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """value [B,D,H,W], grid [B,N,G,K,2] in -1..1, weights [B,N,G,K] -> [B,D,N]: each group sums its points.

    Bilinear; outside of the map there are zeros. Coordinates stay float32 also under autocast: half precision would
    move a point by a twentieth of a cell.
    """
    num_images, num_cells, groups, points, _ = grid.shape
    with outside_autocast(value):
        flat_grid = grid.transpose(1, 2).reshape(num_images * groups, num_cells, points, 2)
        flat_value = at_least_float32(value).reshape(num_images * groups, -1, *value.shape[-2:])
        sampled = grid_sample(flat_value, flat_grid.to(flat_value.dtype), align_corners=False)  # [B*G,D/G,N,K]
        flat_weights = weights.transpose(1, 2).reshape(num_images * groups, 1, num_cells, points)
        return (sampled * flat_weights).sum(-1).reshape(num_images, -1, num_cells)


def ring(groups: int, levels: int, points: int) -> Tensor:
    """[G,L,K,2] offsets on the unit circle, turned from group to group.

    With a common value projection, points that start in one place would get the same gradient for ever.
    """
    angle = torch.arange(points) / points + torch.arange(groups)[:, None] / (groups * points)
    direction = torch.stack([angle.mul(2 * math.pi).cos(), angle.mul(2 * math.pi).sin()], -1)  # [G,K,2]
    return direction[:, None].expand(groups, levels, points, 2)


class SamplingPlan(nn.Module):
    """Features [...,D] -> x and y offsets [...,G,L,K] and weights [...,G,L,K] (softmax over levels and points)."""

    def __init__(self, width: int, groups: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (groups, levels, points)
        count = groups * levels * points
        self.offsets = nn.Linear(width, 2 * count)  # all x, then all y
        self.offsets.lr_factor = OFFSET_RATE  # type: ignore[assignment]
        self.weights = nn.Linear(width, count)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(ring(groups, levels, points).movedim(-1, 0).flatten())

    def forward(self, features: Tensor, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """bias [...,G*L*K] is added to the weights before the softmax; very negative where a level is out of reach."""
        with outside_autocast(features):
            features = at_least_float32(features)
            x, y = self.offsets(features).clamp(-MAX_OFFSET, MAX_OFFSET).chunk(2, -1)
            scores = (self.weights(features) + bias).unflatten(-1, (self.shape[0], -1))
            weights = scores.softmax(-1).unflatten(-1, self.shape[1:])
        return x.unflatten(-1, self.shape), y.unflatten(-1, self.shape), weights


class CrossScaleSampling(nn.Module):
    """Maps with `channels` -> maps of the same shapes (`dense`), or features of chosen cells (`topk`).

    width: channels D of the common value maps; maps with that many channels are taken as they are, others reduced.
    points: K sampled in a level by each of the `groups`. The dense form adds to its input through a projection that
    starts at zero, so it changes nothing at first.
    """

    far: Tensor  # [L, G*L*K], what keeps a cell from levels that are not adjacent to its own

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int,
        points: int = 4,
        groups: int = 4,
        form: Literal["dense", "topk"] = "dense",
    ) -> None:
        super().__init__()
        self.form = form
        self.enter = nn.ModuleList(nn.Identity() if c == width else ConvNormAct(c, width, act=False) for c in channels)
        levels = len(channels)
        self.output = nn.Linear(width, width)
        if form == "topk":
            # Cells of all levels in one list: the level is part of the query, the box the second.
            self.level = nn.Parameter(torch.zeros(levels, width))
            self.box = nn.Linear(4, width)
            self.plan = SamplingPlan(width, groups, levels, points)
            distance = (torch.arange(levels)[:, None] - torch.arange(levels)).abs()  # [own level, sampled level]
            far = torch.where(distance > 1, OUT_OF_REACH, 0.0)[:, None, :, None].expand(-1, groups, -1, points)
            self.register_buffer("far", far.reshape(levels, -1), persistent=False)
            return
        self.value = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in channels)
        self.query = nn.ModuleList(depthwise(width) for _ in channels)
        self.plans = nn.ModuleList(
            SamplingPlan(width, groups, len(neighbours(level, levels)), points) for level in range(levels)
        )
        self.exit = nn.ModuleList(nn.Conv2d(width, c, 1) for c in channels)
        for projection in self.exit:
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The dense form: L maps [B,C_l,H_l,W_l] -> the same shapes."""
        assert self.form == "dense", "the topk form is called by its cells: see of_cells"
        reduced = [enter(x) for enter, x in zip(self.enter, maps, strict=True)]
        values = [value(u) for value, u in zip(self.value, reduced, strict=True)]
        augmented = []
        for level, (u, x) in enumerate(zip(reduced, maps, strict=True)):
            query = self.query[level](u).flatten(2).transpose(1, 2)  # [B,N,D]
            x_offsets, y_offsets, weights = self.plans[level](query)  # [B,N,G,|N(l)|,K]
            offsets = torch.stack([x_offsets, y_offsets], -1)
            centres = cell_centres(u.shape[-2], u.shape[-1], device=u.device)[:, None, None]  # [N,1,1,2]
            sampled = torch.zeros((), device=u.device)
            for i, other in enumerate(neighbours(level, len(maps))):
                value = values[other]
                height, width = value.shape[-2:]
                grid = sampling_grid(centres, offsets[..., i, :, :], (height, width))
                sampled = sampled + weighted_samples(value, grid, weights[..., i, :])
            sampled = self.output(sampled.transpose(1, 2)).transpose(1, 2).reshape(u.shape)
            augmented.append(x + self.exit[level](u + sampled))
        return augmented

    def of_cells(self, maps: Sequence[Tensor], cells: Tensor, boxes: Tensor, strides: Sequence[int]) -> Tensor:
        """The topk form: cells [B,N] int64 (indices into all cells, level by level), boxes [B,N,4] px -> [B,N,D].

        An offset of 1 is half a side of the box away from the box's centre.
        """
        assert self.form == "topk", "the dense form is called with maps alone"
        values = [enter(x) for enter, x in zip(self.enter, maps, strict=True)]
        query, grid, weights = self.places(values, cells, boxes, strides)
        of_level = grid.chunk(len(values), 3)
        sampled = weighted_samples(values[0], of_level[0], weights[:, :, :, 0])
        for i in range(1, len(values)):
            sampled = sampled + weighted_samples(values[i], of_level[i], weights[:, :, :, i])
        with outside_autocast(sampled):
            augmented: Tensor = query + self.output(sampled.transpose(1, 2))
        return augmented

    def places(
        self, values: Sequence[Tensor], cells: Tensor, boxes: Tensor, strides: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What chosen cells ask, where they look and how much that counts: query [B,N,D], grid [B,N,G,L*K,2] in -1..1
        of the image, weights [B,N,G,L,K]; values: the entered maps. (Core ML has no tensors of six dimensions.)
        """
        tokens = features_at(torch.cat([v.flatten(2) for v in values], 2), cells)
        counts = torch.tensor([v.shape[-2] * v.shape[-1] for v in values], device=cells.device)
        level = (cells[..., None] >= counts.cumsum(0)).sum(-1)  # [B,N]
        with outside_autocast(tokens):
            image = boxes.new_tensor([values[0].shape[-1], values[0].shape[-2]]) * strides[0]
            left_top, right_bottom = boxes[..., :2], boxes[..., 2:]
            half = (right_bottom - left_top).clamp(min=1) / 2
            in_cells = half / boxes.new_tensor(strides)[level][..., None]
            query = tokens + self.level[level] + self.box(torch.cat([in_cells, in_cells.log()], -1))
            x, y, weights = self.plan(silu(query), self.far[level])  # [B,N,G,L,K] each
            # In fractions of the image (-1..1) a place is the same on all levels.
            centre, reach = ((left_top + right_bottom) / image - 1)[..., None, None], half * (2 / image)
            reach, x, y = reach[..., None, None], x.flatten(3), y.flatten(3)
            grid = torch.stack([centre[:, :, 0] + x * reach[:, :, 0], centre[:, :, 1] + y * reach[:, :, 1]], -1)
        return query, grid, weights


def features_at(columns: Tensor, cells: Tensor) -> Tensor:
    """columns [B,D,A], cells [B,K] int64 -> [B,K,D], at least float32. Turned round when only K are left: cheap."""
    picked = columns.gather(2, cells[:, None].expand(-1, columns.shape[1], -1))
    return at_least_float32(picked).transpose(1, 2)


def neighbours(level: int, levels: int) -> range:
    """The adjacent levels and the level itself; at the ends there is one less."""
    return range(max(level - 1, 0), min(level + 1, levels - 1) + 1)
