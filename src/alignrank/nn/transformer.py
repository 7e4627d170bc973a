"""Parts of detection transformers: levels as one list of cells, positions, encoder and decoder layers, proposals.

Sources: Carion et al., DETR, ECCV 2020 (sine positions); Zhu et al., Deformable DETR, ICLR 2021 (deformable layers,
two stages, sections 4 and A.4). Layers normalise after the sum.

Coordinates are shares 0..1 of a picture's own content; a batch is padded on the right and below.
Shape letters: B images, L levels, S cells over all levels, Q queries, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils.checkpoint import checkpoint

from alignrank.boxes import at_least_float32
from alignrank.nn.deformable_attention import DeformableAttention

TEMPERATURE = 10_000.0
# Of the logarithms in `inverse_sigmoid`, as DINO and detrex have it (Deformable DETR: 1e-5): what touches the border
# still moves.
EPS = 1e-3
# A proposal of the finest level has sides of this share of the picture; each level doubles it.
PROPOSAL_SIDE = 0.05
# Proposals must lie in this range in all four coordinates.
PROPOSAL_RANGE = 0.01
# Its sigmoid is 1: where no proposal is, and finite, unlike the authors' infinity.
BEYOND = 1e4


def inverse_sigmoid(x: Tensor, eps: float = EPS) -> Tensor:
    """The logit of x, which is clamped to [eps, 1 - eps]."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


