"""Random augmentation of training pictures; without it they are fitted to the input as `letterbox` does.

Everything is "place images on a canvas": an image is resized by one factor and pasted at an integer
position, so boxes follow exactly and no canvas of four times the area is ever warped. Colour is one 3x3
matrix, 20 times cheaper than v2's hue on uint8 (docs/decisions/0002).

Boxes [T,4] float32 xyxy. Images [3,H,W] uint8, or float32 0..255 where they are resized without antialias. Random
numbers come only from the generator passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from alignrank.boxes import mirrored
from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.balance import Draw, evenly
from alignrank.data.letterbox import grey, resize_window, shape_of, zoomed
from alignrank.data.picture import Picture, clip
from alignrank.data.rescale import rescaled
from alignrank.input_size import Fit, InputSize, Size
from alignrank.weights.settings import AugmentConfig


class Pictures(Protocol):
    """Pictures by number, each resized already as the network's input shows it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...


def augment(
    pictures: Pictures,
    index: int,
    size: InputSize,
    config: AugmentConfig,
    *,
    strong: bool,
    rng: np.random.Generator,
    partners: Draw | None = None,
) -> Picture:
    """A random training picture made from pictures[index] and, when `strong`, others. Its canvas is that of
    pictures[index]; where `config` rescales there is none, and the picture has a size of its own.

    partners: draws these others, all alike where it is not given.
    """
    first = pictures[index]
    if config.rescales:
        result = rescaled(first, size, config, rng)
    else:
        draw = partners or evenly(len(pictures))
        result = _Scenes(pictures, draw, size.fit, size.around(shape_of(first.pixels)), config, strong).mixed(
            first, rng
        )
    result.pixels = _colour(result.pixels, config, rng)
    if rng.random() < config.flip:
        result = flipped(result)
    if rng.random() < config.flip_vertical:
        result = _flipped_vertically(result)
    return result


def flipped(picture: Picture) -> Picture:
    """Mirrored left to right."""
    return Picture(picture.pixels.flip(-1), mirrored(picture.boxes, picture.pixels.shape[-1]), picture.labels)


def _flipped_vertically(picture: Picture) -> Picture:
    height = picture.pixels.shape[-2]
    x0, y0, x1, y1 = picture.boxes.unbind(-1)
    boxes = torch.stack([x0, height - y1, x1, height - y0], -1)
    return Picture(picture.pixels.flip(-2), boxes, picture.labels)


