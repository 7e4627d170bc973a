"""YOLOv6's backbone and neck (version 3, the small sizes): convolutions of several branches that fold into one.

Sources: Li et al. 2022 (YOLOv6: EfficientRep, Rep-PAN); Li et al. 2023 (YOLOv6 v3.0: BiC, SimCSPSPPF); Ding et al. 2021
(RepVGG, section 3). Sizes n and s; m and l are built of other blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alignrank.nn.conv import BN_EPS, BN_MOMENTUM, ConvNormAct
from alignrank.nn.csp import Scale
from alignrank.nn.fine import FINE
from alignrank.nn.pan import modulated, top_down_fine

SCALES = {
    "t": Scale(0.33, 0.125, 256),  # for tests
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.50, 1024),
}


class RepConv(nn.Module):
    """[B,C,H,W] -> [B,D,H/stride,W/stride]: a 3x3 convolution, a 1x1 one and, where shapes allow, the map itself, each
    with a norm, are added and rectified. One 3x3 convolution when folded.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.dense = ConvNormAct(in_channels, out_channels, 3, stride, act=False)
        self.pointwise: ConvNormAct | None = ConvNormAct(in_channels, out_channels, 1, stride, act=False)
        self.identity: nn.BatchNorm2d | None = (
            nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
            if in_channels == out_channels and stride == 1
            else None
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x)
        if self.pointwise is not None:
            y = y + self.pointwise(x)
        if self.identity is not None:
            y = y + self.identity(x)
        rectified: Tensor = self.act(y)
        return rectified

    def fold(self) -> None:
        """Add the other branches to the middle of the 3x3 kernels."""
        if self.pointwise is None:
            return
        self.dense.fold()
        self.pointwise.fold()
        dense, pointwise = self.dense.conv, self.pointwise.conv
        assert dense.bias is not None
        assert pointwise.bias is not None
        with torch.no_grad():
            dense.weight[:, :, 1, 1] += pointwise.weight[:, :, 0, 0]
            dense.bias += pointwise.bias
            if (norm := self.identity) is not None:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
                dense.weight[:, :, 1, 1] += factor.diag()
                dense.bias += norm.bias - norm.running_mean * factor
        self.pointwise = self.identity = None


def rep_chain(in_channels: int, out_channels: int, repeats: int) -> nn.Sequential:
    """A RepBlock: so many in a row, the first of which changes the width."""
    first = RepConv(in_channels, out_channels)
    return nn.Sequential(first, *(RepConv(out_channels, out_channels) for _ in range(repeats - 1)))


def rectified_conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> ConvNormAct:
    """Convolution, norm and ReLU."""
    layer = ConvNormAct(in_channels, out_channels, kernel, stride)
    layer.act = nn.ReLU(inplace=True)
    return layer


class PartialPooling(nn.Module):
    """Pyramid pooling on one of two branches, between convolutions (SimCSPSPPF)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.keep = rectified_conv(in_channels, hidden)
        self.enter = nn.Sequential(
            rectified_conv(in_channels, hidden), rectified_conv(hidden, hidden, 3), rectified_conv(hidden, hidden)
        )
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = nn.Sequential(rectified_conv(4 * hidden, hidden), rectified_conv(hidden, hidden, 3))
        self.join = rectified_conv(2 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        y: Tensor = self.join(torch.cat([self.keep(x), self.leave(torch.cat(parts, 1))], 1))
        return y


class YOLOv6Backbone(nn.Module):
    """images [B,3,H,W] -> maps of strides 4, 8, 16, 32 with `channels` (EfficientRep)."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scale.channels(base) for base in (64, 128, 256, 512, 1024))
        n2, n3, n4, n5 = (scale.repeats(base) for base in (6, 12, 18, 6))
        self.channels = (c2, c3, c4, c5)
        self.stem = RepConv(3, c1, 2)
        self.stage2 = nn.Sequential(RepConv(c1, c2, 2), rep_chain(c2, c2, n2))
        self.stage3 = nn.Sequential(RepConv(c2, c3, 2), rep_chain(c3, c3, n3))
        self.stage4 = nn.Sequential(RepConv(c3, c4, 2), rep_chain(c4, c4, n4))
        self.stage5 = nn.Sequential(RepConv(c4, c5, 2), rep_chain(c5, c5, n5), PartialPooling(c5, c5))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stage2(self.stem(images))]
        for stage in (self.stage3, self.stage4, self.stage5):
            maps.append(stage(maps[-1]))
        return maps


class BidirectionalConcatenation(nn.Module):
    """Three neighbouring levels -> the middle one with `channels` (BiC).

    coarse [B,channels,H/2,W/2] is enlarged by a transposed convolution, middle [B,*,H,W] and fine [B,*,2H,2W] are
    narrowed, fine is then halved by a strided convolution, and the three are joined.
    """

    def __init__(self, middle_channels: int, fine_channels: int, channels: int) -> None:
        super().__init__()
        # A constant would vanish in the norm of `join`.
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, 2, bias=False)
        self.middle = rectified_conv(middle_channels, channels)
        self.fine = nn.Sequential(rectified_conv(fine_channels, channels), rectified_conv(channels, channels, 3, 2))
        self.join = rectified_conv(3 * channels, channels)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        y: Tensor = self.join(torch.cat([self.enlarge(coarse), self.middle(middle), self.fine(fine)], 1))
        return y


class YOLOv6Neck(nn.Module):
    """Maps of strides 4, 8, 16, 32 -> maps of strides 8, 16, 32 with `channels` (Rep-PAN with BiC).

    A coarse map is narrowed before it is enlarged, and the way up joins what was narrowed so. FINE sees the coarse map
    before, and modulates the middle map of each concatenation.
    """

    def __init__(self, in_channels: Sequence[int], scale: Scale, *, fine: Callable[..., FINE] | None = None) -> None:
        super().__init__()
        i2, i3, i4, i5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (128, 256, 512))
        repeats = scale.repeats(12)
        self.channels = (c3, c4, c5)
        self.narrow5 = rectified_conv(i5, c4)
        self.join4 = BidirectionalConcatenation(i4, i3, c4)
        self.top_down4 = rep_chain(c4, c4, repeats)
        self.narrow4 = rectified_conv(c4, c3)
        self.join3 = BidirectionalConcatenation(i3, i2, c3)
        self.top_down3 = rep_chain(c3, c3, repeats)
        self.down3 = rectified_conv(c3, c3, 3, 2)
        self.bottom_up4 = rep_chain(2 * c3, c4, repeats)
        self.down4 = rectified_conv(c4, c4, 3, 2)
        self.bottom_up5 = rep_chain(2 * c4, c5, repeats)
        self.fine4, self.fine3 = top_down_fine(fine, low=(i4, i3), high=(i5, c4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p2, p3, p4, p5 = maps
        n5 = self.narrow5(p5)
        t4 = self.top_down4(self.join4(n5, modulated(self.fine4, p4, p5), p3))
        n4 = self.narrow4(t4)
        t3 = self.top_down3(self.join3(n4, modulated(self.fine3, p3, t4), p2))
        b4 = self.bottom_up4(torch.cat([self.down3(t3), n4], 1))
        return [t3, b4, self.bottom_up5(torch.cat([self.down4(b4), n5], 1))]
