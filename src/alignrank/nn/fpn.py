"""Feature pyramid network (Lin et al. 2017, section 3) with extra coarse levels, as RetinaNet, FCOS and VarifocalNet
use it: laterals and outputs have biases, no norm and no activation. With a path back up it is PAFPN (Liu et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from alignrank.nn.fine import FINE


class FPN(nn.Module):
    """Maps of strides 8, 16, 32 with `channels` -> 3 + `extra` maps of `width` channels, finest first.

    A lateral 1x1 convolution of each map is added to the coarser sum, enlarged by nearest neighbours to the finer
    map's size (sizes need not be even). A 3x3 convolution of each sum is the output. An extra map halves the one
    before it, rounding up; the first is made from the last output (RetinaNet made it from C5). bottom_up: each output
    but the finest gets the finer one, halved by a 3x3 convolution, added and goes through another 3x3 convolution.
    fine: makes what modulates a lateral by the coarser sum before they are added, FINE with options.
    `self.channels` are the outputs' channels. Raises ValueError for another number of maps than `channels`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        extra: int = 2,
        bottom_up: bool = False,
        fine: Callable[..., FINE] | None = None,
    ) -> None:
        super().__init__()
        self.channels = (width,) * (len(channels) + extra)
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.extras = nn.ModuleList(nn.Conv2d(width, width, 3, 2, padding=1) for _ in range(extra))
        steps = len(channels) - 1 if bottom_up else 0
        self.halvings = nn.ModuleList(nn.Conv2d(width, width, 3, 2, padding=1) for _ in range(steps))
        self.second_outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(steps))
        for convolution in (*self.laterals, *self.outputs, *self.extras, *self.halvings, *self.second_outputs):
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        self.fine: nn.ModuleList | None = None
        if fine is not None:
            # A token stands for a cell of the coarsest map. A seed gives the rest the same weights with and without.
            with torch.random.fork_rng(devices=[]):
                self.fine = nn.ModuleList(
                    fine(width, pool=2 ** (len(channels) - 2 - i)) for i in range(len(channels) - 1)
                )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B,C_l,H_l,W_l] each -> [B,D,H_l,W_l] each and the extra ones, D = width."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(len(sums) - 2, -1, -1):
            lateral = sums[level] if self.fine is None else self.fine[level](sums[level], sums[level + 1])
            sums[level] = lateral + interpolate(sums[level + 1], sums[level].shape[-2:])
        pyramid = [output(x) for output, x in zip(self.outputs, sums, strict=True)]
        for level, halving in enumerate(self.halvings):
            pyramid[level + 1] = pyramid[level + 1] + halving(pyramid[level])
        for level, output in enumerate(self.second_outputs):
            pyramid[level + 1] = output(pyramid[level + 1])
        for number, convolution in enumerate(self.extras):
            # P6 = conv(P5), P7 = conv(relu(P6)): mmdet's relu_before_extra_convs and torchvision's LastLevelP6P7 both
            # leave out the first ReLU. P5 and P6 are outputs too, and keep their negative values.
            pyramid.append(convolution(relu(pyramid[-1]) if number else pyramid[-1]))
        return pyramid