@dataclass(frozen=True, slots=True)
class Levels:
    """Where cells are. shapes: (h, w) of each map; valid [B,L,2]: share (x,y) of each map that is content; counts
    [B,L,2]: its cells (x,y); padding [B,S] bool: cells beyond the content, None where all are content.
    """

    shapes: list[tuple[int, int]]
    valid: Tensor
    counts: Tensor
    padding: Tensor | None

    @classmethod
    def of(cls, maps: Sequence[Tensor], images: Tensor, sizes: Tensor | None) -> Levels:
        """maps [B,D,h,w] of images [B,3,H,W]; sizes [B,2]: (height, width) px of the content, None: all of it.

        A cell is content where the pixel at its left upper corner is.
        """
        batch = maps[0].shape[0]
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        whole = torch.tensor([(w, h) for h, w in shapes], device=images.device, dtype=torch.float32)  # [L,2]
        if sizes is None:
            return cls(
                shapes, torch.ones(batch, len(shapes), 2, device=images.device), whole.expand(batch, -1, -1), None
            )
        counts, padding = [], []
        for height, width in shapes:
            rows = (torch.arange(height, device=images.device) * (images.shape[-2] / height)).floor() >= sizes[:, :1]
            columns = (torch.arange(width, device=images.device) * (images.shape[-1] / width)).floor() >= sizes[:, 1:]
            padding.append((rows[:, :, None] | columns[:, None]).flatten(1))
            counts.append(torch.stack([(~columns).sum(1), (~rows).sum(1)], -1))
        count = torch.stack(counts, 1).float()
        return cls(shapes, count / whole, count, torch.cat(padding, 1))

    def centres(self) -> Tensor:
        """[B,S,2] (x,y) of all cells, 0..1 of the content (more beyond it)."""
        return torch.cat([self._grid(level) / self.counts[:, level, None] for level in range(len(self.shapes))], 1)

    def _grid(self, level: int) -> Tensor:
        """[1,cells,2] (x,y) in cells."""
        height, width = self.shapes[level]
        rows = torch.arange(height, device=self.valid.device, dtype=torch.float32) + 0.5
        columns = torch.arange(width, device=self.valid.device, dtype=torch.float32) + 0.5
        return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1).reshape(1, -1, 2)

    def positions(self, width: int) -> Tensor:
        """[B,S,width] sine positions of all cells, y's channels before x's (Carion et al. 2020, section A.4)."""
        return sine_encoding(self.centres().flip(-1), width // 2)

    def per_level(self, boxes: Tensor) -> Tensor:
        """[B,Q,2 or 4] shares of the content -> [B,Q,L,2 or 4] shares of each level's map."""
        return boxes[:, :, None] * self.valid.repeat(1, 1, boxes.shape[-1] // 2)[:, None]

    def proposals(self) -> tuple[Tensor, Tensor]:
        """One box a cell: logits [B,S,4] of (cx,cy,w,h), BEYOND where there is none, and a mask [B,S,1] of these."""
        sides = [
            torch.full((height * width, 2), PROPOSAL_SIDE * 2.0**level, device=self.valid.device)
            for level, (height, width) in enumerate(self.shapes)
        ]
        centres = self.centres()
        boxes = torch.cat([centres, torch.cat(sides).expand(centres.shape[0], -1, -1)], -1)
        absent = ((boxes <= PROPOSAL_RANGE) | (boxes >= 1 - PROPOSAL_RANGE)).any(-1, keepdim=True)
        if self.padding is not None:
            absent = absent | self.padding[..., None]
        inside = boxes.clamp(PROPOSAL_RANGE / 2, 1 - PROPOSAL_RANGE / 2)
        return (inside / (1 - inside)).log().masked_fill(absent, BEYOND), absent


def sine_encoding(shares: Tensor, channels: int) -> Tensor:
    """shares [B,N,K] in 0..1 -> [B,N,K*channels]: sines and cosines of 2*pi*share, in turns, of falling frequency."""
    index = torch.arange(channels, device=shares.device) // 2 * 2
    frequency = 2 * math.pi / TEMPERATURE ** (index / channels)
    angles = at_least_float32(shares)[..., None] * frequency
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(2)


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, of the given sizes."""

    def __init__(self, *sizes: int) -> None:
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        super().__init__(*layers[:-1])


class FeedForward(nn.Module):
    """Two linear layers, the sum, the norm."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        added = self.outer(self.dropout(relu(self.inner(x))))
        normed: Tensor = self.norm(x + self.dropout(added))
        return normed


class EncoderLayer(nn.Module):
    """Every cell looks at a few points of all levels."""

    def __init__(self, width: int, attention: DeformableAttention, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, hidden, dropout)

    def forward(self, cells: Tensor, positions: Tensor, references: Tensor, levels: Levels) -> Tensor:
        """cells, positions [B,S,D], references [B,S,L,2] -> [B,S,D]."""
        attended = self.attention(cells + positions, references, cells, levels.shapes, levels.padding)
        refined: Tensor = self.feed_forward(self.norm(cells + self.dropout(attended)))
        return refined


@dataclass(frozen=True, slots=True)
class Sight:
    """Which queries see each other: those of a part, one after another of `parts` queries, but not pairs that are
    `blocked` [Q,Q] bool, for which there is one part. Parts cost less than a mask that says the same.
    """

    parts: tuple[int, ...]
    blocked: Tensor | None = None


class DecoderLayer(nn.Module):
    """Queries look at each other, then at a few points of all levels."""

    def __init__(
        self, width: int, attention: DeformableAttention, heads: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.attention = attention
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, hidden, dropout)

    def forward(
        self, x: Tensor, positions: Tensor, references: Tensor, cells: Tensor, levels: Levels, sight: Sight
    ) -> Tensor:
        """x, positions [B,Q,D], references [B,Q,L,4], cells [B,S,D] -> [B,Q,D]."""
        attended = [
            self.self_attention(looking, looking, part, attn_mask=sight.blocked, need_weights=False)[0]
            for looking, part in zip((x + positions).split(sight.parts, 1), x.split(sight.parts, 1), strict=True)
        ]
        x = self.self_norm(x + self.dropout(torch.cat(attended, 1)))
        seen = self.attention(x + positions, references, cells, levels.shapes, levels.padding)
        refined: Tensor = self.feed_forward(self.norm(x + self.dropout(seen)))
        return refined


def checkpointed(module: Callable[..., Tensor], *inputs: Any, wanted: bool) -> Tensor:
    """module(*inputs); where wanted and gradients flow, its activations are computed again instead of kept."""
    if wanted and torch.is_grad_enabled():
        again: Tensor = checkpoint(module, *inputs, use_reentrant=False)
        return again
    return module(*inputs)
