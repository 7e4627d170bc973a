"""Blocks of the backbone: shapes, scaling rules, what attention and pooling mix, and folding of norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from alignrank.nn.conv import ConvNormAct, LargeKernelDepthwise, fold_norms
from alignrank.nn.csp import (
    SCALES,
    Bottleneck,
    CSPBackbone,
    PartialChain,
    PartialSelfAttention,
    PyramidPooling,
    Scale,
    csp_block,
    downsample,
    split_entries,
)


def settle(model: nn.Module) -> nn.Module:
    """Give every norm statistics and affine parameters of its own, as training would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def test_scale_worked() -> None:
    """m: channels min(1024, 768) * .75 = 576; 128 * .75 = 96. Repeats 6 * .67 = 4.02 -> 4. Never below 1, and
    channels are rounded up to a multiple of 8: 64 * .3 = 19.2 -> 24."""
    assert SCALES["m"].channels(1024) == 576
    assert SCALES["m"].channels(128) == 96
    assert SCALES["m"].repeats(6) == 4
    odd = Scale(0.1, 0.3, 1024)
    assert odd.repeats(3) == 1
    assert odd.channels(64) == 24


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "csp": lambda: csp_block(16, 24, 2, shortcut=True),
    "csp without shortcut": lambda: csp_block(16, 24, 1, shortcut=False),
    "compact": lambda: csp_block(16, 24, 1, shortcut=False, compact=True),
    "compact with large kernels": lambda: csp_block(16, 24, 1, shortcut=True, compact=True, large_kernel=True),
    "pooling": lambda: PyramidPooling(16, 24),
    "attention": lambda: PartialSelfAttention(16),
    "downsample": lambda: downsample(16, 24, decoupled=False),
    "decoupled downsample": lambda: downsample(16, 24, decoupled=True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    """Shape, a gradient for every parameter, and the same output after folding, on a map that is not square."""
    block = settle(BLOCKS[name]())
    x = torch.randn(2, 16, 6, 10)
    out: Tensor = block(x)
    size = (3, 5) if "downsample" in name else (6, 10)
    assert out.shape == (2, 16 if name == "attention" else 24, *size)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())

    with torch.no_grad():
        expected = block.eval()(x)
        assert_close(fold_norms(block)(x), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())


def test_shortcut_adds_the_input() -> None:
    """With every norm's weight and bias 0 the inner convolutions give SiLU(0) = 0: a shortcut alone is left."""
    with_shortcut = csp_block(8, 8, 1, shortcut=True).blocks[0]
    without = csp_block(8, 8, 1, shortcut=False).blocks[0]
    x = torch.randn(1, 4, 5, 5)
    for block, expected in [(with_shortcut, x), (without, torch.zeros_like(x))]:
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)
        assert_close(block.eval()(x), expected)


def test_attention_sees_the_whole_map_and_csp_only_its_neighbourhood() -> None:
    """A change in one corner reaches the other through attention; two 3x3 convolutions reach 2 cells."""
    x = torch.randn(1, 16, 9, 9)
    changed = x.clone()
    changed[..., 0, 0] += 5
    attention = settle(PartialSelfAttention(16)).eval()
    assert (attention(x) - attention(changed)).abs()[..., 8, 8].max() > 1e-7
    block = settle(csp_block(16, 16, 1, shortcut=True)).eval()
    reached = (block(x) - block(changed)).abs().amax((0, 1)) > 0
    assert reached[:3, :3].all()
    assert not reached[3:].any()
    assert not reached[:, 3:].any()


