"""Gated bidirectional fusion of pyramid levels by dynamic convolution (the BCDM part of YOLO-AlignRank).

Sources: Li & Liu 2025, YOLO-AlignRank ("gated top-down and bottom-up feature fusion via lightweight dynamic
convolution"); only the abstract is public. The convolution is CondConv's (Yang et al. 2019): kernels mixed by a sigmoid
routing of the whole map.

Shape letters: B images, L levels, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from alignrank.nn.conv import ConvNormAct
from alignrank.nn.grid import enlarged

GATE_BIAS = -1.0  # sigmoid(-1) = .27: the other level begins as a quarter


class DynamicDepthwise(nn.Module):
    """Depthwise 3x3 whose kernel is a mixture of E experts, weighted for each image by what is in it.

    A convolution is linear in its kernel, so mixing the E results equals one convolution with the mixed kernel. This
    form, one plain convolution D -> E*D, needs no kernel that depends on the input and exports with any batch size.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.kernels = nn.Conv2d(width, width * experts, 3, padding=1, groups=width, bias=False)
        self.routing = nn.Linear(width, experts)
        nn.init.zeros_(self.routing.weight)  # the plain mean of the experts at first
        nn.init.zeros_(self.routing.bias)

    def forward(self, x: Tensor) -> Tensor:
        routing = self.routing(x.mean((2, 3))).sigmoid() * (2 / self.experts)  # [B,E]
        results = self.kernels(x).unflatten(1, (-1, self.experts))  # [B,D,E,H,W]
        mixed: Tensor = (results * routing[:, None, :, None, None]).sum(2)
        return mixed


class GatedFusion(nn.Module):
    """own + gate * conv(other): how much of the other level enters is decided for each cell and channel.

    The convolutions act on the coarser of the two grids: `other` is resized to the grid of `own` after them.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.dynamic = DynamicDepthwise(width, experts)
        self.project = ConvNormAct(width, width)
        self.gate_own = nn.Conv2d(width, 1, 1, bias=False)
        self.gate_other = nn.Conv2d(width, 1, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.full((width, 1, 1), GATE_BIAS))
        self.folded = False
        nn.init.zeros_(self.gate_own.weight)
        nn.init.zeros_(self.gate_other.weight)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        return own + self.gate(own, other) * enlarged(self.project(self.dynamic(other)), own)

    def gate(self, own: Tensor, other: Tensor) -> Tensor:
        """[B,D,h,w] and [B,D,H,W] -> [B,D,h,w] in 0..1: how much of `other` enters."""
        if not self.folded:
            logits: Tensor = self.gate_own(own) + enlarged(self.gate_other(other), own) + self.gate_bias
            return logits.sigmoid()
        repeat = (len(self.gate_bias), -1, -1, -1)
        logits = conv2d(own, self.gate_own.weight.expand(repeat), self.gate_bias.flatten())
        return (logits + enlarged(conv2d(other, self.gate_other.weight.expand(repeat)), own)).sigmoid()

    def fold(self) -> None:
        """For inference: D equal channels instead of one that is spread over them, which costs the runtimes more."""
        self.folded = True


class BidirectionalDynamicFusion(nn.Module):
    """L maps with `channels`, finest first -> maps of the same shapes: top-down, then bottom-up.

    It adds to its input through a projection that starts at zero, so it changes nothing at first.
    """

    def __init__(self, channels: Sequence[int], *, width: int, experts: int = 4) -> None:
        super().__init__()
        self.enter = nn.ModuleList(ConvNormAct(c, width, act=False) for c in channels)
        self.top_down = nn.ModuleList(GatedFusion(width, experts) for _ in channels[1:])
        self.bottom_up = nn.ModuleList(GatedFusion(width, experts) for _ in channels[1:])
        self.exit = nn.ModuleList(nn.Conv2d(width, c, 1) for c in channels)
        for projection in self.exit:
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.join(maps, self.fuse(maps))

    def fuse(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The fused maps, all of `width` channels."""
        fused = [enter(x) for enter, x in zip(self.enter, maps, strict=True)]
        for level in range(len(fused) - 2, -1, -1):
            fused[level] = self.top_down[level](fused[level], fused[level + 1])
        for level in range(1, len(fused)):
            finer = max_pool2d(fused[level - 1], 3, 2, 1)
            fused[level] = self.bottom_up[level - 1](fused[level], finer)
        return fused

    def join(self, maps: Sequence[Tensor], fused: Sequence[Tensor]) -> list[Tensor]:
        """maps + the projections of what `fuse` made of them."""
        return [x + leave(b) for x, leave, b in zip(maps, self.exit, fused, strict=True)]
