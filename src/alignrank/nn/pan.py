"""Path aggregation neck (Liu et al. 2018) of CSP blocks, as YOLOv8 and YOLOv10 lay it out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from alignrank.nn.conv import ConvNormAct
from alignrank.nn.csp import Scale, csp_block, downsample


class PAN(nn.Module):
    """Maps of strides 8, 16, 32 with `in_channels` -> maps of the same strides with `self.channels`.

    decoupled: downsampling to stride 32 as in YOLOv10. compact_last: its last block is compact with large kernels.
    """

    def __init__(
        self, in_channels: Sequence[int], scale: Scale, *, decoupled: bool = False, compact_last: bool = False
    ) -> None:
        super().__init__()
        i3, i4, i5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (256, 512, 1024))
        repeats = scale.repeats(3)
        self.channels = (c3, c4, c5)
        self.top_down4 = csp_block(i5 + i4, c4, repeats, shortcut=False)
        self.top_down3 = csp_block(c4 + i3, c3, repeats, shortcut=False)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = csp_block(c3 + c4, c4, repeats, shortcut=False)
        self.down4 = downsample(c4, c4, decoupled=decoupled)
        self.bottom_up5 = csp_block(c4 + i5, c5, repeats, shortcut=False, compact=compact_last, large_kernel=True)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = maps
        t4 = self.top_down4(torch.cat([interpolate(p5, p4.shape[-2:]), p4], 1))
        t3 = self.top_down3(torch.cat([interpolate(t4, p3.shape[-2:]), p3], 1))
        b4 = self.bottom_up4(torch.cat([self.down3(t3), t4], 1))
        b5 = self.bottom_up5(torch.cat([self.down4(b4), p5], 1))
        return [t3, b4, b5]
