"""Polygon or key points? Where no `kpt_shape` says it, a line of 7, 9, 11, ... columns can be read as both.

As key points a line is a box inside the image with the points in it. As a polygon its corners follow one another:
edges do not cross, and the first two corners (centre and size of a box, else) lie by the others. Lines are judged
together: all objects of a data set have the same number of key points, polygons seldom have as many corners.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from alignrank.data.samples import Array

KeyPoints = tuple[int, int]  # kpt_shape: how many, and numbers for each: x, y or x, y, visibility
# Lines judged for each number of columns; the longest line that is.
_MAX_JUDGED, _MAX_COLUMNS = 100, 600
# Numbers of columns after which the lines are polygons for certain.
_MAX_COUNTS = 20
# Share of the lines that must agree, and that must look like polygons where they may be some.
_AGREE, _SOME = 0.9, 0.5
# Annotators put points a little beside the box: share of its sides. Share of the points that lie in it.
_BESIDE, _INSIDE = 0.1, 0.75
_BORDER = 0.01
_FEW = 7  # corners


@dataclass(frozen=True, slots=True)
class PoseReading:
    """`class cx cy w h`, key points, and perhaps a confidence behind them."""

    key_points: KeyPoints
    confidence: bool

    def __str__(self) -> str:
        number, size = self.key_points
        text = f"{number} key point{'s' * (number != 1)}{' with visibility' * (size == 3)}"
        return f"class cx cy w h with {text}{' and a confidence' * self.confidence}"


@dataclass(frozen=True, slots=True)
class Doubt:
    """What the lines may be. columns, lines: of the lines in doubt; likely: whether they are no polygons."""

    columns: int
    lines: int
    reading: PoseReading
    likely: bool


def pose_readings(columns: int) -> list[PoseReading]:
    """All boxes with key points that a line of so many columns can be, with visibility first."""
    found = []
    for confidence in (False, True):
        for size in (3, 2):
            number, rest = divmod(columns - 5 - confidence, size)
            if number >= 1 and not rest:
                found.append(PoseReading((number, size), confidence))
    return found


class Readings:
    """Evidence from the lines of a data set that were read as polygons."""

    def __init__(self) -> None:
        self._lines: Counter[int] = Counter()
        self._judged: Counter[int] = Counter()
        self._poses: Counter[tuple[int, PoseReading]] = Counter()
        self._polygons: Counter[tuple[int, PoseReading]] = Counter()

    def add(self, values: list[float]) -> None:
        """values: the numbers behind the class, 6 or more, in pairs."""
        columns = 1 + len(values)
        self._lines[columns] += 1
        if self._judged[columns] == _MAX_JUDGED or len(self._lines) > _MAX_COUNTS or columns > _MAX_COLUMNS:
            return
        self._judged[columns] += 1
        numbers = np.array(values)
        outline = _is_outline(numbers.reshape(-1, 2))
        for reading in pose_readings(columns):
            self._poses[columns, reading] += _is_pose(numbers, reading)
            self._polygons[columns, reading] += outline and not _has_marks(numbers, reading)

    def doubt(self) -> Doubt | None:
        """None where the lines are polygons."""
        for columns, lines in self._lines.most_common(1):
            judged = self._judged[columns]
            fitting = [r for r in pose_readings(columns) if self._poses[columns, r] >= _AGREE * judged]
            if fitting and judged and lines >= _AGREE * self._lines.total():
                reading = min(fitting, key=lambda r: (self._polygons[columns, r], -self._poses[columns, r]))
                return Doubt(columns, lines, reading, self._polygons[columns, reading] < _SOME * judged)
        return None


def _is_pose(values: Array, reading: PoseReading) -> bool:
    """Whether the first four numbers are a box in the image, and nearly all points that are marked lie in it."""
    centre, side = values[:2], values[2:4]
    if side.min() <= 0 or (centre - side / 2).min() < -_BORDER or (centre + side / 2).max() > 1 + _BORDER:
        return False
    number, size = reading.key_points
    points = values[4 : 4 + number * size].reshape(number, size)
    marked = points[points[:, :2].any(1), :2]
    inside = (np.abs(marked - centre) <= side * (0.5 + _BESIDE) + _BORDER).all(1)
    return bool(inside.sum() >= _INSIDE * len(marked))


def _has_marks(values: Array, reading: PoseReading) -> bool:
    """Whether there are visibilities, all 0, 1 or 2: a polygon seldom has its corners on the border just there."""
    number, size = reading.key_points
    if size != 3 or number == 1:
        return False
    return bool(np.isin(values[6 : 4 + number * size : size], (0, 1, 2)).all())


def _is_outline(corners: Array) -> bool:
    """Whether corners [N,2] can be those of a polygon; True where they are too few to tell."""
    if len(corners) < 5:
        return True
    low, high = corners[2:].min(0), corners[2:].max(0)
    # Of few corners the others may be one side of the polygon.
    reach = (high - low).max() * (1 if len(corners) > _FEW else 3)
    if (corners[:2] < low - reach).any() or (corners[:2] > high + reach).any():
        return False
    # Edge i from corner i to the next; two cross if each has the other's ends on its two sides.
    edge = np.roll(corners, -1, axis=0) - corners
    to_start = corners[None] - corners[:, None]
    start = edge[:, None, 0] * to_start[..., 1] - edge[:, None, 1] * to_start[..., 0]
    apart = start * np.roll(start, -1, axis=1) < 0
    return not (apart & apart.T).any()
