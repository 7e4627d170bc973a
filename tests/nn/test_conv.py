"""Convolutions and what stands behind them: an activation in place, and sums of float32 where bf16 is slow."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d
from torch.testing import assert_close

from alignrank.nn.conv import ConvNormAct, DepthwiseConv2d, SiLU, depthwise


def test_it_overwrites_where_nothing_learns() -> None:
    """x sigmoid(x): ln 3 has the sigmoid 3/4."""
    x = torch.tensor([0.0, 1.0986123])
    assert SiLU()(x).data_ptr() == x.data_ptr()
    assert x.tolist() == pytest.approx([0, 0.8239592])


def test_it_leaves_the_input_where_something_learns() -> None:
    """Slope at 0: 1/2, at ln 3: 3/4 + ln 3 x 3/16."""
    leaf = torch.tensor([0.0, 1.0986123], requires_grad=True)
    x = leaf * 1
    y = SiLU()(x)
    assert y.data_ptr() != x.data_ptr()
    y.sum().backward()
    assert leaf.grad is not None
    assert_close(x, leaf)
    assert leaf.grad.tolist() == pytest.approx([0.5, 0.9559898])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 1), (3, 1)])
def test_depthwise_under_autocast(kernel: int, stride: int) -> None:
    """The type is that of every convolution there; the sums are of float32 where they would be slow in bf16."""
    generator = torch.Generator().manual_seed(0)
    ours = DepthwiseConv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    x = torch.rand(2, 8, 12, 12, generator=generator).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    exact = conv2d(x.detach().float(), ours.weight, stride=stride, padding=kernel // 2, groups=8)
    assert y.dtype == torch.bfloat16
    if kernel > 3 or stride > 1:
        assert torch.equal(y, exact.bfloat16())
    assert_close(y.float(), exact, atol=0.02, rtol=0.02)
    y.float().sum().backward()
    assert x.grad is not None
    assert ours.weight.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert ours.weight.grad.dtype == torch.float32


def test_depthwise_of_a_block_is_one() -> None:
    """Of blocks with one filter per channel alone; without autocast it is PyTorch's, bit for bit."""
    assert isinstance(depthwise(4).conv, DepthwiseConv2d)
    assert type(ConvNormAct(4, 4, 3).conv) is torch.nn.Conv2d
    conv, x = depthwise(4, 3, 2).conv, torch.rand(1, 4, 9, 9)
    assert torch.equal(conv(x), conv2d(x, conv.weight, stride=2, padding=1, groups=4))


def test_depthwise_of_another_library() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 4, 3, 2, groups=4), torch.nn.Conv2d(4, 8, 3, groups=4), torch.nn.Conv2d(1, 1, 3)
    )
    DepthwiseConv2d.take_over(network)
    assert [type(layer) is DepthwiseConv2d for layer in network] == [True, False, False]
