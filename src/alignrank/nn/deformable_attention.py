"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, eq. 3) over `grid_sample`.

A query looks at a few points of every level, around its own place; a point is read bilinearly, with zeros around the
map. Positions are computed in at least float32, also under autocast: half a pixel is a sixteenth of a cell.

Shape letters: B images, Q queries, S cells over all levels, L levels, H heads, P points a level, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from alignrank.boxes import at_least_float32, outside_autocast

Shapes = Sequence[tuple[int, int]]
# Of the rate of everything else: a step moves all points of a head at once (section A.4 of the paper).
OFFSETS_LR = 0.1


def multi_scale_deformable_attention(
    value: Tensor, spatial_shapes: Tensor | Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """value [B,S,H,D], spatial_shapes [L,2] (h,w), sampling_locations [B,Q,H,L,P,2] (x,y) in 0..1 from edge to edge,
    attention_weights [B,Q,H,L,P] -> [B,Q,H*D], at least float32.
    """
    shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    with outside_autocast(value):
        value = at_least_float32(value)
        # Queries last: sums over the few points are several times as fast that way.
        places = 2 * sampling_locations.to(value.dtype).permute(0, 2, 3, 4, 1, 5).flatten(0, 1) - 1  # [B*H,L,P,Q,2]
        weights = attention_weights.to(value.dtype).permute(0, 2, 3, 4, 1).flatten(0, 1)  # [B*H,L,P,Q]
        columns = value.flatten(2).transpose(1, 2).unflatten(1, (value.shape[2], -1)).flatten(0, 1)  # [B*H,D,S]
        read: list[Tensor] = []
        maps = columns.split([height * width for height, width in shapes], -1)
        for level, (cells, shape) in enumerate(zip(maps, shapes, strict=True)):
            samples = grid_sample(cells.unflatten(-1, tuple(shape)), places[:, level], align_corners=False)
            read.append((samples * weights[:, None, level]).sum(2))  # [B*H,D,Q]
        heads = torch.stack(read).sum(0).unflatten(0, (value.shape[0], -1))  # [B,H,D,Q]
        attended: Tensor = heads.flatten(1, 2).transpose(1, 2)
        return attended


class DeformableAttention(nn.Module):
    """The module around it: values, offsets and weights from linear layers of the queries, an output layer.

    At first a head's points lie on a ray of its own, one cell apart, and all weigh the same.
    """

    def __init__(self, width: int, *, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.offsets.lr_factor = OFFSETS_LR  # type: ignore[assignment]
        self.initialize()

    def initialize(self) -> None:
        """Weights as the authors begin with."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)[:, None]
        bias = (ray[:, None, None] * distance).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            for layer in (self.offsets, self.weights, self.value, self.output):
                layer.bias.zero_()
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(bias.flatten())
            self.weights.weight.zero_()
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(
        self, queries: Tensor, references: Tensor, cells: Tensor, shapes: Shapes, padding: Tensor | None = None
    ) -> Tensor:
        """queries [B,Q,width], their positions added; references [B,Q,L,2] (x,y) or [B,Q,L,4] (cx,cy,w,h), 0..1 of each
        level's map; cells [B,S,width]; padding [B,S] bool, True where there is no picture -> [B,Q,width].

        Offsets are cells around a point, and halves of the box's sides over the number of points around a box.
        """
        value = self.value(cells)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        form = (self.heads, self.levels, self.points)
        offsets = at_least_float32(self.offsets(queries)).unflatten(-1, (*form, 2))
        weights = at_least_float32(self.weights(queries)).unflatten(-1, (self.heads, -1)).softmax(-1)
        references = at_least_float32(references)[:, :, None, :, None]  # [B,Q,1,L,1,2 or 4]
        if references.shape[-1] == 4:
            unit = references[..., 2:] * (0.5 / self.points)
        else:
            unit = 1 / references.new_tensor([(width, height) for height, width in shapes])[:, None]
        read = multi_scale_deformable_attention(
            value.unflatten(-1, (self.heads, -1)),
            shapes,
            references[..., :2] + offsets * unit,
            weights.unflatten(-1, form[1:]),
        )
        attended: Tensor = self.output(read.to(value.dtype))
        return attended
