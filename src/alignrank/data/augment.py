"""Fitting images to the network's input, plain (letterbox) and with random augmentation.

Everything is "place images on a canvas": an image is resized by one factor and pasted at an integer
position, so boxes follow exactly and no canvas of four times the area is ever warped. Resizing is
`transforms.v2`'s; colour is one 3x3 matrix, 20 times cheaper than v2's hue on uint8 (docs/decisions/0002).

Boxes [T,4] float32 xyxy. Images [3,H,W] uint8. Random numbers come only from the generator passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from alignrank.config import Config
from alignrank.contracts import Batch, Frame, Targets

GREY = 114
# A cropped box stays an object if it keeps this share of its area and this many pixels on each side.
MIN_VISIBLE, MIN_SIDE = 0.1, 2.0


class AugmentConfig(Config):
    """Probabilities and ranges; all 0 is plain letterboxing.

    mosaic, mixup, flip, flip_vertical: probabilities. scale: zoom in [1-scale, 1+scale]; translate: shift
    as a share of the side; hue (turns), saturation, brightness: half-ranges around no change.
    multi_scale: batch sides vary by this share. plain_epochs: the last epochs go without mosaic and mixup.
    """

    mosaic: float = Field(default=1.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    scale: float = Field(default=0.5, ge=0, lt=1)
    translate: float = Field(default=0.1, ge=0, lt=1)
    hue: float = Field(default=0.015, ge=0, le=0.5)
    saturation: float = Field(default=0.7, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    multi_scale: float = Field(default=0.0, ge=0, lt=1)
    plain_epochs: int = Field(default=10, ge=0, le=100_000)

    @classmethod
    def off(cls) -> AugmentConfig:
        """No augmentation at all."""
        return cls(mosaic=0.0, flip=0.0, scale=0.0, translate=0.0, hue=0.0, saturation=0.0, brightness=0.0)


@dataclass(slots=True)
class Picture:
    """An image with its objects: pixels [3,H,W] uint8, boxes [T,4] in its pixels, labels [T] int64."""

    pixels: Tensor
    boxes: Tensor
    labels: Tensor


def fit_scale(size: tuple[int, int], side: int) -> float:
    """The factor that makes the longer side of (height, width) equal `side`."""
    return side / max(size)


def letterbox(pixels: Tensor, side: int) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """[3,H,W] -> [3,side,side], with the (x,y) scale and offset of `Frame`. Grey where the image does not reach."""
    height, width = pixels.shape[-2:]
    factor = fit_scale((height, width), side)
    resized, scale = resize(pixels, factor)
    new_height, new_width = resized.shape[-2:]
    top, left = (side - new_height) // 2, (side - new_width) // 2
    canvas = torch.full((3, side, side), GREY, dtype=torch.uint8)
    canvas[:, top : top + new_height, left : left + new_width] = resized
    return canvas, scale, (float(left), float(top))


def resize(pixels: Tensor, factor: float) -> tuple[Tensor, tuple[float, float]]:
    """Scale by `factor` to whole pixels; also returns the exact (x,y) factors that this came to."""
    height, width = pixels.shape[-2:]
    new_height, new_width = max(round(height * factor), 1), max(round(width * factor), 1)
    if (new_height, new_width) != (height, width):
        pixels = v2.resize(pixels, [new_height, new_width], antialias=True)
    return pixels, (new_width / width, new_height / height)


def augment(
    picture: Callable[[int], Picture],
    index: int,
    count: int,
    side: int,
    config: AugmentConfig,
    *,
    strong: bool,
    rng: np.random.Generator,
) -> Picture:
    """A random training picture of `side` x `side` made from picture(index) and, when `strong`, others.

    picture(i) gives picture i of `count`, its longer side at most about `side`.
    """
    result = _scene(picture, index, count, side, config, strong=strong, rng=rng)
    if strong and rng.random() < config.mixup:
        other = _scene(picture, int(rng.integers(count)), count, side, config, strong=strong, rng=rng)
        result = _mix(result, other, float(rng.beta(32.0, 32.0)))
    result.pixels = _colour(result.pixels, config, rng)
    if rng.random() < config.flip:
        result = flipped(result)
    if rng.random() < config.flip_vertical:
        result = _flipped_vertically(result)
    return result


def flipped(picture: Picture) -> Picture:
    """Mirrored left to right."""
    width = picture.pixels.shape[-1]
    x0, y0, x1, y1 = picture.boxes.unbind(-1)
    boxes = torch.stack([width - x1, y0, width - x0, y1], -1)
    return Picture(v2.horizontal_flip(picture.pixels), boxes, picture.labels)


def _flipped_vertically(picture: Picture) -> Picture:
    height = picture.pixels.shape[-2]
    x0, y0, x1, y1 = picture.boxes.unbind(-1)
    boxes = torch.stack([x0, height - y1, x1, height - y0], -1)
    return Picture(v2.vertical_flip(picture.pixels), boxes, picture.labels)


def _scene(
    picture: Callable[[int], Picture],
    index: int,
    count: int,
    side: int,
    config: AugmentConfig,
    *,
    strong: bool,
    rng: np.random.Generator,
) -> Picture:
    zoom = float(rng.uniform(1 - config.scale, 1 + config.scale))
    shift_x, shift_y = (float(v) * side for v in rng.uniform(-config.translate, config.translate, 2))
    middle_x, middle_y = side / 2 + shift_x, side / 2 + shift_y
    canvas = torch.full((3, side, side), GREY, dtype=torch.uint8)
    everything = (0, 0, side, side)
    if not (strong and rng.random() < config.mosaic):
        own = picture(index)
        factor = fit_scale((own.pixels.shape[-2], own.pixels.shape[-1]), side) * zoom
        height, width = (length * factor for length in own.pixels.shape[-2:])
        return _joined(canvas, [_paste(canvas, own, factor, middle_x - width / 2, middle_y - height / 2, everything)])

    # Four images meet at a point that lies up to half a side off the middle, before zooming.
    meet_x, meet_y = (float(v) * side * zoom for v in rng.uniform(-0.5, 0.5, 2))
    x, y = round(middle_x + meet_x), round(middle_y + meet_y)
    placed = []
    for corner, chosen in enumerate([index, *rng.integers(count, size=3).tolist()]):
        own = picture(chosen)
        factor = fit_scale((own.pixels.shape[-2], own.pixels.shape[-1]), side) * zoom
        height, width = (max(round(length * factor), 1) for length in own.pixels.shape[-2:])
        right, below = corner % 2 == 1, corner >= 2
        left, top = x if right else x - width, y if below else y - height
        quadrant = (x if right else 0, y if below else 0, side if right else x, side if below else y)
        placed.append(_paste(canvas, own, factor, left, top, quadrant))
    return _joined(canvas, placed)


def _paste(
    canvas: Tensor, picture: Picture, factor: float, left: float, top: float, window: tuple[int, int, int, int]
) -> Picture:
    """Paste the scaled picture into canvas where the window (x0,y0,x1,y1) shows it; its visible objects."""
    left, top = round(left), round(top)
    height, width = (max(round(length * factor), 1) for length in picture.pixels.shape[-2:])
    x0, y0 = max(left, window[0], 0), max(top, window[1], 0)
    x1 = min(left + width, window[2], canvas.shape[-1])
    y1 = min(top + height, window[3], canvas.shape[-2])
    if x0 >= x1 or y0 >= y1:
        return Picture(canvas, picture.boxes[:0], picture.labels[:0])
    resized, (scale_x, scale_y) = resize(picture.pixels, factor)
    canvas[:, y0:y1, x0:x1] = resized[:, y0 - top : y1 - top, x0 - left : x1 - left]
    boxes = picture.boxes * picture.boxes.new_tensor([scale_x, scale_y] * 2)
    boxes = boxes + boxes.new_tensor([left, top] * 2)
    boxes, kept = clip(boxes, (x0, y0, x1, y1))
    return Picture(canvas, boxes, picture.labels[kept])


def clip(boxes: Tensor, window: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Boxes cut to a window (x0,y0,x1,y1); those with enough left, and the mask [T] that chose them."""
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low, high = boxes.new_tensor(window[:2] * 2), boxes.new_tensor(window[2:] * 2)
    cut = boxes.maximum(low).minimum(high)
    side = cut[:, 2:] - cut[:, :2]
    # An object that was tiny before may stay so: only what the cut took away counts.
    long_enough = (side >= MIN_SIDE).all(1) | (cut == boxes).all(1)
    kept = (side[:, 0] * side[:, 1] > MIN_VISIBLE * whole) & (side > 0).all(1) & long_enough
    return cut[kept], kept


