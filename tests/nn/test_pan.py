"""The neck: shapes, and that information flows from every level to every level."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from alignrank.nn.conv import fold_norms
from alignrank.nn.csp import SCALES, split_entries
from alignrank.nn.pan import PAN

OPTIONS = [{}, {"decoupled": True, "compact_last": True}]


def maps(height: int = 64, width: int = 96) -> list[torch.Tensor]:
    return [torch.randn(2, c, height // s, width // s) for c, s in zip((12, 20, 28), (8, 16, 32), strict=True)]


@pytest.mark.parametrize("options", OPTIONS)
def test_shapes_and_folding(options: dict[str, bool]) -> None:
    neck = PAN((12, 20, 28), SCALES["t"], **options)
    inputs = maps()
    outputs = neck(inputs)
    assert [tuple(m.shape) for m in outputs] == [
        (2, c, *x.shape[-2:]) for c, x in zip(neck.channels, inputs, strict=True)
    ]
    # The training pass gave the norms statistics of their own.
    with torch.no_grad():
        before = neck.eval()(inputs)
        for folded, expected in zip(fold_norms(neck)(inputs), before, strict=True):
            assert_close(folded, expected, atol=1e-5, rtol=1e-5)
        for _ in range(2):  # a second call changes nothing
            for split, expected in zip(split_entries(neck)(inputs), before, strict=True):
                assert_close(split, expected, atol=1e-5, rtol=1e-5)


def test_split_blocks_compute_less() -> None:
    """The coarser map's share of the first convolution is computed on a quarter of the cells."""
    neck = PAN((12, 20, 28), SCALES["t"]).eval()
    sizes = []
    neck.top_down3.enter.conv.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
    with torch.no_grad():
        neck(maps())
        split_entries(neck)
        neck.top_down3.enter.conv.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
        neck(maps())
    assert sizes == [neck.channels[1] + 12, 12]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("output", [0, 1, 2])
def test_every_output_sees_every_input(options: dict[str, bool], output: int) -> None:
    neck = PAN((12, 20, 28), SCALES["t"], **options)
    inputs = [m.requires_grad_() for m in maps()]
    result = neck(inputs)[output]
    gradients = torch.autograd.grad((result * torch.randn_like(result)).sum(), inputs)
    assert all(g.abs().max() > 0 for g in gradients)
