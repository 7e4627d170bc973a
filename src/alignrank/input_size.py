"""How large the network's input is, and how an image is fitted into it.

`imgsz` is one number, the longer side of the image as the network sees it, or a pair (shorter, longer): the image is
scaled until its shorter side has the first length, but not so far that its longer side has more than the second, as
Detectron's family trains.

The canvas that the image lies on is a square of that side, or, `rect`, the image's own shape with both sides rounded up
to a multiple of the network's stride. A pair has no square: its canvas is always the image's own.

How exactly is a `Fit`. Ours is the default; the others give the pixels of other libraries' own processors, whose
networks are used with their weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from alignrank.arguments import whole
from alignrank.errors import InputError

# Of a square in training; the coarsest stride of all recipes' networks.
SIDE_STEP = 32
# 800 MB an image in float32.
MAX_SIDE = 8192
# 0..255, of the canvas around an image.
GREY = 114

ImageSize: TypeAlias = "int | Sequence[int]"
Size: TypeAlias = tuple[int, int]
Sides: TypeAlias = Literal["nearest", "floor", "detr", "stretch"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image is resized, and where it lies on its canvas.

    sides: lengths that one factor gives become whole pixels, at least one: `nearest`, halves to even; `floor`, rounded
    down, as in torchvision's detectors; `detr`, as in DETR and its successors: the shorter side to the nearest, the
    longer one down, and the image as it is where the shorter side is right. Or there are two factors, and `stretch`
    gives every image the shape of the canvas, of a pair as a landscape (shorter high, longer wide): RT-DETR, D-FINE.
    antialias: bilinear with a filter as wide as the reduction, to whole numbers of 0..255; else between the four
    nearest pixels, to floats that are not rounded: torchvision's detectors, RF-DETR.
    corner: in the canvas's upper left corner, not in its middle.
    """

    sides: Sides = "nearest"
    antialias: bool = True
    corner: bool = False


@dataclass(frozen=True, slots=True)
class InputSize:
    """longer: px; shorter: px, None where `imgsz` is one number; rect: the canvas has the image's own shape, else it is
    a square or, of a pair (an exported graph's), a landscape into which every image is made to fit; step: the sides of
    an image's own canvas are multiples of it, px.
    """

    longer: int
    shorter: int | None = None
    rect: bool = False
    step: int = SIDE_STEP
    fit: Fit = Fit()

    @classmethod
    def of(cls, imgsz: ImageSize, *, rect: bool, step: int = SIDE_STEP, fit: Fit = Fit()) -> InputSize:
        """From an `imgsz` that has been checked; a pair is always `rect`, what is stretched never."""
        rect = (rect or not isinstance(imgsz, int)) and fit.sides != "stretch"
        if isinstance(imgsz, int):
            return cls(imgsz, None, rect, step, fit)
        shorter, longer = imgsz
        return cls(longer, shorter, rect, step, fit)

    def for_stride(self, stride: int) -> InputSize:
        """The same for a network of this stride. Raises InputError where `imgsz` does not suit it."""
        check_size(self.imgsz, stride)
        return replace(self, step=stride)

    def of_side(self, side: int) -> InputSize:
        """The same fit at another `side`, px."""
        if self.shorter is None:
            return replace(self, longer=side)
        longer = round(self.longer * side / self.shorter) if self.fit.sides == "stretch" else self.longer
        return replace(self, shorter=side, longer=longer)

    @property
    def imgsz(self) -> ImageSize:
        """What `of` was given."""
        return self.longer if self.shorter is None else (self.shorter, self.longer)

    @property
    def side(self) -> int:
        """px, of the side that `imgsz` is about: the shorter one where it is a pair, else the longer."""
        return self.longer if self.shorter is None else self.shorter

    def scale(self, size: Size) -> float:
        """The factor by which an image of (height, width) is resized, but for what is rounded; not of `stretch`."""
        factor = self.longer / max(size)
        return factor if self.shorter is None else min(factor, self.shorter / min(size))

    def content(self, size: Size) -> Size:
        """(height, width) px that an image of (height, width) is resized to."""
        if self.fit.sides == "stretch":
            return self.side, self.longer
        if self.fit.sides == "detr":
            height, width = self._as_detr(size)
        else:
            factor, whole = self.scale(size), math.floor if self.fit.sides == "floor" else round
            height, width = (whole(length * factor) for length in size)
        if not self.rect:
            height, width = self._on_canvas(size, (height, width))
        return max(height, 1), max(width, 1)

    def _on_canvas(self, size: Size, content: Size) -> Size:
        """`content` of an image of (height, width), or what fits into a landscape where that, of a pair, does not."""
        most = self.landscape
        if content[0] <= most[0] and content[1] <= most[1]:
            return content
        factor = min(limit / length for limit, length in zip(most, size, strict=True))
        height, width = (round(length * factor) for length in size)
        return height, width

    def _as_detr(self, size: Size) -> Size:
        least, most = min(size), max(size)
        # The order of these products decides about the last pixel.
        if self.shorter is not None and most / least * self.shorter <= self.longer:
            exact, shorter = float(self.shorter), self.shorter
        else:
            exact = self.longer * least / most
            shorter = round(exact)
        if least == shorter and self.shorter is not None:
            return size
        longer = int(exact * most / least)
        return (shorter, longer) if size[0] <= size[1] else (longer, shorter)

    def around(self, content: Size) -> Size:
        """(height, width) of the canvas for an image that has been resized to `content`."""
        if not self.rect:
            return self.landscape
        return up_to_step(content[0], self.step), up_to_step(content[1], self.step)

    def canvas(self, size: Size) -> Size:
        """(height, width) of the canvas for an image of (height, width)."""
        return self.around(self.content(size))

    @property
    def landscape(self) -> Size:
        """(height, width) of the one canvas that there is of squares, of `stretch` and of an exported graph."""
        if self.shorter is None:
            return self.longer, self.longer
        return up_to_step(self.shorter, self.step), up_to_step(self.longer, self.step)


