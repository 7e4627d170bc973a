"""Cross-stage-partial blocks and the backbone made of them (YOLOv8, and YOLOv10's cheaper parts).

Sources: Wang et al. 2020 (CSPNet); Jocher et al. 2023 (YOLOv8, the published table of widths, depths and
blocks); Wang et al. 2024 (YOLOv10, sections 3.2-3.3: compact inverted block, spatial-channel decoupled
downsampling, large kernels, partial self-attention).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignrank.nn.conv import ConvNormAct, LargeKernelDepthwise, depthwise


@dataclass(frozen=True, slots=True)
class Scale:
    """Compound scaling of one size: block repeats and channels are multiplied, channels capped before."""

    depth: float
    width: float
    max_channels: int

    def channels(self, base: int) -> int:
        """Scaled channel count, a multiple of 8."""
        return math.ceil(min(base, self.max_channels) * self.width / 8) * 8

    def repeats(self, base: int) -> int:
        """Scaled number of blocks, at least 1."""
        return max(round(base * self.depth), 1)


SCALES = {
    # "t" is not a published size: it is for tests and demonstrations.
    "t": Scale(0.33, 0.125, 256),
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.50, 1024),
    "m": Scale(0.67, 0.75, 768),
    "l": Scale(1.00, 1.00, 512),
}


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with half the channels between them if `narrow`, with a shortcut if asked; `pointwise`: the
    first one is 1x1 (YOLOv5).
    """

    def __init__(self, channels: int, *, shortcut: bool, narrow: bool = False, pointwise: bool = False) -> None:
        super().__init__()
        hidden = channels // 2 if narrow else channels
        self.first = ConvNormAct(channels, hidden, 1 if pointwise else 3)
        self.second = ConvNormAct(hidden, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return x + y if self.shortcut else y


class CompactInvertedBlock(nn.Module):
    """Depthwise, expand, depthwise (7x7 with `large_kernel`), reduce, depthwise (YOLOv10, figure 3b)."""

    def __init__(self, channels: int, *, shortcut: bool, large_kernel: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            depthwise(channels),
            ConvNormAct(channels, 2 * channels),
            LargeKernelDepthwise(2 * channels) if large_kernel else depthwise(2 * channels),
            ConvNormAct(2 * channels, channels),
            depthwise(channels),
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class CSPBlock(nn.Module):
    """Split the channels in two, run one half through a chain of blocks, join every intermediate result.

    hidden: channels of a half; half of `out_channels` where it is not given. Split, each half has a convolution of its
    own at the entry: a slice of channels would take ONNX Runtime's maps out of their blocked layout and back.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int,
        block: Callable[[int], nn.Module],
        *,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden or out_channels // 2
        self.enter = ConvNormAct(in_channels, 2 * self.hidden)
        self.blocks = nn.ModuleList(block(self.hidden) for _ in range(repeats))
        self.join = ConvNormAct((2 + repeats) * self.hidden, out_channels)
        self.enter_chain: ConvNormAct | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.enter_chain is None:
            return self.after_enter(self.enter(x))
        last = self.enter_chain(x)
        return self._joined([self.enter(x), last], last)

    def after_enter(self, entered: Tensor) -> Tensor:
        """All but the first convolution."""
        return self._joined([entered], entered[:, self.hidden :])

    def _joined(self, parts: list[Tensor], last: Tensor) -> Tensor:
        for block in self.blocks:
            last = block(last)
            parts.append(last)
        y: Tensor = self.join(torch.cat(parts, 1))
        return y

    def split(self) -> None:
        """Split the first convolution (evaluation only)."""
        if self.enter_chain is None:
            self.enter, self.enter_chain = self.enter.halves()


class PartialChain(nn.Module):
    """Split the channels in two, run one half through a chain of blocks, join its end with the other half (CSPNet; C3).

    The two 1x1 convolutions at the entry are one here, which is the same, until it is split as a CSPBlock's.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.enter = ConvNormAct(in_channels, 2 * hidden)
        self.blocks = nn.Sequential(*(block(hidden) for _ in range(repeats)))
        self.join = ConvNormAct(2 * hidden, out_channels)
        self.enter_kept: ConvNormAct | None = None

    def forward(self, x: Tensor) -> Tensor:
        chained, kept = self.enter(x).chunk(2, 1) if self.enter_kept is None else (self.enter(x), self.enter_kept(x))
        y: Tensor = self.join(torch.cat([self.blocks(chained), kept], 1))
        return y

    def split(self) -> None:
        """Split the first convolution (evaluation only)."""
        if self.enter_kept is None:
            self.enter, self.enter_kept = self.enter.halves()


def split_entries(model: nn.Module) -> nn.Module:
    """Split the first convolution of every block of `model`, in place, for inference. Same output, fewer operations."""
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, CSPBlock | PartialChain):
            module.split()
    return model


def csp_block(
    in_channels: int,
    out_channels: int,
    repeats: int,
    *,
    shortcut: bool,
    compact: bool = False,
    large_kernel: bool = False,
    narrow: bool = False,
) -> CSPBlock:
    """A CSP block of plain bottlenecks, or of compact inverted blocks (which always keep their shortcut)."""
    if compact:
        return CSPBlock(
            in_channels,
            out_channels,
            repeats,
            lambda channels: CompactInvertedBlock(channels, shortcut=True, large_kernel=large_kernel),
        )
    return CSPBlock(
        in_channels, out_channels, repeats, lambda channels: Bottleneck(channels, shortcut=shortcut, narrow=narrow)
    )


class PyramidPooling(nn.Module):
    """Three chained 5x5 max-poolings joined with their input: receptive fields 5, 9, 13 at little cost (SPPF)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.enter = ConvNormAct(in_channels, hidden)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = ConvNormAct(4 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        y: Tensor = self.join(torch.cat(parts, 1))
        return y


class SelfAttention(nn.Module):
    """Multi-head attention over all cells of a map; keys have half the width of values; depthwise position code."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.value_dim = channels // heads
        self.key_dim = self.value_dim // 2
        self.qkv = ConvNormAct(channels, channels + 2 * heads * self.key_dim, act=False)
        self.position = depthwise(channels, act=False)
        self.output = ConvNormAct(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        num_images, channels, height, width = x.shape
        qkv = self.qkv(x).reshape(num_images, self.heads, -1, height * width)
        query, key, value = qkv.split([self.key_dim, self.key_dim, self.value_dim], 2)
        weight = (query.transpose(-2, -1) @ key * self.key_dim**-0.5).softmax(-1)
        y = (value @ weight.transpose(-2, -1)).reshape(num_images, channels, height, width)
        attended: Tensor = self.output(y + self.position(value.reshape(num_images, channels, height, width)))
        return attended


class PartialSelfAttention(nn.Module):
    """Attention and a feed-forward on half of the channels (YOLOv10, figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvNormAct(channels, 2 * half)
        self.attention = SelfAttention(half, max(half // 64, 1))
        self.feed_forward = nn.Sequential(ConvNormAct(half, 2 * half), ConvNormAct(2 * half, half, act=False))
        self.join = ConvNormAct(2 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.enter(x).chunk(2, 1)
        attended = attended + self.attention(attended)
        attended = attended + self.feed_forward(attended)
        y: Tensor = self.join(torch.cat([kept, attended], 1))
        return y


def downsample(in_channels: int, out_channels: int, *, decoupled: bool) -> nn.Module:
    """Halve the map: one strided 3x3, or channels first and space after by a depthwise 3x3 (YOLOv10, 3.2)."""
    if decoupled:
        return nn.Sequential(ConvNormAct(in_channels, out_channels), depthwise(out_channels, 3, 2, act=False))
    return ConvNormAct(in_channels, out_channels, 3, 2)


class CSPBackbone(nn.Module):
    """images [B,3,H,W] -> maps of strides 8, 16, 32.

    decoupled: downsampling to strides 16 and 32 as in YOLOv10. compact_last: compact inverted blocks with
    large kernels in the last stage. attention: partial self-attention on the last map. light: narrow bottlenecks
    at stride 8.
    """

    def __init__(
        self,
        scale: Scale,
        *,
        decoupled: bool = False,
        compact_last: bool = False,
        attention: bool = False,
        light: bool = False,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        few, many = scale.repeats(3), scale.repeats(6)
        self.channels = (c3, c4, c5)
        self.stem = ConvNormAct(3, c1, 3, 2)
        self.stage2 = nn.Sequential(ConvNormAct(c1, c2, 3, 2), csp_block(c2, c2, few, shortcut=True))
        self.stage3 = nn.Sequential(ConvNormAct(c2, c3, 3, 2), csp_block(c3, c3, many, shortcut=True, narrow=light))
        self.stage4 = nn.Sequential(downsample(c3, c4, decoupled=decoupled), csp_block(c4, c4, many, shortcut=True))
        self.stage5 = nn.Sequential(
            downsample(c4, c5, decoupled=decoupled),
            csp_block(c5, c5, few, shortcut=True, compact=compact_last, large_kernel=True),
            PyramidPooling(c5, c5),
            PartialSelfAttention(c5) if attention else nn.Identity(),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        return [p3, p4, self.stage5(p4)]
