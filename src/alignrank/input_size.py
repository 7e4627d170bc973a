"""How large the network's input is, and how an image is fitted into it.

`imgsz` is one number, the longer side of the image as the network sees it, or a pair (shorter, longer): the image is
scaled until its shorter side has the first length, but not so far that its longer side has more than the second, as
Detectron's family trains.

The canvas that the image lies on is a square of that side, or, `rect`, the image's own shape with both sides rounded up
to a multiple of the network's stride. A pair has no square: its canvas is always the image's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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


@dataclass(frozen=True, slots=True)
class InputSize:
    """longer: px; shorter: px, None where `imgsz` is one number; rect: the canvas has the image's own shape;
    corner: the image lies in the canvas's upper left corner, not in its middle.
    """

    longer: int
    shorter: int | None = None
    rect: bool = False
    step: int = SIDE_STEP
    corner: bool = False

    @classmethod
    def of(cls, imgsz: ImageSize, *, rect: bool, step: int = SIDE_STEP, corner: bool = False) -> InputSize:
        """From an `imgsz` that has been checked; a pair is always `rect`."""
        if isinstance(imgsz, int):
            return cls(imgsz, None, rect, step, corner)
        shorter, longer = imgsz
        return cls(longer, shorter, True, step, corner)

    @property
    def imgsz(self) -> ImageSize:
        """What `of` was given."""
        return self.longer if self.shorter is None else (self.shorter, self.longer)

    @property
    def side(self) -> int:
        """px, of the side that `imgsz` is about: the shorter one where it is a pair, else the longer."""
        return self.longer if self.shorter is None else self.shorter

    def scale(self, size: Size) -> float:
        """The factor by which an image of (height, width) is resized."""
        factor = self.longer / max(size)
        return factor if self.shorter is None else min(factor, self.shorter / min(size))

    def canvas(self, size: Size) -> Size:
        """(height, width) of the canvas for an image of (height, width)."""
        if not self.rect:
            return self.longer, self.longer
        factor = self.scale(size)
        height, width = (up_to_step(max(round(length * factor), 1), self.step) for length in size)
        return height, width

    @property
    def landscape(self) -> Size:
        """(height, width) of the one canvas that an exported graph has."""
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