def _joined(canvas: Tensor, pictures: Sequence[Picture]) -> Picture:
    return Picture(canvas, torch.cat([p.boxes for p in pictures]), torch.cat([p.labels for p in pictures]))


def _mix(a: Picture, b: Picture, weight: float) -> Picture:
    """Mixup (Zhang et al. 2018) with the objects of both pictures at full weight, as detectors use it."""
    pixels = torch.lerp(b.pixels.float(), a.pixels.float(), weight).round_().to(torch.uint8)
    return Picture(pixels, torch.cat([a.boxes, b.boxes]), torch.cat([a.labels, b.labels]))


# RGB -> luma and two chroma axes (ITU-R BT.601 YIQ); hue is a rotation of the chroma plane.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


def _colour(pixels: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    hue, saturation, brightness = rng.uniform(-1, 1, 3) * [config.hue, config.saturation, config.brightness]
    if hue == saturation == brightness == 0:
        return pixels
    cos, sin = math.cos(2 * math.pi * hue) * (1 + saturation), math.sin(2 * math.pi * hue) * (1 + saturation)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = torch.from_numpy((1 + brightness) * _RGB @ chroma @ _YIQ).float()
    mixed = matrix @ pixels.flatten(1).float()
    return mixed.clamp_(0, 255).to(torch.uint8).reshape(pixels.shape)


def resize_batch(batch: Batch, side: int) -> Batch:
    """The batch at another side (multi-scale training): images float [B,3,side,side], boxes and frames follow."""
    factor = side / batch.images.shape[-1]
    images = torch.nn.functional.interpolate(batch.images, (side, side), mode="bilinear", antialias=factor < 1)
    targets = [Targets(t.boxes * factor, t.labels) for t in batch.targets]
    frames = [
        Frame(
            f.source,
            f.size,
            (f.scale[0] * factor, f.scale[1] * factor),
            (f.offset[0] * factor, f.offset[1] * factor),
            f.image_id,
        )
        for f in batch.frames
    ]
    return Batch(images, targets, frames)
