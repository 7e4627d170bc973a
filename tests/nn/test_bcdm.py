"""Gated bidirectional fusion: mixtures of kernels, gates, identity at first, and flow between all levels."""

from __future__ import annotations

from math import exp

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.testing import assert_close

from alignrank.nn.bcdm import BidirectionalDynamicFusion, DynamicDepthwise, GatedFusion

CHANNELS = (12, 8, 20, 6)
# No size is half of the one before, and a map ends at one cell.
SIZES = {1: [(5, 7)], 2: [(5, 7), (3, 4)], 3: [(13, 9), (7, 5), (4, 3)], 4: [(5, 7), (3, 4), (2, 2), (1, 1)]}


def maps(levels: int) -> list[Tensor]:
    return [torch.randn(2, c, h, w) for c, (h, w) in zip(CHANNELS, SIZES[levels], strict=False)]


def randomise(module: nn.Module) -> None:
    """Every parameter away from its initial value."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def fusion(levels: int) -> BidirectionalDynamicFusion:
    """With exits that are not zero, in evaluation mode (so that a map's mean is not normalised away)."""
    module = BidirectionalDynamicFusion(CHANNELS[:levels], width=8, experts=3)
    for projection in module.exit:
        randomise(projection)
    return module.eval()


@pytest.mark.parametrize("experts", [1, 2, 4])
def test_mixing_results_is_mixing_kernels(experts: int) -> None:
    """One convolution for each image, its kernel sum_e 2/E sigmoid(FC(mean of x))_e W_e: values and gradients."""
    module = DynamicDepthwise(6, experts).double()
    randomise(module)
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    kernels, routing = module.kernels.weight, module.routing
    expected = []
    for image in x:
        strength = (routing.weight @ image.mean((1, 2)) + routing.bias).sigmoid() * 2 / experts
        channels = []
        for c, plane in enumerate(image):
            kernel = torch.stack([strength[e] * kernels[c * experts + e, 0] for e in range(experts)]).sum(0)
            channels.append(conv2d(plane[None, None], kernel[None, None], padding=1)[0, 0])
        expected.append(torch.stack(channels))
    actual, wanted = module(x), torch.stack(expected)
    assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(actual)
    inputs = [x, *module.parameters()]
    for one, other in zip(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        assert one.abs().max() > 0
        assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("experts", [1, 2, 4])
def test_routing_begins_as_the_mean_of_the_experts(experts: int) -> None:
    module = DynamicDepthwise(6, experts).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    mean = module.kernels.weight.unflatten(0, (6, experts)).mean(1)
    assert_close(module(x), conv2d(x, mean, padding=1, groups=6), rtol=1e-12, atol=1e-12)


def test_routing_is_by_image() -> None:
    """An image's result does not depend on what it shares a batch with."""
    module = DynamicDepthwise(6, 4).double()
    randomise(module)
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    assert_close(module(x), torch.cat([module(image[None]) for image in x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("finer_other", [False, True])
def test_gate_begins_as_a_constant_and_can_close(finer_other: bool) -> None:
    """Wide open, own + other's part; at first sigmoid(-1) = 1 / (1 + e) of that part; closed, `own` to the last bit."""
    sizes = [(5, 7), (3, 4)]
    own_size, other_size = sizes[::-1] if finer_other else sizes
    module = GatedFusion(8, 3).double().eval()
    own, other = (torch.randn(2, 8, *size, dtype=torch.float64) for size in (own_size, other_size))
    at_first = module(own, other)
    with torch.no_grad():
        module.gate_bias.fill_(1e4)
        wide_open = module(own, other)
        module.gate_bias.fill_(-1e4)
        closed = module(own, other)
    assert (wide_open - own).abs().max() > 1e-3
    assert_close(at_first - own, (wide_open - own) / (1 + exp(1)), rtol=1e-12, atol=1e-12)
    assert torch.equal(closed, own)


@pytest.mark.parametrize("by", ["own", "other"])
def test_gate_is_of_each_cell(by: str) -> None:
    """A gate that reads one map of a single large cell opens there and stays shut elsewhere."""
    module = GatedFusion(8, 3).double().eval()
    own, other = torch.zeros(1, 8, 4, 6, dtype=torch.float64), torch.rand(1, 8, 4, 6, dtype=torch.float64)
    read = own if by == "own" else other
    read[0, 0, 2, 1] = 1e4
    with torch.no_grad():
        module.gate_bias.fill_(-1e3)
        (module.gate_own if by == "own" else module.gate_other).weight[0, 0] = 1
    added = (module(own, other) - own)[0].abs().amax(0)
    opened = torch.zeros(4, 6, dtype=torch.bool)
    opened[2, 1] = True
    assert torch.equal(added > 1e-3, opened)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("training", [True, False])
def test_identity_at_first(levels: int, training: bool) -> None:
    module = BidirectionalDynamicFusion(CHANNELS[:levels], width=8).train(training)
    inputs = maps(levels)
    kept = [x.clone() for x in inputs]
    outputs = module(inputs)
    assert all(torch.equal(y, x) for y, x in zip(outputs, kept, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(inputs, kept, strict=True))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_shapes(levels: int) -> None:
    module, inputs = fusion(levels), maps(levels)
    fused = module.fuse(inputs)
    assert [x.shape for x in fused] == [(2, 8, *x.shape[-2:]) for x in inputs]
    outputs = module(inputs)
    assert [x.shape for x in outputs] == [x.shape for x in inputs]
    assert all(x.isfinite().all() for x in outputs)
    assert all(torch.equal(x, y) for x, y in zip(module.join(inputs, fused), outputs, strict=True))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_exits_learn_from_the_first_step(levels: int) -> None:
    """Zero exits pass nothing on, but their own gradient is there: the identity can be left."""
    module = BidirectionalDynamicFusion(CHANNELS[:levels], width=8)
    sum((y * torch.randn_like(y)).sum() for y in module(maps(levels))).backward()
    for projection in module.exit:
        assert projection.weight.grad is not None
        assert projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_every_output_sees_every_input(levels: int) -> None:
    """Top-down and bottom-up: what is added to a map changes with each of the maps, by far more than rounding.

    A change fades at each gate and convolution on its way, three of them from the first of four levels to the last.
    """
    module, inputs = fusion(levels).double(), [x.double() for x in maps(levels)]
    with torch.no_grad():
        before = [y - x for y, x in zip(module(inputs), inputs, strict=True)]
        for moved in range(levels):
            others = [x + torch.randn_like(x) if i == moved else x for i, x in enumerate(inputs)]
            after = [y - x for y, x in zip(module(others), others, strict=True)]
            assert all((a - b).abs().max() > 1e-8 for a, b in zip(after, before, strict=True)), f"level {moved}"


def test_gradient_reaches_every_parameter() -> None:
    module = fusion(3).train()
    sum((y * torch.randn_like(y)).sum() for y in module(maps(3))).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("sizes", [((7, 5), (4, 3)), ((8, 6), (4, 3)), ((4, 3), (4, 3))])
def test_folded_gates_are_the_same(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    module = GatedFusion(6, 2).double().eval()
    randomise(module)
    own, other = (torch.randn(2, 6, *size, dtype=torch.float64) for size in sizes)
    before = module(own, other)
    parameters = sum(p.numel() for p in module.parameters())
    module.fold()
    assert_close(module(own, other), before, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in module.parameters()) == parameters
