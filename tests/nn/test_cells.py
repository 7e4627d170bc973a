"""Chosen cells: their order, what is around them, and what box branches say of them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from alignrank.detectors.yolo import DecoupledHead
from alignrank.nn.cells import MARGIN, best_class, patches_at, priorities
from alignrank.weights.recipe import load_recipe

SIDES = ((4, 6), (2, 3), (1, 2))  # of three levels: 24, 6 and 2 cells


def test_priorities_by_hand() -> None:
    """The second cell is beside a better one: lower by 1 / (1 + exp(-2)) + 1 / (1 + exp(-1)) = .8808 + .7311."""
    row = torch.zeros(1, 1, 1, 5)
    found = priorities(torch.tensor([[2.0, 1.0, -30.0, -30.0, 0.5]]), [row])
    assert_close(found, torch.tensor([[2.0, -0.6119, -30.7311, -30.6225, 0.5]]), atol=1e-4, rtol=0)


def test_priorities_are_of_a_level() -> None:
    """The last cell of a level and the first of the next are no neighbours, nor are those of two images."""
    maps = [torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 1, 2)]
    logits = torch.tensor([[0.0, 0.0, 0.0, 3.0, 2.0, -9.0], [5.0, -9.0, -9.0, -9.0, 1.0, -9.0]])
    found = priorities(logits, maps)
    assert found[0, [3, 4]].tolist() == [3.0, 2.0]
    assert found[1, [0, 4]].tolist() == [5.0, 1.0]
    assert (found[0, :3] < 0).all()
    assert torch.equal(found[:1], priorities(logits[:1], maps))


def test_the_better_of_nearly_equal_cells() -> None:
    """It makes no jump: of two cells half of MARGIN apart the other one loses half of the sum of .5 and .5."""
    found = priorities(torch.tensor([[0.0, -MARGIN / 2]]), [torch.zeros(1, 1, 1, 2)])
    assert_close(found, torch.tensor([[0.0, -MARGIN / 2 - 0.5]]), atol=0.01, rtol=0)
    equal = torch.full((1, 12), -1.5)
    assert torch.equal(priorities(equal, [torch.zeros(1, 1, 3, 4)]), equal)


def test_each_object_before_the_second_cell_of_one() -> None:
    """Nine objects of 5x5 cells, scores .98 in the middle and .95 around it, and nine places."""
    logits = torch.full((1, 1, 24, 24), -9.0)
    for row, column in ((8 * i + 4, 8 * j + 4) for i in range(3) for j in range(3)):
        logits[..., row - 2 : row + 3, column - 2 : column + 3] = 3.0
        logits[..., row, column] = 4.0 - column / 100 - row / 200
    first = priorities(logits.flatten(1), [logits]).topk(9).indices[0]
    assert {(int(i) // 24, int(i) % 24) for i in first} == {(8 * i + 4, 8 * j + 4) for i in range(3) for j in range(3)}


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 9, 80])
def test_the_best_class_whatever_their_number(classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 50)
    assert torch.equal(best_class(logits), logits.max(1).values)


def test_patches_by_hand() -> None:
    """A map that counts its cells from 1: a corner has zeros outside, the other level begins behind the first."""
    first, second = torch.arange(1.0, 7).view(1, 1, 2, 3), torch.full((1, 1, 1, 1), 9.0)
    patches, level = patches_at([first, second], torch.tensor([[0, 4, 6]]))
    assert patches.tolist() == [[[0, 0, 0, 0, 1, 2, 0, 4, 5], [1, 2, 3, 4, 5, 6, 0, 0, 0], [0, 0, 0, 0, 9, 0, 0, 0, 0]]]
    assert level.tolist() == [[[0], [0], [1]]]


def test_patches_of_several_images_and_channels() -> None:
    """By row, column and channel; each image has its own."""
    torch.manual_seed(0)
    maps, cells = [torch.rand(2, 5, 3, 4)], torch.tensor([[5, 0], [6, 11]])
    patches, _ = patches_at(maps, cells)
    around = maps[0][1, :, 0:3, 1:4]  # of cell 6: row 1, column 2
    assert torch.equal(patches[1, 0], around.permute(1, 2, 0).flatten())
    assert patches.shape == (2, 2, 45)


def head(**options: object) -> tuple[DecoupledHead, list[torch.Tensor]]:
    torch.manual_seed(0)
    overrides = {"model.size": "t", **options}
    model = load_recipe("alignrank-n", num_classes=3, overrides=overrides).build().model
    maps = [torch.randn(2, c, *side) for c, side in zip(model.neck.channels, SIDES, strict=True)]
    model.head.train()(maps)  # norms that have seen data
    return model.head.eval(), maps


@pytest.mark.parametrize("separable", [False, True])
def test_a_cell_alone_is_the_cell_among_all(separable: bool) -> None:
    """Every cell of every level, in any order, as `forward` has it."""
    branches, maps = head(**{"head.separable_boxes": separable})
    every = torch.stack([torch.randperm(32) for _ in range(2)])
    with torch.no_grad():
        _, dense = branches(maps)
        alone = branches.box_of_cells(maps, every)
    expected = dense.flatten(2).gather(1, every[..., None].expand(-1, -1, alone.shape[-1]))
    assert_close(alone, expected)
    assert expected.std(1).min() > 1e-3  # cells do differ


def test_no_cell() -> None:
    branches, maps = head()
    assert branches.box_of_cells(maps, torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 4 * branches.bins)
