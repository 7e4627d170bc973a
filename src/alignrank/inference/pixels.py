"""Sources that are in memory: arrays, tensors, PIL images and encoded images."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from alignrank.data.decode import Array
from alignrank.data.frames import decode_all
from alignrank.errors import InputError
from alignrank.inference.entries import Entry, Several, SourceImage, frame_name

_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
# Of floats beyond 0..1: what rounding does.
_SLACK = 1e-3


def from_memory(item: Any, name: str | None, number: int) -> list[Entry] | None:
    """Entries of one item, None if it is no image. name: None: `image NUMBER`, or what the item says itself.

    Raises InputError for arrays and tensors of another form than is said there.
    """
    plain = name or f"image {number}"
    if isinstance(item, Image.Image):
        own = name or str(getattr(item, "filename", "")) or plain
        return [Entry(own, partial(_from_pil, item, own))]
    if isinstance(item, (bytes, bytearray, memoryview)):
        return [Entry(plain, partial(_decoded, bytes(item), plain))]
    if isinstance(item, np.ndarray):
        array = checked(item)
        return [Entry(plain, lambda: array)]
    if isinstance(item, torch.Tensor):
        images = _checked_tensor(item)
        names = [f"{name}-{i}" if name else f"image {number + i}" for i in range(len(images))]
        names = [plain] if len(images) == 1 else names
        return [Entry(of, partial(_from_tensor, image)) for of, image in zip(names, images, strict=True)]
    return None


def checked(array: Array) -> Array:
    """The array. Raises InputError unless it is [H,W,3] uint8."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"predict: arrays must be [H,W,3] uint8 RGB, got {list(array.shape)} {array.dtype}")
    return array


def _checked_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """[3,H,W] or [B,3,H,W] -> [B,3,H,W], still in its own type."""
    form = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    images = tensor.detach()[None] if tensor.ndim == 3 else tensor.detach()
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(f"predict: tensors must be [3,H,W] or [B,3,H,W] RGB, got {form}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"predict: tensors must be uint8 0..255 or float 0..1, got {form}")
    low, high = (float(value) for value in images.aminmax())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN, too
        raise InputError(f"predict: float tensors must be 0..1, got {form} with values from {low:.4g} to {high:.4g}")
    return images


def _from_tensor(image: torch.Tensor) -> Array:
    if image.is_floating_point():
        image = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    pixels: Array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def _decoded(content: bytes, name: str) -> Array | Several:
    images = decode_all(content, name=name)
    if not isinstance(images, Generator):
        return images
    frames = (SourceImage(frame_name(name, i), image, None, i) for i, image in enumerate(images))
    return Several(frames, lambda: None)


def _from_pil(image: Image.Image, name: str) -> Array:
    """Pixels as the object holds them: no EXIF rotation, so that boxes fit what the caller draws on."""
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(f"{name}: PIL images of mode {image.mode} have no known range; convert to 8 bit first")
    try:
        # Through RGBA where colours are a palette: transparent entries have no direct way to RGB.
        whole = image.convert("RGBA" if image.mode in ("P", "PA") else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name}: cannot be decoded ({error})") from None
    return checked(np.ascontiguousarray(np.asarray(whole)[..., :3]))