@dataclass(frozen=True, slots=True)
class _Scenes:
    """Pictures placed at random on canvases of one size, one by one or (when `strong`) four together."""

    pictures: Pictures
    partners: Draw
    fit: Fit
    canvas: Size
    config: AugmentConfig
    strong: bool

    def mixed(self, own: Picture, rng: np.random.Generator) -> Picture:
        """A scene with `own` in it, or two of them as one (mixup)."""
        result = self.draw(own, rng)
        if self.strong and rng.random() < self.config.mixup:
            other = self.draw(self.pictures[self.partners(rng, 1)[0]], rng)
            result = _mix(result, other, float(rng.beta(32.0, 32.0)))
        return result

    def draw(self, own: Picture, rng: np.random.Generator) -> Picture:
        """A scene with `own` in it."""
        config, (height, width) = self.config, self.canvas
        zoom = float(rng.uniform(1 - config.scale, 1 + config.scale))
        right, down = (float(v) for v in rng.uniform(-config.translate, config.translate, 2))
        middle_x, middle_y = width / 2 + right * width, height / 2 + down * height
        canvas = grey((height, width), own.pixels.dtype)
        if self.strong and rng.random() < config.mosaic:
            return self._mosaic(canvas, own, zoom, (middle_x, middle_y), rng)
        own_height, own_width = (length * zoom for length in shape_of(own.pixels))
        place = middle_x - own_width / 2, middle_y - own_height / 2
        if self.fit.corner:
            place = right * width, down * height
        return _with_objects(canvas, [_paste(canvas, own, zoom, place, (0, 0, width, height), self.fit)])

    def _mosaic(
        self, canvas: Tensor, first: Picture, zoom: float, middle: tuple[float, float], rng: np.random.Generator
    ) -> Picture:
        """Four images meet at a point that lies up to half a side off the middle, before zooming."""
        height, width = self.canvas
        meet_x, meet_y = (float(v) for v in rng.uniform(-0.5, 0.5, 2))
        x, y = round(middle[0] + meet_x * width * zoom), round(middle[1] + meet_y * height * zoom)
        others = self.partners(rng, 3)
        parts = []
        for corner, own in enumerate([first, *(self.pictures[index] for index in others)]):
            own_height, own_width = zoomed(shape_of(own.pixels), zoom)
            right, below = corner % 2 == 1, corner >= 2
            place = x if right else x - own_width, y if below else y - own_height
            quadrant = (x if right else 0, y if below else 0, width if right else x, height if below else y)
            parts.append(_paste(canvas, own, zoom, place, quadrant, self.fit))
        return _with_objects(canvas, parts)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a canvas shows of a picture: where its boxes lie there, times `scale` (x,y) and plus `offset` (x,y), in px;
    of them the `window` (x0,y0,x1,y1) is seen.
    """

    picture: Picture
    scale: tuple[float, float]
    offset: tuple[float, float]
    window: tuple[float, float, float, float]


def _paste(
    canvas: Tensor,
    picture: Picture,
    zoom: float,
    place: tuple[float, float],
    window: tuple[int, int, int, int],
    fit: Fit,
) -> _Part | None:
    """Paste the zoomed picture at `place` (left, top) where the window (x0,y0,x1,y1) shows it; None: nowhere."""
    left, top = (round(v) for v in place)
    shape = shape_of(picture.pixels)
    height, width = zoomed(shape, zoom)
    x0, y0 = max(left, window[0], 0), max(top, window[1], 0)
    x1 = min(left + width, window[2], canvas.shape[-1])
    y1 = min(top + height, window[3], canvas.shape[-2])
    if x0 >= x1 or y0 >= y1:
        return None
    shown = x0 - left, y0 - top, x1 - left, y1 - top
    canvas[:, y0:y1, x0:x1], (right, down) = resize_window(picture.pixels, (height, width), shown, fit)
    return _Part(picture, (width / shape[1], height / shape[0]), (left + right, top + down), (x0, y0, x1, y1))


def _with_objects(canvas: Tensor, parts: Sequence[_Part | None]) -> Picture:
    """The canvas with what is visible of the parts' objects, all at once: a call costs more than what it computes."""
    shown = [part for part in parts if part is not None]
    if not shown:
        return Picture(canvas, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    places = torch.tensor([[*part.scale * 2, *part.offset * 2, *part.window] for part in shown])
    places = places.repeat_interleave(torch.tensor([len(part.picture.boxes) for part in shown]), 0)
    scale, offset, window = places.split(4, 1)
    boxes, kept = clip(torch.cat([part.picture.boxes for part in shown]) * scale + offset, window)
    return Picture(canvas, boxes, torch.cat([part.picture.labels for part in shown])[kept])


def _mix(a: Picture, b: Picture, weight: float) -> Picture:
    """Mixup (Zhang et al. 2018) with the objects of both pictures at full weight, as detectors use it."""
    pixels = torch.lerp(b.pixels.float(), a.pixels.float(), weight)
    pixels = pixels if a.pixels.is_floating_point() else pixels.round_().to(a.pixels.dtype)
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
    rows = pixels.permute(1, 2, 0)
    # Eight pixels at once where that goes up: a product of three columns alone takes four times as long.
    together = math.gcd(rows.shape[0] * rows.shape[1], 8)
    mixed: Tensor = rows.reshape(-1, 3 * together).float() @ torch.block_diag(*[matrix.T] * together)
    mixed = mixed.clamp_(0, 255).reshape(rows.shape).permute(2, 0, 1)
    # Floats to bytes are six times as fast by way of a wider number.
    return mixed if pixels.is_floating_point() else mixed.to(torch.int16).to(pixels.dtype)


def resize_batch(batch: Batch, size: Size) -> Batch:
    """The batch at another (height, width) (multi-scale training): images are float, boxes and frames follow."""
    height, width = shape_of(batch.images)
    x, y = size[1] / width, size[0] / height
    images = torch.nn.functional.interpolate(batch.images, size, mode="bilinear", antialias=min(x, y) < 1)
    targets = [Targets(t.boxes * t.boxes.new_tensor([x, y] * 2), t.labels) for t in batch.targets]
    frames = [
        Frame(f.source, f.size, (f.scale[0] * x, f.scale[1] * y), (f.offset[0] * x, f.offset[1] * y), f.image_id)
        for f in batch.frames
    ]
    return Batch(images, targets, frames)
