"""YOLOv12's backbone and neck: attention within areas of a map, in blocks that join all that they compute.

Source: Tian, Ye & Doermann 2025 (YOLOv12, sections 3.2 to 3.4 and its table of sizes). Where it attends, heads have 32
channels, and convolutions with norms take the place of linear layers.

Shape letters: B images, C channels, A areas, G heads, d channels of a head, n cells of an area.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from alignrank.nn.conv import ConvNormAct, depthwise
from alignrank.nn.csp import Bottleneck, CSPBlock, PartialChain, Scale
from alignrank.nn.fine import FINE
from alignrank.nn.grid import enlarged
from alignrank.nn.pan import modulated, top_down_fine

HEAD_DIM = 32
AREAS = 4
# What the large size's attention blocks add to their input is this small at first (section 3.3).
RESIDUAL = 0.01


@dataclass(frozen=True, slots=True)
class AttentionScale(Scale):
    """nested: chains within the convolutional blocks, instead of bottlenecks. feed_forward: its hidden width, in
    widths. residual: attention blocks are added to their input, scaled.
    """

    nested: bool = False
    feed_forward: float = 2.0
    residual: bool = False


SCALES = {
    "t": AttentionScale(0.50, 0.125, 256),  # for tests
    "n": AttentionScale(0.50, 0.25, 1024),
    "s": AttentionScale(0.50, 0.50, 1024),
    "m": AttentionScale(0.50, 1.00, 512, nested=True),
    "l": AttentionScale(1.00, 1.00, 512, nested=True, feed_forward=1.2, residual=True),
}


class AreaAttention(nn.Module):
    """[B,C,H,W] -> the same: each cell attends to those of its own area, of `areas` that follow each other row by row.

    Where their number divides H, an area is H/areas rows. Values bring a depthwise 7x7 code of positions of their own.
    """

    def __init__(self, channels: int, areas: int) -> None:
        super().__init__()
        self.areas = areas
        self.heads = max(channels // HEAD_DIM, 1)
        self.qkv = ConvNormAct(channels, 3 * channels, act=False)
        self.position = depthwise(channels, 7, act=False)
        self.output = ConvNormAct(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, 1)
        attended = scaled_dot_product_attention(self._in_areas(query), self._in_areas(key), self._in_areas(value))
        split = attended.unflatten(0, (-1, self.areas))  # [B,A,G,n,d]
        y = split.permute(0, 2, 4, 1, 3).flatten(3).flatten(1, 2).unflatten(2, x.shape[-2:])
        z: Tensor = self.output(y + self.position(value))
        return z

    def _in_areas(self, part: Tensor) -> Tensor:
        """[B,C,H,W] -> [B*A,G,n,d]: ONNX's attention has four dimensions."""
        split: Tensor = part.flatten(2).unflatten(2, (self.areas, -1)).unflatten(1, (self.heads, -1))  # [B,G,d,A,n]
        return split.permute(0, 3, 1, 4, 2).flatten(0, 1)


