"""Fitting an image into the network's input: resized, on a grey canvas.

What prediction needs of the pictures; it knows PyTorch alone, whose import is most of a prediction's time already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from alignrank.input_size import GREY, Fit, InputSize, Size


def letterbox(pixels: Tensor, size: InputSize) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """[3,H,W] uint8 -> `size`'s canvas with it, grey around it, and the (x,y) scale and offset of `Frame`."""
    resized = fitted(pixels, size)
    canvas, offset = placed(resized, size)
    (height, width), (new_height, new_width) = shape_of(pixels), shape_of(resized)
    return canvas, (new_width / width, new_height / height), offset


def fitted(pixels: Tensor, size: InputSize) -> Tensor:
    """[3,H,W] uint8 at the size at which it lies on the canvas; of `Fit.antialias` uint8, else float32 0..255."""
    return resize(pixels, size.content(shape_of(pixels)), size.fit)


def placed(pixels: Tensor, size: InputSize) -> tuple[Tensor, tuple[float, float]]:
    """The canvas with what `fitted` gave, and the (x,y) offset at which it begins."""
    new_height, new_width = shape_of(pixels)
    height, width = size.around((new_height, new_width))
    top, left = (0, 0) if size.fit.corner else ((height - new_height) // 2, (width - new_width) // 2)
    canvas = grey((height, width), pixels.dtype)
    canvas[:, top : top + new_height, left : left + new_width] = pixels
    return canvas, (float(left), float(top))


def grey(shape: Size, dtype: torch.dtype) -> Tensor:
    """A canvas [3,*shape] without pictures, channels last in memory, as decoded ones are and convolutions want it: from
    one order to the other a copy takes ten times as long.
    """
    return torch.full((*shape, 3), GREY, dtype=dtype).permute(2, 0, 1)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """[3,H,W] of one shape -> [B,3,H,W], channels last in memory."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def shape_of(pixels: Tensor) -> Size:
    """(height, width) of [...,H,W]."""
    return pixels.shape[-2], pixels.shape[-1]


def zoomed(shape: Size, factor: float) -> Size:
    """(height, width) times a factor, in whole pixels, at least one."""
    height, width = (max(round(length * factor), 1) for length in shape)
    return height, width


def resize(pixels: Tensor, shape: Size, fit: Fit) -> Tensor:
    """[3,H,W] -> [3,*shape], as `fit` interpolates.

    With antialias as `torchvision.transforms.v2.resize` of uint8, bit for bit.
    """
    if not fit.antialias:
        pixels = pixels.float()
    if shape == shape_of(pixels):
        return pixels
    return interpolate(pixels[None], shape, mode="bilinear", antialias=fit.antialias)[0]


def resize_window(
    pixels: Tensor, shape: Size, window: tuple[int, int, int, int], fit: Fit
) -> tuple[Tensor, tuple[float, float]]:
    """What the window (x0,y0,x1,y1) shows of [3,H,W] resized to `shape`, and by how much of a pixel (right, down) it
    shows all moved: 0 where the window begins at the picture's own edge, else less than 1.

    Only the pixels that it needs are resized, from whole ones on: a mosaic shows a quarter of its pictures.
    """
    x0, y0, x1, y1 = window
    if shape == shape_of(pixels):
        return resize(pixels, shape, fit)[:, y0:y1, x0:x1], (0.0, 0.0)
    height, width = shape_of(pixels)
    down, right = _needed(height, shape[0], y0, y1), _needed(width, shape[1], x0, x1)
    needed = pixels[None, :, down.start : down.stop, right.start : right.stop]
    needed = needed.contiguous(memory_format=torch.channels_last) if fit.antialias else needed.float()
    # The length of what is resized is rounded down: a little more, and none is a pixel short.
    zoom = tuple(new / old * (1 + 1e-9) for new, old in zip(shape, (height, width), strict=True))
    resized = interpolate(needed, scale_factor=zoom, mode="bilinear", antialias=fit.antialias)[0]
    y, x = down.first, right.first
    return resized[:, y0 - y : y1 - y, x0 - x : x1 - x], (right.moved, down.moved)


class _Needed(NamedTuple):
    """Pixels `start` to `stop` of one axis, of which the first becomes pixel `first`, which moves it by `moved`."""

    start: int
    stop: int
    first: int
    moved: float


def _needed(length: int, new: int, low: int, high: int) -> _Needed:
    """For pixels `low` to `high` of an axis that is resized from `length` to `new`."""
    shrink = length / new
    reach = math.ceil(max(shrink, 1) + shrink)  # of the filter, and of the move
    start, stop = max(math.floor(low * shrink) - reach, 0), min(math.ceil(high * shrink) + reach, length)
    first = -(-start * new // length)
    return _Needed(start, stop, first, first - start * new / length)
