"""Cells as a list, and one level enlarged to the next."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from alignrank.nn.grid import cell_rows, enlarged, grid_points


def test_points_and_rows_have_one_order() -> None:
    """Level by level, row by row: the point of a cell and its features stand at the same place."""
    maps = [torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([[[[9.0]]]])]
    points, strides = grid_points(maps, (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert strides.flatten().tolist() == [8, 8, 8, 8, 8, 8, 16]
    assert cell_rows(maps).flatten().tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert grid_points(maps, (8, 16), shift=0)[0][-2:].tolist() == [[16, 8], [0, 0]]


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (5, 9), (6, 9)])
def test_enlarged_repeats_the_nearest_cell(size: tuple[int, int]) -> None:
    """Twice the size, the same, and sizes that are not a multiple."""
    coarse = torch.randn(2, 4, 3, 5)
    assert torch.equal(enlarged(coarse, torch.zeros(2, 1, *size)), interpolate(coarse, size))
