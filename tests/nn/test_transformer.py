"""Cells of padded pictures: where they are, which of them count, what they propose; sines of positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from alignrank.nn.deformable_attention import DeformableAttention
from alignrank.nn.transformer import (
    BEYOND,
    DecoderLayer,
    EncoderLayer,
    Levels,
    Sight,
    checkpointed,
    inverse_sigmoid,
    sine_encoding,
)

WIDTH = 16


def two_levels(sizes: torch.Tensor | None, batch: int = 1) -> Levels:
    """Of inputs of 64 x 96 px at strides 16 and 32."""
    maps = [torch.zeros(batch, WIDTH, 4, 6), torch.zeros(batch, WIDTH, 2, 3)]
    return Levels.of(maps, torch.zeros(batch, 3, 64, 96), sizes)


def test_cells_of_a_padded_picture() -> None:
    """A picture of 40 x 70 px: the cells whose left upper pixels it covers, 3 x 5 of 4 x 6 and 2 x 3 of 2 x 3."""
    levels = two_levels(torch.tensor([[40.0, 70.0]]))
    assert levels.counts.tolist() == [[[5, 3], [3, 2]]]
    assert_close(levels.valid, torch.tensor([[[5 / 6, 3 / 4], [1.0, 1.0]]]))
    assert levels.padding is not None
    fine = levels.padding[0, :24].view(4, 6)
    assert (~fine).sum() == 15
    assert fine[3].all()
    assert fine[:, 5].all()
    assert not levels.padding[0, 24:].any()
    centres = levels.centres()[0, :24].view(4, 6, 2)
    assert_close(centres[0, 0], torch.tensor([0.5 / 5, 0.5 / 3]))
    assert_close(centres[2, 4], torch.tensor([4.5 / 5, 2.5 / 3]))
    # What is a share of the picture is a smaller share of the map.
    assert_close(levels.per_level(torch.tensor([[[1.0, 1.0]]]))[0, 0], levels.valid[0])
    assert_close(levels.per_level(torch.ones(1, 1, 4))[0, 0, 0], torch.tensor([5 / 6, 3 / 4, 5 / 6, 3 / 4]))


def test_whole_pictures_have_no_padding() -> None:
    plain, told = two_levels(None), two_levels(torch.tensor([[64.0, 96.0]]))
    assert plain.padding is None
    assert told.padding is not None
    assert not told.padding.any()
    assert_close(told.centres(), plain.centres())
    assert_close(told.proposals()[0], plain.proposals()[0])


def test_proposals_by_hand() -> None:
    """A box a cell, of sides .05 and .1; none in padding, and none whose centre is within .01 of the border."""
    boxes, absent = two_levels(torch.tensor([[40.0, 70.0]])).proposals()
    assert absent[0, :24, 0].sum() == 9
    assert (boxes[0, absent[0, :, 0]] == BEYOND).all()
    shares = boxes[0, [0, 24]].sigmoid()
    assert_close(shares, torch.tensor([[0.1, 1 / 6, 0.05, 0.05], [1 / 6, 0.25, 0.1, 0.1]]))
    narrow = Levels.of([torch.zeros(1, WIDTH, 1, 100)], torch.zeros(1, 3, 8, 800), None)
    assert narrow.proposals()[1].flatten().tolist() == [True] + [False] * 98 + [True]


def test_sines_by_hand() -> None:
    encoded = sine_encoding(torch.tensor([[[0.25, 0.5]]]), 4)[0, 0]
    slow = 2 * math.pi / 100  # 10000^(2/4)
    first = [1.0, 0.0, math.sin(slow / 4), math.cos(slow / 4)]
    second = [0.0, -1.0, math.sin(slow / 2), math.cos(slow / 2)]
    assert_close(encoded, torch.tensor(first + second), atol=1e-6, rtol=0)


def test_positions_name_y_before_x() -> None:
    levels = two_levels(None)
    assert_close(levels.positions(8)[0, 1], sine_encoding(torch.tensor([[[0.5 / 4, 1.5 / 6]]]), 4)[0, 0])


def test_inverse_sigmoid() -> None:
    x = torch.tensor([-1.0, 0.0, 0.2, 0.999999, 2.0])
    assert_close(inverse_sigmoid(x).sigmoid(), x.clamp(1e-3, 1 - 1e-3), atol=1e-5, rtol=0)


def test_points_beyond_the_map_read_nothing() -> None:
    """A constant map reads as itself where all points are inside, and less at its border."""
    attention = DeformableAttention(WIDTH, heads=2, levels=1, points=1)
    cells = torch.randn(1, 1, WIDTH).expand(1, 64, WIDTH)
    constant = attention.output(attention.value(cells[:, :1]))
    read = attention(torch.zeros(1, 2, WIDTH), torch.tensor([[[[0.5, 0.5]], [[0.0, 0.0]]]]), cells, [(8, 8)])
    assert_close(read[:, 0], constant[:, 0])
    assert not torch.allclose(read[:, 1], constant[:, 0])


def test_padding_is_not_read() -> None:
    attention = DeformableAttention(WIDTH, heads=2, levels=2, points=2)
    levels = two_levels(torch.tensor([[40.0, 70.0]]))
    cells = torch.randn(1, 30, WIDTH)
    assert levels.padding is not None
    other = torch.where(levels.padding[..., None], torch.full_like(cells, 9.0), cells)
    queries, places = torch.randn(1, 5, WIDTH), torch.rand(1, 5, 2, 2)
    first = attention(queries, places, cells, levels.shapes, levels.padding)
    assert torch.equal(attention(queries, places, other, levels.shapes, levels.padding), first)
    assert not torch.allclose(attention(queries, places, other, levels.shapes), first)


def decoder_layer() -> DecoderLayer:
    return DecoderLayer(WIDTH, DeformableAttention(WIDTH, heads=2, levels=2, points=2), 2, 32)


def test_parts_see_what_a_mask_lets_them_see() -> None:
    layer, levels = decoder_layer(), two_levels(None)
    x, positions, cells = torch.randn(1, 7, WIDTH), torch.randn(1, 7, WIDTH), torch.randn(1, 30, WIDTH)
    references = levels.per_level(torch.rand(1, 7, 4))
    part = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    masked = layer(x, positions, references, cells, levels, Sight((7,), part[:, None] != part))
    assert_close(layer(x, positions, references, cells, levels, Sight((3, 4))), masked)
    assert not torch.allclose(layer(x, positions, references, cells, levels, Sight((7,))), masked)


@pytest.mark.parametrize("wanted", [False, True])
def test_checkpointing_changes_no_gradient(wanted: bool) -> None:
    torch.manual_seed(0)
    layer, levels = EncoderLayer(WIDTH, DeformableAttention(WIDTH, heads=2, levels=2, points=2), 32), two_levels(None)
    cells = torch.randn(1, 30, WIDTH, requires_grad=True)
    positions, references = levels.positions(WIDTH), levels.per_level(levels.centres())
    plain = torch.autograd.grad(layer(cells, positions, references, levels).square().sum(), cells)[0]
    again = checkpointed(layer, cells, positions, references, levels, wanted=wanted)
    assert torch.equal(torch.autograd.grad(again.square().sum(), cells)[0], plain)
