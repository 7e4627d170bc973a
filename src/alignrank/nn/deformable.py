"""Deformable 3x3 convolutions (Dai et al. 2017, eq. 2; with masks Zhu et al. 2019, eq. 1) and VarifocalNet's star
offsets (Zhang et al. 2021, section 3.3), which put the nine taps on the corners, sides and centre of a predicted box.

Offsets are those of `torchvision.ops.deform_conv2d`: [N,18,H,W] in cells, channel 2k the y and 2k+1 the x that are
added to tap k's regular place; taps row by row (TL, T, TR, L, C, R, BL, B, BR). Stride 1, padding 1, one group.

A convolution has two forms with the same values. `torchvision` needs a ninth of the memory. `grid_sample` exports (ONNX
has DeformConv only from opset 19 on, and few runtimes compute it), and on a CPU it trains three times as fast.

Shape letters: N images, D input channels, O output channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, grid_sample

from alignrank.boxes import at_least_float32, outside_autocast

Form = Literal["torchvision", "grid_sample"]

WEIGHT_STD = 0.01


def star_offsets(ltrb: Tensor, stride: float, *, gradient_mul: float = 0.1) -> Tensor:
    """Distances ltrb [N,4,H,W] px from each cell's point to its box's sides -> offsets [N,18,H,W] cells.

    stride: px a cell. gradient_mul: factor of the gradient that goes back to `ltrb`. At least float32.
    Source: Zhang et al. 2021 (VarifocalNet), section 3.3; the factor is of the authors' code.
    """
    ltrb = at_least_float32(ltrb)
    cells = ((1 - gradient_mul) * ltrb.detach() + gradient_mul * ltrb) / stride
    left, top, right, bottom = cells.unbind(1)
    centre = torch.zeros_like(left)
    # The places are -top, 0, bottom and -left, 0, right; the regular ones are -1, 0, 1, and the convolution adds them.
    rows, columns = (1 - top, centre, bottom - 1), (1 - left, centre, right - 1)
    return torch.stack([place for y in rows for x in columns for place in (y, x)], 1)


def deformable_conv2d(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    form: Form | None = None,
) -> Tensor:
    """x [N,D,H,W], offsets [N,18,H,W] cells, weight [O,D,3,3], bias [O], mask [N,9,H,W] -> [N,O,H,W] in x's dtype.

    form: None is `grid_sample` on a CPU, else `torchvision`.

    A tap reads bilinearly, with zeros around the map, and is multiplied by its mask where there is one. Everything
    is computed in at least float32, also under autocast: places in half precision would be off by tenths of a cell.
    At places that are whole numbers, where the derivative jumps, the forms may give the offsets different gradients.
    An infinite offset reads zero; one that is NaN counts as 0 in the `torchvision` form and gives NaN in the other.
    """
    assert weight.shape[2:] == (3, 3), "only 3x3 kernels"
    dtype = x.dtype
    with outside_autocast(x):
        x = at_least_float32(x)
        offsets, weight = offsets.to(x.dtype), weight.to(x.dtype)
        bias, mask = (None if y is None else y.to(x.dtype) for y in (bias, mask))
        if (form or ("grid_sample" if x.device.type == "cpu" else "torchvision")) == "torchvision":
            # At a NaN, torchvision 0.29 reads outside of the map on the CPU, and the process dies; at an infinity, the
            # offset's gradient is NaN.
            from torchvision.ops import deform_conv2d  # takes as long as torch itself

            result: Tensor = deform_conv2d(x, offsets.nan_to_num(), weight, bias, padding=1, mask=mask)
        else:
            result = _by_grid_sample(x, offsets, weight, bias, mask)
        return result.to(dtype)


def _by_grid_sample(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """All nine taps in one sampling, then a 1x1 convolution of 9*D channels; the samples are nine times x in size."""
    height, width = x.shape[-2:]
    offset_y, offset_x = offsets.unflatten(1, (9, 2)).unbind(2)  # [N,9,H,W]
    tap = torch.arange(-1, 2, device=x.device, dtype=x.dtype)
    row = torch.arange(height, device=x.device, dtype=x.dtype)
    column = torch.arange(width, device=x.device, dtype=x.dtype)
    place_y = offset_y + tap.repeat_interleave(3)[:, None, None] + row[:, None]
    place_x = offset_x + tap.repeat(3)[:, None, None] + column
    grid = torch.stack([_from_edge_to_edge(place_x, width), _from_edge_to_edge(place_y, height)], -1)
    samples = grid_sample(x, grid.flatten(1, 2), align_corners=False).unflatten(2, (9, height))  # [N,D,9,H,W]
    if mask is not None:
        samples = samples * mask[:, None]
    return conv2d(samples.flatten(1, 2), weight.flatten(1)[..., None, None], bias)


def _from_edge_to_edge(place: Tensor, size: int) -> Tensor:
    """Places in cells, 0 the centre of the first, -> -1..1, the outer edges of the first and last of `size` cells.

    From centre to centre (align_corners=True) would divide by zero on a map of one cell.
    """
    # Beyond -1 and `size` everything reads zero. An infinite place, of a distance whose exp overflowed, would give NaN.
    return (2 * place.clamp(-2, size + 1) + 1) / size - 1


class DeformableConv(nn.Module):
    """Deformable 3x3 convolution, padding 1; weight N(0, 0.01), bias (if any) zero. `form`: see deformable_conv2d."""

    form: Form | None

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__()
        self.form = None
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.normal_(self.weight, std=WEIGHT_STD)

    def forward(self, x: Tensor, offsets: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [N,D,H,W], offsets [N,18,H,W] cells, mask [N,9,H,W] -> [N,O,H,W]."""
        return deformable_conv2d(x, offsets, self.weight, bias=self.bias, mask=mask, form=self.form)


class ModulatedConv(nn.Module):
    """Deformable 3x3 convolution that predicts its own offsets and masks (Zhu et al. 2019, section 3.2).

    At first the offsets are 0 and the masks 0.5: half of a plain convolution. `conv.form` is its form.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = DeformableConv(in_channels, out_channels, bias=bias)
        self.plan = nn.Conv2d(in_channels, 27, 3, padding=1)  # 18 offsets, then 9 masks before the sigmoid
        assert self.plan.bias is not None
        nn.init.zeros_(self.plan.weight)
        nn.init.zeros_(self.plan.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N,D,H,W] -> [N,O,H,W] in x's dtype."""
        # In float32 also under autocast, as places are: an offset of 8 cells has steps of 1/16 in bfloat16.
        with outside_autocast(x):
            offsets, mask = self.plan(x.to(self.plan.weight.dtype)).split([18, 9], 1)
        convolved: Tensor = self.conv(x, offsets, mask.sigmoid())
        return convolved


def use_grid_sample(module: nn.Module) -> None:
    """Give every deformable convolution in `module` (itself included) the form for export, in place."""
    for part in module.modules():
        if isinstance(part, DeformableConv):
            part.form = "grid_sample"
