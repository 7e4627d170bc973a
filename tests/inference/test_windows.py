"""Where tiles lie: they cover a picture, overlap as asked, and know what they see whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from alignrank.errors import InputError
from alignrank.inference.windows import Tiling


def test_tiles_worked() -> None:
    """1000 px in tiles of 400 with 100 px in common: steps of 300. 600 px: 200 px are left to two tiles."""
    grid = Tiling(400, 0.25).grid((600, 1000))
    assert grid.columns == ((0, 400), (300, 700), (600, 1000))
    assert grid.rows == ((0, 400), (200, 600))
    windows = grid.windows()
    assert len(windows) == 7
    assert windows[1] == (300, 0, 700, 400)
    assert windows[-1] == (0, 0, 1000, 600)


@pytest.mark.parametrize("size", [(400, 400), (30, 400), (1, 1)])
def test_a_picture_no_larger_than_a_tile_is_one(size: tuple[int, int]) -> None:
    assert Tiling(400).grid(size).windows() == [(0, 0, size[1], size[0])]


def test_a_flat_picture_has_one_row() -> None:
    assert Tiling(100, 0).grid((40, 250)).windows() == [
        (0, 0, 100, 40), (75, 0, 175, 40), (150, 0, 250, 40), (0, 0, 250, 40),
    ]  # fmt: skip


def test_tiles_cover_and_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        side, length = int(rng.integers(32, 700)), int(rng.integers(1, 5000))
        overlap = float(rng.choice([0, 0.1, 0.2, 0.5, 0.75, 0.9]))
        spans = Tiling(side, overlap).grid((length, length)).rows
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert {end - begin for begin, end in spans} == {min(side, length)}
        common = [a_end - begin for (_, a_end), (begin, _) in pairwise(spans)]
        assert min(common, default=side) >= overlap * side - 1
        if len(spans) > 2:  # and no more of them than that takes
            assert (len(spans) - 2) * side * (1 - overlap) < length - side


def test_what_a_border_cuts() -> None:
    """Tiles of 400 have a margin of 4 px; the picture's own edges cut nothing."""
    grid = Tiling(400, 0.25).grid((600, 1000))
    window = torch.tensor([[300.0, 0, 700, 400]])
    boxes = torch.tensor([
        [310.0, 0, 390, 100], [304, 50, 390, 100], [305, 50, 390, 100], [500, 50, 697, 100], [500, 50, 600, 400],
    ])  # fmt: skip
    assert grid.cut(boxes, window.expand(5, 4)).tolist() == [False, True, False, True, True]
    whole_picture = torch.tensor(grid.windows()[-1:], dtype=torch.float32)
    assert not grid.cut(torch.tensor([[0.0, 0, 1000, 600]]), whole_picture).any()


def test_what_some_tile_sees_whole() -> None:
    """As wide as what neighbours have in common, 100 px, less the margins: anywhere. Wider: where it does not lie
    across a border of each.
    """
    grid = Tiling(400, 0.25).grid((600, 1000))
    rng = np.random.default_rng(0)
    begins = torch.from_numpy(rng.uniform(0, (908, 508), (500, 2))).float()
    assert grid.seen_whole(torch.cat([begins, begins + 91], -1)).all()
    across, beside = torch.tensor([[290.0, 0, 410, 80]]), torch.tensor([[310.0, 0, 640, 80]])
    assert grid.seen_whole(torch.cat([across, beside])).tolist() == [False, True]
    assert grid.seen_whole(torch.tensor([[0.0, 0, 390, 390]])).item()
    assert not grid.seen_whole(torch.tensor([[0.0, 0, 390, 450]])).item()


@pytest.mark.parametrize(("tile", "overlap", "part"), [
    (16, None, "tile: must be at least 32"), ("wide", None, "tile: must be a whole number"),
    (640, 1, "overlap: must be from 0 to 0.9"), (640, -0.1, "overlap: must be"),
    (640, float("nan"), "overlap: must be"),
    (None, 0.2, "overlap: is of tiles; give tile, too"),
])  # fmt: skip
def test_options_out_of_range(tile: Any, overlap: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        Tiling.of(tile, overlap)
    assert part in str(caught.value)


def test_options_not_given() -> None:
    assert Tiling.of(None) is None
    assert Tiling.of("640") == Tiling(640, 0.2)