def test_pooling_is_three_chained_maxima() -> None:
    """The entering convolution apart, the four parts joined are the map and its maxima over 5, 9 and 13 cells."""
    pooling = settle(PyramidPooling(4, 8)).eval()
    seen: list[Tensor] = []
    pooling.join.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 4, 20, 20)
    pooling(x)
    entered = pooling.enter(x)
    expected = [entered] + [nn.functional.max_pool2d(entered, k, 1, k // 2) for k in (5, 9, 13)]
    assert torch.equal(seen[0], torch.cat(expected, 1))


def test_large_kernel_trains_both_branches_and_folds_to_one() -> None:
    layer = settle(LargeKernelDepthwise(6)).eval()
    x = torch.randn(1, 6, 9, 9)
    before = layer(x)
    layer.fold()
    assert [name for name, _ in layer.named_parameters()] == ["large.conv.weight", "large.conv.bias"]
    assert_close(layer(x), before, atol=1e-5, rtol=1e-5)
    layer.fold()  # a second time changes nothing
    assert_close(layer(x), before, atol=1e-5, rtol=1e-5)


def test_folded_convolution_worked() -> None:
    """1x1 convolution of weight 2, norm of mean 1, variance 3, weight 4, bias 5: y = (2x - 1) / sqrt(3 + 1e-3) * 4 + 5.

    At x = 3: 5 * 4 / sqrt(3.001) + 5, before and after folding (no activation).
    """
    layer = ConvNormAct(1, 1, act=False)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    for tensor, value in [
        (layer.conv.weight, 2.0),
        (layer.norm.running_mean, 1.0),
        (layer.norm.running_var, 3.0),
        (layer.norm.weight, 4.0),
        (layer.norm.bias, 5.0),
    ]:
        nn.init.constant_(tensor, value)
    x = torch.full((1, 1, 1, 1), 3.0)
    expected = 20 / 3.001**0.5 + 5
    assert layer.eval()(x).item() == pytest.approx(expected, rel=1e-6)
    assert fold_norms(layer)(x).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"decoupled": True, "compact_last": True, "attention": True}])
def test_backbone_maps(options: dict[str, bool]) -> None:
    """Strides 8, 16, 32 of a 64 x 96 image, with the channels it announces; folding keeps the output."""
    backbone = settle(CSPBackbone(SCALES["t"], **options)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(images)
        assert [m.shape[1:] for m in maps] == [
            (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (8, 16, 32), strict=True)
        ]
        for folded, before in zip(fold_norms(backbone)(images), maps, strict=True):
            assert_close(folded, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"compact_last": True, "light": True}])
def test_every_block_of_the_backbone_keeps_its_input(options: dict[str, bool]) -> None:
    """m: 2, 4, 4 and 2 blocks (3 and 6 times .67), all with a shortcut; narrow at stride 8 alone, if `light`."""
    backbone = CSPBackbone(SCALES["m"], **options)
    stages = [
        backbone.stage2[1].blocks,
        backbone.stage3[1].blocks,
        backbone.stage4[1].blocks,
        backbone.stage5[1].blocks,
    ]
    assert [len(blocks) for blocks in stages] == [2, 4, 4, 2]
    assert all(block.shortcut for blocks in stages for block in blocks)
    hidden = [blocks[0].first.conv.out_channels / blocks[0].first.conv.in_channels for blocks in stages[:3]]
    assert hidden == [1, 0.5 if options else 1, 1]


ENTRIES: dict[str, Callable[[], nn.Module]] = {
    **{name: make for name, make in BLOCKS.items() if name.startswith(("csp", "compact"))},
    "chain": lambda: PartialChain(16, 24, 2, lambda c: Bottleneck(c, shortcut=True, pointwise=True)),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("folded", [False, True])
def test_split_entries(name: str, folded: bool) -> None:
    """Two convolutions for the halves of one: the same output, folded before or not, and once is enough."""
    block, x = settle(ENTRIES[name]()).eval(), torch.randn(2, 16, 6, 10)
    with torch.no_grad():
        before = block(x)
        split_entries(fold_norms(block) if folded else block)
        assert block.enter.conv.out_channels == 12
        assert_close(block(x), before, atol=1e-5, rtol=1e-5)
        modules = list(block.modules())
        assert list(split_entries(block).modules()) == modules
