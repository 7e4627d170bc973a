"""Path aggregation neck (Liu et al. 2018) of CSP blocks, as YOLOv8 and YOLOv10 lay it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alignrank.nn.conv import ConvNormAct
from alignrank.nn.csp import Bottleneck, CSPBlock, Scale, csp_block, downsample
from alignrank.nn.fine import FINE
from alignrank.nn.grid import enlarged


class TopDownBlock(CSPBlock):
    """A CSP block on a finer map joined with a coarser one, which is enlarged to it.

    Split, its first convolution (1x1) acts on the two before they are joined: a 1x1 convolution of a concatenation is
    a sum, and commutes with enlarging by nearest neighbours. A quarter of the work on the coarser map, and no copies.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int, repeats: int) -> None:
        super().__init__(
            coarse_channels + fine_channels,
            out_channels,
            repeats,
            lambda channels: Bottleneck(channels, shortcut=False),
        )
        self.coarse_channels = coarse_channels
        self.enter_coarse: nn.Conv2d | None = None

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        if self.enter_coarse is None:
            return super().forward(torch.cat([enlarged(coarse, fine), fine], 1))
        entered = self.enter.conv(fine) + enlarged(self.enter_coarse(coarse), fine)
        return self.after_enter(self.enter.act(entered))

    def split(self) -> None:
        """Split the first convolution (evaluation only)."""
        if self.enter_coarse is not None:
            return
        self.enter.fold()
        whole = self.enter.conv
        split = self.coarse_channels
        with torch.no_grad():
            coarse = nn.Conv2d(split, whole.out_channels, 1, bias=False)
            coarse.weight.copy_(whole.weight[:, :split])
            fine = nn.Conv2d(whole.in_channels - split, whole.out_channels, 1)
            fine.weight.copy_(whole.weight[:, split:])
            assert fine.bias is not None
            assert whole.bias is not None
            fine.bias.copy_(whole.bias)
        self.enter_coarse = coarse.to(whole.weight)
        self.enter.conv = fine.to(whole.weight)


def top_down_fine(
    fine: Callable[..., FINE] | None, *, low: tuple[int, int], high: tuple[int, int]
) -> tuple[FINE | None, FINE | None]:
    """What modulates the maps of strides 16 and 8 by those of 32 and 16, `low` by `high` channels; None without `fine`.

    A seed gives everything else the same weights with and without them.
    """
    if fine is None:
        return None, None
    with torch.random.fork_rng(devices=[]):
        return fine(low[0], pool=1, high_channels=high[0]), fine(low[1], pool=2, high_channels=high[1])


def modulated(fine: FINE | None, low: Tensor, high: Tensor) -> Tensor:
    """low [B,C,h,w] -> the same shape: itself without `fine`."""
    if fine is None:
        return low
    y: Tensor = fine(low, high)
    return y


class PAN(nn.Module):
    """Maps of strides 8, 16, 32 with `in_channels` -> maps of the same strides with `self.channels`.

    decoupled: downsampling to stride 32 as in YOLOv10. compact_last: its last block is compact with large kernels.
    fine: makes what modulates a finer map by a coarser one before they are joined on the way down, FINE with options.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        scale: Scale,
        *,
        decoupled: bool = False,
        compact_last: bool = False,
        fine: Callable[..., FINE] | None = None,
    ) -> None:
        super().__init__()
        i3, i4, i5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (256, 512, 1024))
        repeats = scale.repeats(3)
        self.channels = (c3, c4, c5)
        self.top_down4 = TopDownBlock(i5, i4, c4, repeats)
        self.top_down3 = TopDownBlock(c4, i3, c3, repeats)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = csp_block(c3 + c4, c4, repeats, shortcut=False)
        self.down4 = downsample(c4, c4, decoupled=decoupled)
        self.bottom_up5 = csp_block(c4 + i5, c5, repeats, shortcut=False, compact=compact_last, large_kernel=True)
        self.fine4, self.fine3 = top_down_fine(fine, low=(i4, i3), high=(i5, c4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = maps
        t4 = self.top_down4(p5, modulated(self.fine4, p4, p5))
        t3 = self.top_down3(t4, modulated(self.fine3, p3, t4))
        b4 = self.bottom_up4(torch.cat([self.down3(t3), t4], 1))
        b5 = self.bottom_up5(torch.cat([self.down4(b4), p5], 1))
        return [t3, b4, b5]