def up_to_step(length: int, step: int) -> int:
    """The least multiple of `step` that is not less than `length`."""
    return -(-length // step) * step


def problem_of(imgsz: Any, step: int = SIDE_STEP) -> str | None:
    """What is wrong with an `imgsz` for a network of stride `step`, None if nothing."""
    if isinstance(imgsz, int) and not isinstance(imgsz, bool):
        fits = step <= imgsz <= MAX_SIDE and imgsz % step == 0
        return None if fits else f"must be a multiple of {step} up to {MAX_SIDE}"
    pair = isinstance(imgsz, list | tuple) and len(imgsz) == 2
    if not pair or not all(isinstance(side, int) and not isinstance(side, bool) for side in imgsz):
        return "must be one number, or a pair: the shorter side and the most that the longer may have"
    shorter, longer = imgsz
    if not step <= shorter <= longer <= MAX_SIDE:
        return f"must be a pair of sides from {step} to {MAX_SIDE}, the shorter first"
    return None


def plain_size(imgsz: Any) -> Any:
    """`imgsz` of numbers and lists of Python, from text, arrays and scalars; anything else as it is."""
    if isinstance(imgsz, str):
        return read_size(imgsz, "imgsz")
    if hasattr(imgsz, "tolist"):
        imgsz = imgsz.tolist()
    if isinstance(imgsz, list | tuple):
        return type(imgsz)(whole("imgsz", side) for side in imgsz)
    return int(imgsz) if isinstance(imgsz, float) and imgsz.is_integer() else imgsz


def check_size(imgsz: Any, step: int = SIDE_STEP) -> None:
    """Raises InputError unless a network of stride `step` takes it."""
    problem = problem_of(imgsz, step)
    if problem is not None:
        raise InputError(f"imgsz: {problem}, got {imgsz}")


def read_size(text: str | None, option: str = "--imgsz") -> int | list[int] | None:
    """`640`, `800,1333` or `800x1333`. Raises InputError naming the option for other text."""
    if text is None:
        return None
    try:
        sides = [int(word) for word in text.strip("[]() ").replace("x", ",").split(",")]
    except ValueError:
        raise InputError(f"{option}: must be a number or two, such as 640 or 800,1333, got {text!r}") from None
    return sides[0] if len(sides) == 1 else sides