class AttentionBlock(nn.Module):
    """Attention and a feed-forward, each added to its input."""

    def __init__(self, channels: int, areas: int, feed_forward: float) -> None:
        super().__init__()
        hidden = int(channels * feed_forward)
        self.attention = AreaAttention(channels, areas)
        self.feed_forward = nn.Sequential(ConvNormAct(channels, hidden), ConvNormAct(hidden, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        y: Tensor = x + self.feed_forward(x)
        return y


class AggregationBlock(nn.Module):
    """Narrow the map to half of `out_channels`, run it through a chain of blocks, join every result (R-ELAN).

    residual: the input is added, which has as many channels then, and the rest begins small.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int,
        block: Callable[[int], nn.Module],
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.enter = ConvNormAct(in_channels, hidden)
        self.blocks = nn.ModuleList(block(hidden) for _ in range(repeats))
        self.join = ConvNormAct((1 + repeats) * hidden, out_channels)
        self.scale = nn.Parameter(torch.full((out_channels, 1, 1), RESIDUAL)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for block in self.blocks:
            parts.append(block(parts[-1]))
        y: Tensor = self.join(torch.cat(parts, 1))
        return y if self.scale is None else x + self.scale * y


def attention_blocks(channels: int, repeats: int, areas: int, scale: AttentionScale) -> AggregationBlock:
    """Each of two attention blocks."""

    def pair(hidden: int) -> nn.Module:
        return nn.Sequential(*(AttentionBlock(hidden, areas, scale.feed_forward) for _ in range(2)))

    return AggregationBlock(channels, channels, repeats, pair, residual=scale.residual)


def inner_chain(channels: int) -> PartialChain:
    """Two plain bottlenecks on one half of the channels (C3k)."""
    return PartialChain(channels, channels, 2, lambda hidden: Bottleneck(hidden, shortcut=True))


def convolution_blocks(
    in_channels: int, out_channels: int, repeats: int, *, nested: bool, hidden: int | None = None
) -> CSPBlock:
    """A C3k2 block: of narrow bottlenecks, or of chains."""
    if nested:
        return CSPBlock(in_channels, out_channels, repeats, inner_chain, hidden=hidden)
    return CSPBlock(
        in_channels,
        out_channels,
        repeats,
        lambda channels: Bottleneck(channels, shortcut=True, narrow=True),
        hidden=hidden,
    )


class YOLOv12Backbone(nn.Module):
    """images [B,3,H,W], sides multiples of 32 -> maps of strides 8, 16, 32 with `channels`.

    Attention in four areas at stride 16, over the whole map at stride 32.
    """

    def __init__(self, scale: AttentionScale) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        few, many = scale.repeats(2), scale.repeats(4)
        self.channels = (c4, c4, c5)
        self.stem = ConvNormAct(3, c1, 3, 2)
        self.stage2 = nn.Sequential(
            ConvNormAct(c1, c2, 3, 2), convolution_blocks(c2, c3, few, nested=scale.nested, hidden=c3 // 4)
        )
        self.stage3 = nn.Sequential(
            ConvNormAct(c3, c3, 3, 2), convolution_blocks(c3, c4, few, nested=scale.nested, hidden=c4 // 4)
        )
        self.stage4 = nn.Sequential(ConvNormAct(c4, c4, 3, 2), attention_blocks(c4, many, AREAS, scale))
        self.stage5 = nn.Sequential(ConvNormAct(c4, c5, 3, 2), attention_blocks(c5, many, 1, scale))

    def forward(self, images: Tensor) -> list[Tensor]:
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        return [p3, p4, self.stage5(p4)]


class YOLOv12Neck(nn.Module):
    """Maps of strides 8, 16, 32 -> maps of the same strides with `channels`: path aggregation, without attention."""

    def __init__(
        self, in_channels: Sequence[int], scale: AttentionScale, *, fine: Callable[..., FINE] | None = None
    ) -> None:
        super().__init__()
        i3, i4, i5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (256, 512, 1024))
        repeats = scale.repeats(2)
        self.channels = (c3, c4, c5)
        self.top_down4 = AggregationBlock(i5 + i4, c4, repeats, inner_chain)
        self.top_down3 = AggregationBlock(c4 + i3, c3, repeats, inner_chain)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = AggregationBlock(c3 + c4, c4, repeats, inner_chain)
        self.down4 = ConvNormAct(c4, c4, 3, 2)
        self.bottom_up5 = convolution_blocks(c4 + i5, c5, repeats, nested=True)
        self.fine4, self.fine3 = top_down_fine(fine, low=(i4, i3), high=(i5, c4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = maps
        t4 = self.top_down4(torch.cat([enlarged(p5, p4), modulated(self.fine4, p4, p5)], 1))
        t3 = self.top_down3(torch.cat([enlarged(t4, p3), modulated(self.fine3, p3, t4)], 1))
        b4 = self.bottom_up4(torch.cat([self.down3(t3), t4], 1))
        return [t3, b4, self.bottom_up5(torch.cat([self.down4(b4), p5], 1))]
