"""Where tiles lie on a picture, and which boxes they see whole.

Boxes and windows are x0, y0, x1, y1 in pixels of the picture. Shape letters: N boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from alignrank.arguments import number, whole
from alignrank.errors import InputError

USUAL_OVERLAP, MOST_OVERLAP = 0.2, 0.9
SMALLEST_TILE = 32
# Of a tile's side, and px at least: a network's box of what a border cuts ends so near to it.
MARGIN, LEAST_MARGIN = 0.01, 2.0
Window = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """side: of the square tiles, px of the picture. overlap: the share of a side that neighbours have in common, or
    more where the picture's side asks for it.

    Raises InputError naming the option that is out of range.
    """

    side: int
    overlap: float = USUAL_OVERLAP

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", whole("tile", self.side, least=SMALLEST_TILE))
        object.__setattr__(self, "overlap", number("overlap", self.overlap))
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"overlap: must be from 0 to {MOST_OVERLAP}, got {self.overlap}")

    @classmethod
    def of(cls, tile: Any, overlap: Any = None) -> Tiling | None:
        """From a user's options, None where no tiles are asked for. Raises InputError for an overlap without tiles."""
        if tile is None:
            if overlap is not None:
                raise InputError("overlap: is of tiles; give tile, too")
            return None
        return cls(tile, USUAL_OVERLAP if overlap is None else overlap)

    def grid(self, size: tuple[int, int]) -> Grid:
        """Of a picture of (height, width)."""
        rows, columns = (_spans(length, self.side, self.overlap) for length in size)
        return Grid(size, rows, columns, max(LEAST_MARGIN, MARGIN * self.side))


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of a picture of `size` (height, width): every span of `rows` (y0, y1) with every one of `columns`
    (x0, x1). margin: px from an inner border within which a box counts as cut by it.
    """

    size: tuple[int, int]
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    margin: float

    @property
    def picture(self) -> Window:
        """The window that shows all of it."""
        return 0, 0, self.size[1], self.size[0]

    def windows(self) -> list[Window]:
        """Of the tiles, row by row; of more than one tile the whole picture at the end."""
        tiles = [(x0, y0, x1, y1) for y0, y1 in self.rows for x0, x1 in self.columns]
        return tiles if len(tiles) == 1 else [*tiles, self.picture]

    def cut(self, boxes: Tensor, windows: Tensor) -> Tensor:
        """[N,4] boxes, each seen in its window [N,4] -> [N], whether one touches a border that is not the picture's."""
        edges = boxes.new_tensor(self.picture)
        return ((windows != edges) & ((boxes - windows).abs() <= self.margin)).any(-1)

    def seen_whole(self, boxes: Tensor) -> Tensor:
        """[N,4] -> [N], whether some tile has one within it and away from its inner borders."""
        x0, y0, x1, y1 = boxes.unbind(-1)
        height, width = self.size
        return self._within(x0, x1, self.columns, width) & self._within(y0, y1, self.rows, height)

    def _within(self, low: Tensor, high: Tensor, spans: tuple[tuple[int, int], ...], length: int) -> Tensor:
        """One axis of `seen_whole`: the picture's own edges cut nothing."""
        begins = low.new_tensor([-math.inf if begin == 0 else begin + self.margin for begin, _ in spans])
        ends = low.new_tensor([math.inf if end == length else end - self.margin for _, end in spans])
        return ((low[:, None] > begins) & (high[:, None] < ends)).any(-1)


def _spans(length: int, side: int, overlap: float) -> tuple[tuple[int, int], ...]:
    """As few spans of `side` as cover `length` px with that overlap, spread evenly; one of `length` if that is less."""
    if length <= side:
        return ((0, length),)
    # Products of shares are not exact: a hair more than a whole number is meant to be it.
    count = math.ceil((length - side) / (side * (1 - overlap)) - 1e-6) + 1
    begins = np.linspace(0, length - side, count).round().astype(int).tolist()
    return tuple((begin, begin + side) for begin in begins)
