"""Boxes drawn on images, one colour per class; below everything, so that records can draw themselves.

Images are [H,W,3] uint8 RGB; boxes are xyxy in pixels of the image. Drawn by Pillow.
Shape letters: N boxes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from alignrank.fonts import fonts, load, tidy

Array = np.ndarray[Any, Any]

MIN_SIDE = 400  # px: images whose longer side is below can be enlarged before drawing, so that text is easy to read
MAX_TEXTS = 60  # boxes, above which text would hide the picture

# Mid-tones: they stand out on photographs and on white paper, and carry white text.
_FIRST = ("#2563eb", "#ea580c", "#16a34a", "#db2777", "#7c3aed", "#0e8fa8", "#b58105", "#dc2626", "#5f8f0b", "#64748b")
_GOLDEN_TURN = 0.61803398875
_BRIGHTEST = 0.28  # of 1: white text on it keeps a contrast above 3


def color(index: int) -> str:
    """The hex colour of class `index`: ten chosen ones, then hues a golden-ratio turn apart."""
    if index < len(_FIRST):
        return _FIRST[index]
    turn = (index * _GOLDEN_TURN) % 1
    lightness, saturation = (0.36, 0.45, 0.52)[index % 3], (0.9, 0.65)[index % 2]
    while _luminance(rgb := colorsys.hls_to_rgb(turn, lightness, saturation)) > _BRIGHTEST:
        lightness -= 0.02
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)


def _luminance(rgb: tuple[float, float, float]) -> float:
    """WCAG's relative luminance of sRGB in 0..1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def draw_boxes(
    image: Array,
    boxes: Array,
    labels: Array,
    names: Sequence[str],
    scores: Array | None = None,
    *,
    enlarge: bool = False,
    colors: str | Sequence[str] = "",
) -> Array:
    """A copy of `image` with boxes [N,4], class names by labels [N] and scores [N] drawn on it, of the same size.

    Lines and text grow with the image. Above 60 boxes the lines are thin and the text is left out. enlarge: an
    image whose longer side is below 400 px is enlarged by a whole factor (2 to 4) first, the result is then
    larger than `image`. colors: of all boxes, or of each [N], in place of one by class. Raises ValueError if `image` is
    not [H,W,3] uint8.
    """
    image = checked(image)
    factor = min(4, max(1, -(-MIN_SIDE // max(image.shape[:2])))) if enlarge else 1
    canvas = image.copy() if factor == 1 else _resized(image, factor)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor
    labels = np.asarray(labels, dtype=np.int64).reshape(-1)
    if not len(boxes):
        return canvas
    order = np.arange(len(boxes)) if scores is None else np.argsort(scores, kind="stable")  # best on top
    crowded = len(boxes) > MAX_TEXTS
    side = max(canvas.shape[:2])
    thickness = max(1, round(side / (700 if crowded else 350)))
    if isinstance(colors, str):
        colors = [colors or color(label) for label in labels.tolist()]
    canvas = _outlined(canvas, boxes[order], [colors[i] for i in order.tolist()], thickness)
    if crowded:
        return canvas
    lines = readable(names)
    texts = [lines[k] for k in labels.tolist()]
    if scores is not None:
        texts = [f"{text} {score:.2f}".strip() for text, score in zip(texts, np.asarray(scores).tolist(), strict=True)]
    # Text of 11 px, smaller where the image itself is.
    size = max(min(11, max(7, side // 22)), round(side / 44))
    return _labelled(canvas, boxes[order], [(texts[i], colors[i]) for i in order.tolist()], size, thickness)


def _outlined(canvas: Array, boxes: Array, colors: Sequence[str], thickness: int) -> Array:
    """Outlines of boxes [N,4], half of a line inside; those with a colour [N] each."""
    page = Image.fromarray(canvas)
    pen = ImageDraw.Draw(page)
    # A box may reach far outside: Pillow takes no more than 32 bits, and no corners in the wrong order.
    reach = 2 * max(canvas.shape) + thickness
    for box, outline in zip(np.clip(np.nan_to_num(boxes), -reach, reach), colors, strict=True):
        x0, y0, x1, y1 = (round(value) for value in box.tolist())
        out = thickness // 2
        x1, y1 = max(x0, x1), max(y0, y1)
        pen.rectangle((x0 - out, y0 - out, x1 + out, y1 + out), outline=outline, width=thickness)
    return np.array(page)


def readable(names: Sequence[str]) -> list[str]:
    """Class names by label as a font can draw them: `class 3` where no font has a name's characters, with a warning."""
    lines = [tidy(name) for name in names]
    fonts().report(lines, "classes named with them are drawn by their numbers")
    return [f"class {k}" if fonts().lacking(line) else line for k, line in enumerate(lines)]


def text_width(text: str, size: int) -> float:
    """px of one line of text."""
    return float(sum(load(path, size).getlength(piece) for path, piece in fonts().runs(text)))


def write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: Any) -> None:
    """One line of text, from (x, y) of its base line, each piece in a font that has its characters."""
    x, y = place
    for path, piece in fonts().runs(text):
        pen.text((x, y), piece, fill=fill, font=load(path, size), anchor="ls")
        x += load(path, size).getlength(piece)


def shortened(text: str, size: int, width: float) -> str:
    """The text on one line, its middle cut out if it is wider than `width` px."""
    full = text = tidy(text)
    keep = len(full)
    while keep > 4 and text_width(text, size) > width:
        keep -= 1
        text = f"{full[: keep // 2]}…{full[len(full) - keep // 2 :]}"
    return text


def _labelled(canvas: Array, boxes: Array, texts: Sequence[tuple[str, str]], size: int, thickness: int) -> Array:
    """Texts [N] (text, colour) on their colour, above the top left corners of boxes [N,4] where there is room.

    None where the image has no room for text.
    """
    height, width = canvas.shape[:2]
    padding = thickness + 1
    line = round(size * 1.2)  # a capital with its descender
    tall = line + 2 * padding
    if 2 * tall > height:
        return canvas
    page = Image.fromarray(canvas)
    pen = ImageDraw.Draw(page)
    for box, (text, fill) in zip(boxes.tolist(), texts, strict=True):
        text = shortened(text, size, width - 2 * padding - 1)
        wide = round(text_width(text, size)) + 2 * padding
        if wide >= width:
            continue
        left = round(min(max(box[0] - thickness / 2, 0), width - wide - 1))
        # A label that would leave at the top moves into its box.
        bottom = round(min(max(box[1], tall), height - 1))
        pen.rectangle((left, bottom - tall, left + wide, bottom), fill=fill)
        write(pen, (left + padding, bottom - padding - round(size * 0.24)), text, size, "white")
    return np.array(page)


def checked(image: Array) -> Array:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}, expected uint8 [H,W,3] RGB")
    return image


def _resized(image: Array, factor: int) -> Array:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
