"""One scene of the embedded data set: a crop of a photograph, clutter on it, digits on that, a camera's faults.

A digit's 8 x 8 pixels are enlarged smoothly, their grey edge is sharpened into ink, and the ink is turned,
sheared by its aspect, and laid on in a colour that stands off from what is under it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from alignrank.data.samples import Array

SCENE_SIDE = 320
MIN_HEIGHT, MAX_HEIGHT = 32.0, 110.0
MAX_ANGLE = 15.0
# Of a digit's ink, what other digits may hide.
MAX_HIDDEN = 0.15
# Ink opacity from which a pixel belongs to the digit's box.
INKED = 0.4
_MASK_SIDE = 96
# The edge of the ink lies at half of full grey; a tenth to either side is left for antialiasing.
_RAMP = [round(255 * min(1.0, max(0.0, (v / 255 - 0.4) / 0.2))) for v in range(256)]
_LUMINANCE = np.array([0.3, 0.59, 0.11], np.float32)
_TRIES = 25
Rng = np.random.Generator


@dataclass(slots=True)
class Scene:
    """image uint8 [320,320,3]; boxes float64 [T,4] xyxy pixels; labels int64 [T]."""

    image: Array
    boxes: Array
    labels: Array


@dataclass(slots=True)
class _Canvas:
    """pixels float32 [S,S,3] 0..255. owner [S,S]: index of the digit whose ink is on top, -1 none.

    ink, hidden: per digit, its inked pixels and how many of them later digits cover.
    """

    pixels: Array
    owner: Array = field(default_factory=lambda: np.full((SCENE_SIDE, SCENE_SIDE), -1, np.int64))
    ink: list[int] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)


class Artist:
    """Draws scenes from photographs uint8 [H,W,3], digits float32 [N,8,8] in 0..1 and their values int64 [N]."""

    def __init__(self, photographs: Sequence[Array], digits: Array, values: Array) -> None:
        self.photographs = [Image.fromarray(photograph) for photograph in photographs]
        self.digits = digits
        self.values = values

    def draw(self, rng: Rng) -> Scene:
        """A new scene with 4 to 11 digits (fewer where they find no place)."""
        canvas = _Canvas(_background(self.photographs[rng.integers(len(self.photographs))], rng))
        for _ in range(rng.integers(0, 4)):
            self._add_distractor(canvas, rng)
        labels = []
        for _ in range(rng.integers(4, 12)):
            chosen = int(rng.integers(len(self.digits)))
            if self._add_digit(canvas, self.digits[chosen], rng):
                labels.append(int(self.values[chosen]))
        image = _photographed(canvas.pixels, rng)
        return Scene(image, np.array(canvas.boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64))

    def _add_digit(self, canvas: _Canvas, digit: Array, rng: Rng) -> bool:
        ink = ink_mask(digit, _height(rng), rng.uniform(-MAX_ANGLE, MAX_ANGLE), math.exp(rng.uniform(-0.18, 0.18)))
        for _ in range(_TRIES):
            left, top = _place(canvas, ink.shape, rng)
            if _accept(canvas, ink, left, top):
                opacity = rng.uniform(0.7, 0.9) if rng.random() < 0.2 else 1.0
                _lay(canvas.pixels, ink * opacity, left, top, _colour(canvas.pixels, ink, left, top, rng))
                return True
        return False

    def _add_distractor(self, canvas: _Canvas, rng: Rng) -> None:
        kind = rng.random()
        if kind < 0.25:
            ink = ink_mask(_scrambled(self.digits, rng), _height(rng), rng.uniform(-45, 45), 1.0)
        else:
            ink = _strokes(rng)
        height, width = ink.shape
        left, top = (int(rng.integers(0, max(1, SCENE_SIDE - side))) for side in (width, height))
        _lay(canvas.pixels, ink * rng.uniform(0.6, 1.0), left, top, _colour(canvas.pixels, ink, left, top, rng))


def ink_mask(digit: Array, height: float, angle: float, aspect: float) -> Array:
    """float32 [8,8] in 0..1 -> opacity [h,w] in 0..1, cut to its ink, h about `height` pixels.

    angle: degrees counter-clockwise. aspect: extra width over height.
    """
    padded = np.pad(digit, 1)
    large = Image.fromarray((padded * 255).astype(np.uint8)).resize((_MASK_SIDE, _MASK_SIDE), Image.Resampling.BICUBIC)
    turned = large.point(_RAMP).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    box = turned.point([0] * 100 + [255] * 156).getbbox()
    assert box is not None
    cut = turned.crop(box)
    scale = height / cut.height
    size = (max(3, round(cut.width * scale * aspect)), max(6, round(height)))
    return np.asarray(cut.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)).astype(
        np.float32
    ) / np.float32(255)


def _height(rng: Rng) -> float:
    return float(math.exp(rng.uniform(math.log(MIN_HEIGHT), math.log(MAX_HEIGHT))))


def _background(photograph: Image.Image, rng: Rng) -> Array:
    """float32 [S,S,3] 0..255: a random square of the photograph, mirrored and re-coloured at random."""
    width, height = photograph.size
    largest = min(width, height)
    side = int(rng.uniform(min(200, largest), largest + 1))
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    crop = photograph.resize((SCENE_SIDE, SCENE_SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    pixels = np.asarray(crop).astype(np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    contrast, shift = rng.uniform(0.6, 1.0), rng.uniform(-25, 25)
    tint = rng.uniform(0.88, 1.12, 3).astype(np.float32)
    adjusted: Array = np.clip(((pixels - 128) * contrast + 128 + shift) * tint, 0, 255)
    return adjusted


def _place(canvas: _Canvas, shape: tuple[int, int], rng: Rng) -> tuple[int, int]:
    """Left and top: anywhere inside, or, in a third of the tries, touching a digit that is there."""
    height, width = shape
    room_x, room_y = SCENE_SIDE - width, SCENE_SIDE - height
    if canvas.boxes and rng.random() < 0.3:
        x1, y1, x2, y2 = canvas.boxes[rng.integers(len(canvas.boxes))]
        reach = rng.uniform(0.55, 1.0), rng.uniform(-0.5, 0.5)
        side = 1 if rng.random() < 0.5 else -1
        cx = (x1 + x2) / 2 + side * reach[0] * (x2 - x1 + width) / 2
        cy = (y1 + y2) / 2 + reach[1] * (y2 - y1 + height) / 2
        return (int(min(max(cx - width / 2, 0), room_x)), int(min(max(cy - height / 2, 0), room_y)))
    return int(rng.integers(0, room_x + 1)), int(rng.integers(0, room_y + 1))


def _accept(canvas: _Canvas, ink: Array, left: int, top: int) -> bool:
    """Enter a digit at a place unless it would hide too much of another one."""
    height, width = ink.shape
    inked = ink >= INKED
    region = canvas.owner[top : top + height, left : left + width]
    covered = np.bincount(region[inked & (region >= 0)], minlength=len(canvas.ink))
    if any(h + c > MAX_HIDDEN * i for h, c, i in zip(canvas.hidden, covered.tolist(), canvas.ink, strict=True)):
        return False
    # A small digit wholly on the ink of a large one would be legible but absurd.
    if covered.sum() > 0.6 * inked.sum():
        return False
    canvas.hidden = [h + c for h, c in zip(canvas.hidden, covered.tolist(), strict=True)]
    region[inked] = len(canvas.ink)
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    canvas.boxes.append(
        (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
    )
    canvas.ink.append(int(inked.sum()))
    canvas.hidden.append(0)
    return True


def _colour(pixels: Array, ink: Array, left: int, top: int, rng: Rng) -> Array:
    """float32 [3]: light, dark or coloured, and well lighter or darker than what it covers."""
    height, width = ink.shape
    under = (pixels[top : top + height, left : left + width] @ _LUMINANCE)[ink >= INKED]
    middle, spread = float(under.mean()), float(under.std())
    distance = rng.uniform(90, 160) + 0.5 * spread
    lighter = middle + distance <= 255 if middle < 128 else middle - distance < 0
    if rng.random() < 0.25 and 100 < middle < 155:
        lighter = not lighter
    brightness = min(250.0, middle + distance) if lighter else max(5.0, middle - distance)
    colour = rng.uniform(-1, 1, 3) * rng.choice([0.0, 30.0, 70.0])
    colour -= colour @ _LUMINANCE
    mixed: Array = np.clip(brightness + colour, 0, 255).astype(np.float32)
    return mixed


def _lay(pixels: Array, opacity: Array, left: int, top: int, colour: Array) -> None:
    height, width = opacity.shape
    region = pixels[top : top + height, left : left + width]
    region += opacity[: region.shape[0], : region.shape[1], None] * (colour - region)


def _scrambled(digits: Array, rng: Rng) -> Array:
    """float32 [8,8]: the quarters of two digits in another order and turned: ink that is no digit."""
    one, two = digits[rng.integers(len(digits), size=2)]
    quarters = [one[4:, 4:], two[4:, :4], one[:4, 4:], two[:4, :4]]
    turned = [np.rot90(quarter, int(rng.integers(1, 4))) for quarter in quarters]
    return np.block([[turned[0], turned[1]], [turned[2], turned[3]]])


def _strokes(rng: Rng) -> Array:
    """Opacity [h,w] of an angular figure: a zigzag, a star of lines, or an open polygon."""
    side = int(rng.integers(30, 140))
    figure = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(figure)
    width = max(3, int(2 * side * rng.uniform(0.02, 0.07)))
    kind = rng.integers(3)
    if kind == 0:
        xs = np.linspace(0.08, 0.92, int(rng.integers(4, 8))) * 2 * side
        ys = (0.5 + rng.uniform(0.1, 0.4, len(xs)) * np.resize([1, -1], len(xs))) * 2 * side
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=255, width=width, joint="curve")
    elif kind == 1:
        for turn in rng.uniform(0, math.pi) + np.arange(3) * math.pi / 3:
            dx, dy = 0.9 * side * math.cos(turn), 0.9 * side * math.sin(turn)
            draw.line([(side - dx, side - dy), (side + dx, side + dy)], fill=255, width=width)
    else:
        corners = (rng.uniform(0.08, 0.92, (int(rng.integers(3, 5)), 2)) * 2 * side).tolist()
        draw.line([*(tuple(c) for c in corners), tuple(corners[0])], fill=255, width=width, joint="curve")
    small = figure.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).astype(np.float32) / np.float32(255)


def _photographed(pixels: Array, rng: Rng) -> Array:
    """uint8 [S,S,3]: slight blur, sensor noise, and a change of exposure."""
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(float(rng.choice([0.0, 0.25, 0.5, 0.8], p=[0.2, 0.4, 0.3, 0.1]))))
    noise = rng.standard_normal((SCENE_SIDE, SCENE_SIDE, 1), np.float32) * np.float32(rng.uniform(0, 8))
    exposed: Array = (np.asarray(image) * np.float32(rng.uniform(0.85, 1.1)) + noise).clip(0, 255).astype(np.uint8)
    return exposed
