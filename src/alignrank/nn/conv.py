"""Convolution, batch norm, activation; and folding the norm away for deployment."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alignrank.boxes import outside_autocast

# YOLO's batch norm: slow statistics for the small batches of detection training.
BN_EPS, BN_MOMENTUM = 1e-3, 0.03


@runtime_checkable
class Folding(Protocol):
    """A module with a faster form for inference."""

    def fold(self) -> None:
        """Take that form, in place."""


class SiLU(nn.SiLU):
    """In place where nothing learns. Where something does, its gradient needs the input, of which PyTorch's form in
    place would keep a copy: 2 to 5 % of a training step.
    """

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return silu(x, inplace=self.inplace and not x.requires_grad)


class DepthwiseConv2d(nn.Conv2d):
    """One filter per channel, in float32 where a CPU would compute the gradient in bf16 slowly: of a stride or of a
    kernel above 3x3 it takes 3 to 36 times as long there.
    """

    def forward(self, x: Tensor) -> Tensor:
        slow = max(self.stride) > 1 or max(self.kernel_size) > 3
        if not slow or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with outside_autocast(x):
            y = super().forward(x.float())
        return y.to(torch.get_autocast_dtype("cpu"))

    @classmethod
    def take_over(cls, network: nn.Module) -> None:
        """In place: all of another library's network that have one filter per channel become of this class."""
        for module in network.modules():
            if type(module) is nn.Conv2d and 1 < module.groups == module.in_channels == module.out_channels:
                module.__class__ = cls


class ConvNormAct(nn.Module):
    """Conv2d (same padding, no bias) + BatchNorm + SiLU, or no activation. Of an even kernel with stride 2 the padding
    halves the map as well.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        conv = DepthwiseConv2d if 1 < groups == in_channels == out_channels else nn.Conv2d
        self.conv = conv(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act: nn.Module = SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y

    def fold(self) -> None:
        """Fold the norm into the convolution (evaluation only); same output, fewer operations."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()

    def halves(self) -> tuple[ConvNormAct, ConvNormAct]:
        """Two convolutions, each for one half of the output channels; itself is folded (evaluation only)."""
        self.fold()
        assert self.conv.bias is not None
        first, second = copy.deepcopy(self), copy.deepcopy(self)
        for half, weight, bias in zip(
            (first.conv, second.conv), self.conv.weight.chunk(2), self.conv.bias.chunk(2), strict=True
        ):
            half.out_channels, half.weight, half.bias = len(bias), _constant(weight), _constant(bias)
        return first, second


def _constant(part: Tensor) -> nn.Parameter:
    return nn.Parameter(part.detach().clone(), requires_grad=False)


def depthwise(channels: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> ConvNormAct:
    """One filter per channel."""
    return ConvNormAct(channels, channels, kernel, stride, groups=channels, act=act)


class LargeKernelDepthwise(nn.Module):
    """Depthwise 7x7 with a parallel 3x3 in training, one 7x7 when folded (YOLOv10, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = depthwise(channels, 7, act=False)
        self.small: ConvNormAct | None = depthwise(channels, 3, act=False)
        self.act = SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.large(x)
        if self.small is not None:
            y = y + self.small(x)
        activated: Tensor = self.act(y)
        return activated

    def fold(self) -> None:
        """Pad the 3x3 kernel to 7x7 and add it to the other."""
        if self.small is None:
            return
        self.large.fold()
        self.small.fold()
        large, small = self.large.conv, self.small.conv
        assert large.bias is not None
        assert small.bias is not None
        with torch.no_grad():
            large.weight += nn.functional.pad(small.weight, [2, 2, 2, 2])
            large.bias += small.bias
        self.small = None


def fold_norms(model: nn.Module) -> nn.Module:
    """Call `fold` of every module that has one, in place, and return `model` in evaluation mode."""
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, Folding):
            module.fold()
    return model
