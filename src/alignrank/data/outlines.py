"""The upright boxes of what annotation tools draw, and numbers as their files hold them.

Boxes are x1, y1, x2, y2 in pixels. Angles are degrees clockwise, as y points down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from alignrank.data.faults import Box, LineError

Point = tuple[float, float]


def number(value: object, name: str) -> float:
    """A number of JSON (no text, no truth value) or the text of one in XML. Raises LineError naming the field."""
    kind = "invalid_record"
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        except OverflowError:  # an integer of hundreds of digits
            found, kind = math.inf, "non_finite"
        else:
            kind = "non_finite"
        if math.isfinite(found):
            return found
    raise LineError(kind, f"{name} must be a finite number, is {_shown(value)}")


def json_number(value: object, name: str) -> float:
    """The same, but text is none."""
    if isinstance(value, str):
        raise LineError("invalid_record", f"{name} must be a number, is the text {_shown(value)}")
    return number(value, name)


def json_points(value: object, name: str) -> list[Point]:
    """[[x, y], ...] of JSON. Raises LineError."""
    if not isinstance(value, list) or not all(isinstance(point, list) and len(point) == 2 for point in value):
        raise LineError("invalid_record", f"{name} must be a list of [x, y], is {_shown(value)}")
    return [(json_number(x, name), json_number(y, name)) for x, y in value]


def around(points: Iterable[Point]) -> Box:
    """The box of at least one point."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned(box: Box, degrees: float, pivot: Point | None = None) -> Box:
    """The upright box around `box` when that is turned about `pivot`, its middle where there is none."""
    if degrees % 360 == 0:
        return box
    x1, y1, x2, y2 = box
    x, y = pivot or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = _cos_sin(degrees)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return around((x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos) for a, b in corners)


def ellipse(middle: Point, radii: Point, degrees: float = 0.0) -> Box:
    """The box around an ellipse turned about its middle: half its width is sqrt((rx cos)^2 + (ry sin)^2)."""
    (x, y), (rx, ry), (cos, sin) = middle, radii, _cos_sin(degrees)
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - half_width, y - half_height, x + half_width, y + half_height


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Exact at quarter turns, so that a side does not end a billionth of a pixel beyond another."""
    quarter, rest = divmod(degrees % 360, 90)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    for _ in range(int(quarter)):
        cos, sin = -sin, cos
    return cos, sin


def enough(points: Sequence[Point], least: int, name: str) -> Sequence[Point]:
    """The points, if there are `least` of them. Raises LineError."""
    if len(points) < least:
        raise LineError("invalid_record", f"{name} must hold at least {least} points, holds {len(points)}")
    return points


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**80 else "an integer of more than 80 digits"
    return text if len(text) <= 100 else text[:100] + "..."
