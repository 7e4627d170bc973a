"""Fitting an image into the network's input: resized, on a grey canvas.

What prediction needs of the pictures; it knows PyTorch alone, whose import is most of a prediction's time already.
"""

from __future__ import annotations

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
    canvas = torch.full((3, height, width), GREY, dtype=pixels.dtype)
    canvas[:, top : top + new_height, left : left + new_width] = pixels
    return canvas, (float(left), float(top))


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
