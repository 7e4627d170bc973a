"""Fitting an image into the network's input: resized by one factor, on a grey canvas.

What prediction needs of the pictures; it knows PyTorch alone, whose import is most of a prediction's time already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from alignrank.input_size import GREY, InputSize, Size


def letterbox(pixels: Tensor, size: InputSize) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """[3,H,W] uint8 -> `size`'s canvas with it, grey around it, and the (x,y) scale and offset of `Frame`."""
    shape = shape_of(pixels)
    resized, scale = resize(pixels, size.scale(shape))
    height, width = size.canvas(shape)
    new_height, new_width = resized.shape[-2:]
    top, left = (0, 0) if size.corner else ((height - new_height) // 2, (width - new_width) // 2)
    canvas = torch.full((3, height, width), GREY, dtype=torch.uint8)
    canvas[:, top : top + new_height, left : left + new_width] = resized
    return canvas, scale, (float(left), float(top))


def shape_of(pixels: Tensor) -> Size:
    """(height, width) of [...,H,W]."""
    return pixels.shape[-2], pixels.shape[-1]


def resize(pixels: Tensor, factor: float) -> tuple[Tensor, tuple[float, float]]:
    """Scale [3,H,W] uint8 by `factor` to whole pixels; also returns the exact (x,y) factors that this came to.

    Bilinear, with all pixels that a smaller one covers (antialias): as `torchvision.transforms.v2.resize`, bit for bit.
    """
    height, width = pixels.shape[-2:]
    new_height, new_width = max(round(height * factor), 1), max(round(width * factor), 1)
    if (new_height, new_width) != (height, width):
        pixels = interpolate(pixels[None], (new_height, new_width), mode="bilinear", antialias=True)[0]
    return pixels, (new_width / width, new_height / height)
