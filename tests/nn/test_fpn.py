"""The feature pyramid: by hand, against torchvision's, and what sees what."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from alignrank.nn.fpn import FPN

CHANNELS = (6, 10, 14)
EVEN = [(16, 24), (8, 12), (4, 6)]
ODD = [(13, 21), (7, 11), (4, 6)]
SMALL = [(2, 3), (1, 2), (1, 1)]


def maps(sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.randn(2, c, h, w, dtype=torch.float64) for c, (h, w) in zip(CHANNELS, sizes, strict=True)]


def with_biases(fpn: FPN) -> FPN:
    """In float64, biases away from zero."""
    for name, parameter in fpn.double().named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return fpn


def passing_on(extra: int = 2, *, bottom_up: bool = False) -> FPN:
    """One channel; every convolution passes on the cell in its middle."""
    fpn = FPN((1, 1, 1), 1, extra=extra, bottom_up=bottom_up)
    for parameter in fpn.parameters():
        nn.init.zeros_(parameter)
        if parameter.ndim == 4:
            middle = parameter.shape[-1] // 2
            nn.init.ones_(parameter[..., middle, middle])
    return fpn


def test_by_hand() -> None:
    """C5 = [-5, 2, 3] (one row), C4 = 10 in 6 columns, C3 = 100 in 12.

    P5 = C5. P4 = 10 + (-5, -5, 2, 2, 3, 3) = (5, 5, 12, 12, 13, 13), P3 = 100 + each of these twice.
    P6 takes columns 0 and 2 of P5: (-5, 3), a negative value and all. P7 takes column 0 of relu(P6) = (0, 3): 0.
    """
    inputs = [torch.full((1, 1, 4, 12), 100.0), torch.full((1, 1, 2, 6), 10.0), torch.tensor([[[[-5.0, 2, 3]]]])]
    p3, p4, p5, p6, p7 = (x[0, 0].tolist() for x in passing_on()(inputs))
    assert p5 == [[-5, 2, 3]]
    assert p4 == [[5, 5, 12, 12, 13, 13]] * 2
    assert p3 == [[105, 105, 105, 105, 112, 112, 112, 112, 113, 113, 113, 113]] * 4
    assert p6 == [[-5, 3]]
    assert p7 == [[0]]


def test_bottom_up_by_hand() -> None:
    """P3 = 105 .. 113 as above. P4 gets every second column of P3: 5 + 105, 12 + 112, ...; P5 every second of that P4.

    P6 takes columns 0 and 2 of the new P5.
    """
    inputs = [torch.full((1, 1, 4, 12), 100.0), torch.full((1, 1, 2, 6), 10.0), torch.tensor([[[[-5.0, 2, 3]]]])]
    fpn = passing_on(bottom_up=True)
    p3, p4, p5, p6, _ = (x[0, 0].tolist() for x in fpn(inputs))
    assert p3 == [[105, 105, 105, 105, 112, 112, 112, 112, 113, 113, 113, 113]] * 4
    assert p4 == [[110, 110, 124, 124, 126, 126]] * 2
    assert p5 == [[105, 126, 129]]
    assert p6 == [[105, 129]]
    for convolution in fpn.second_outputs:
        convolution.weight.data *= 2  # behind the sums: P5 does not see P4's
    p3, p4, p5, *_ = (x[0, 0].tolist() for x in fpn(inputs))
    assert p4 == [[220, 220, 248, 248, 252, 252]] * 2
    assert p5 == [[210, 252, 258]]


def test_odd_sizes_by_hand() -> None:
    """2 columns enlarged to 3: column j reads floor(2j/3), so 0, 0, 1; 3 to 5: floor(3j/5) = 0, 0, 1, 1, 2."""
    inputs = [torch.zeros(1, 1, 1, 5), torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 2]]]])]
    p3, p4, *_ = passing_on()(inputs)
    assert p4.flatten().tolist() == [1, 1, 2]
    assert p3.flatten().tolist() == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("sizes", [EVEN, ODD, SMALL])
@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_shapes(sizes: list[tuple[int, int]], extra: int) -> None:
    """An extra map is half the one before it, rounded up."""
    fpn = FPN(CHANNELS, 8, extra=extra).double()
    expected = list(sizes)
    for _ in range(extra):
        height, width = expected[-1]
        expected.append((-(-height // 2), -(-width // 2)))
    outputs = fpn(maps(sizes))
    assert [tuple(x.shape) for x in outputs] == [(2, 8, *size) for size in expected]
    assert fpn.channels == (8,) * (3 + extra)


def test_parameter_count() -> None:
    """Of ResNet-50: (512 + 1024 + 2048) * 256 + 3 * 256 = 918 272 and five times 9 * 256**2 + 256 = 590 080."""
    with torch.device("meta"):
        fpn = FPN((512, 1024, 2048))
        theirs = FeaturePyramidNetwork([512, 1024, 2048], 256, LastLevelP6P7(256, 256))
    count = sum(p.numel() for p in fpn.parameters())
    assert count == 918_272 + 5 * 590_080 == 3_868_672
    assert count == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("sizes", [EVEN, ODD, SMALL])
def test_equals_torchvision(sizes: list[tuple[int, int]]) -> None:
    """Values, and gradients of maps and parameters, with the same weights."""
    fpn = with_biases(FPN(CHANNELS, 8))
    theirs = FeaturePyramidNetwork(list(CHANNELS), 8, LastLevelP6P7(8, 8)).double()
    renamed = {}
    for name, value in fpn.state_dict().items():
        part, number, kind = name.split(".")
        name = f"extra_blocks.p{int(number) + 6}" if part == "extras" else f"{part[:-1]}.{number}.0"
        renamed[name.replace("lateral", "inner_blocks").replace("output", "layer_blocks") + f".{kind}"] = value
    theirs.load_state_dict(renamed)
    inputs = [x.requires_grad_() for x in maps(sizes)]
    actual = fpn(inputs)
    expected = list(theirs(OrderedDict((str(i), x) for i, x in enumerate(inputs))).values())
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = [torch.randn_like(x) for x in actual]
    own = dict(fpn.named_parameters())
    # Ours in the order of theirs.
    ours = [own[old] for old, _ in sorted(zip(own, renamed, strict=True), key=lambda pair: pair[1])]
    other = [p for _, p in sorted(theirs.named_parameters())]
    assert_close(
        torch.autograd.grad(actual, [*inputs, *ours], upstream),
        torch.autograd.grad(expected, [*inputs, *other], upstream),
        rtol=1e-11,
        atol=1e-11,
    )


def test_initialisation() -> None:
    """Xavier uniform: within sqrt(6 / (fan in + fan out)) and close to that bound; biases zero."""
    fpn = FPN((64, 96, 128), 64)
    convolutions = [module for module in fpn.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 8
    for convolution in convolutions:
        weight = convolution.weight
        bound = math.sqrt(6 / (weight[0].numel() + weight[:, 0].numel()))
        assert 0.99 * bound < weight.abs().max() <= bound
        assert convolution.bias is not None
        assert convolution.bias.abs().max() == 0


def test_what_sees_what() -> None:
    """A map sees its own level and coarser ones; the extra ones see what P5 sees, the coarsest map alone."""
    fpn, inputs = with_biases(FPN(CHANNELS, 8)), [x.requires_grad_() for x in maps(EVEN)]
    for level, output in enumerate(fpn(inputs)):
        upstream = torch.randn_like(output)
        gradients = torch.autograd.grad(output, inputs, upstream, retain_graph=True, allow_unused=True)
        seen = [gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients]
        assert seen == [source >= min(level, 2) for source in range(3)]


def test_leaves_its_inputs_alone() -> None:
    fpn, inputs = with_biases(FPN(CHANNELS, 8)), maps(EVEN)
    kept = [x.clone() for x in inputs]
    *_, p6, _ = fpn(inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, kept, strict=True))
    assert p6.min() < 0, "the ReLU before P7 is not P6's"


def test_another_number_of_maps() -> None:
    fpn, inputs = FPN(CHANNELS, 8).double(), maps(EVEN)
    for wrong in (inputs[:2], [*inputs, inputs[0]]):
        with pytest.raises(ValueError, match="zip"):
            fpn(wrong)
