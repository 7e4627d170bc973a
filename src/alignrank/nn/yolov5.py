"""YOLOv5's backbone and neck (version 6).

Sources: Jocher et al. 2020 to 2022 (YOLOv5, the published table of widths, depths and blocks); Wang et al. 2020
(CSPNet); Liu et al. 2018 (path aggregation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alignrank.nn.conv import ConvNormAct
from alignrank.nn.csp import Bottleneck, PartialChain, PyramidPooling, Scale
from alignrank.nn.fine import FINE
from alignrank.nn.grid import enlarged
from alignrank.nn.pan import modulated, top_down_fine

SCALES = {
    "t": Scale(0.33, 0.125, 256),  # for tests
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.50, 1024),
    "m": Scale(0.67, 0.75, 1024),
    "l": Scale(1.00, 1.00, 1024),
}


def chain(in_channels: int, out_channels: int, repeats: int, *, shortcut: bool) -> PartialChain:
    """A C3 block: bottlenecks of a 1x1 and a 3x3 convolution."""
    return PartialChain(
        in_channels, out_channels, repeats, lambda channels: Bottleneck(channels, shortcut=shortcut, pointwise=True)
    )


class YOLOv5Backbone(nn.Module):
    """images [B,3,H,W] -> maps of strides 8, 16, 32 with `channels`."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        n2, n3, n4, n5 = (scale.repeats(base) for base in (3, 6, 9, 3))
        self.channels = (c3, c4, c5)
        self.stem = ConvNormAct(3, c1, 6, 2)
        self.stage2 = nn.Sequential(ConvNormAct(c1, c2, 3, 2), chain(c2, c2, n2, shortcut=True))
        self.stage3 = nn.Sequential(ConvNormAct(c2, c3, 3, 2), chain(c3, c3, n3, shortcut=True))
        self.stage4 = nn.Sequential(ConvNormAct(c3, c4, 3, 2), chain(c4, c4, n4, shortcut=True))
        self.stage5 = nn.Sequential(ConvNormAct(c4, c5, 3, 2), chain(c5, c5, n5, shortcut=True), PyramidPooling(c5, c5))

    def forward(self, images: Tensor) -> list[Tensor]:
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        return [p3, p4, self.stage5(p4)]


class YOLOv5Neck(nn.Module):
    """Maps of strides 8, 16, 32 -> maps of the same strides with `channels`.

    Unlike YOLOv8's, a coarse map gets the width of the finer one before it is enlarged, and the way up joins what was
    narrowed so. FINE sees the coarse map before.
    """

    def __init__(self, in_channels: Sequence[int], scale: Scale, *, fine: Callable[..., FINE] | None = None) -> None:
        super().__init__()
        i3, i4, i5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (256, 512, 1024))
        repeats = scale.repeats(3)
        self.channels = (c3, c4, c5)
        self.narrow5 = ConvNormAct(i5, c4)
        self.top_down4 = chain(c4 + i4, c4, repeats, shortcut=False)
        self.narrow4 = ConvNormAct(c4, c3)
        self.top_down3 = chain(c3 + i3, c3, repeats, shortcut=False)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = chain(2 * c3, c4, repeats, shortcut=False)
        self.down4 = ConvNormAct(c4, c4, 3, 2)
        self.bottom_up5 = chain(2 * c4, c5, repeats, shortcut=False)
        self.fine4, self.fine3 = top_down_fine(fine, low=(i4, i3), high=(i5, c4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = maps
        n5 = self.narrow5(p5)
        t4 = self.top_down4(torch.cat([enlarged(n5, p4), modulated(self.fine4, p4, p5)], 1))
        n4 = self.narrow4(t4)
        t3 = self.top_down3(torch.cat([enlarged(n4, p3), modulated(self.fine3, p3, t4)], 1))
        b4 = self.bottom_up4(torch.cat([self.down3(t3), n4], 1))
        return [t3, b4, self.bottom_up5(torch.cat([self.down4(b4), n5], 1))]
