"""Boxes drawn on images, one colour per class; below everything, so that records can draw themselves.

Images are [H,W,3] uint8 RGB; boxes are xyxy in pixels of the image. Drawn by supervision.
Shape letters: N boxes.
"""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFont

Array = np.ndarray[Any, Any]

MIN_SIDE = 400  # px: images whose longer side is below are enlarged before drawing, so that text fits
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


def draw_boxes(image: Array, boxes: Array, labels: Array, names: Sequence[str], scores: Array | None = None) -> Array:
    """A copy of `image` with boxes [N,4], class names by labels [N] and scores [N] drawn on it.

    Lines and text grow with the image. Above 60 boxes the lines are thin and the text is left out. An
    image whose longer side is below 400 px is enlarged by a whole factor (2 to 4): the result is then
    larger than `image`. Raises ValueError if `image` is not [H,W,3] uint8.
    """
    image = checked(image)
    factor = min(4, max(1, -(-MIN_SIDE // max(image.shape[:2]))))
    canvas = image.copy() if factor == 1 else _resized(image, factor)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor
    labels = np.asarray(labels, dtype=np.int64).reshape(-1)
    if not len(boxes):
        return canvas
    order = np.arange(len(boxes)) if scores is None else np.argsort(scores, kind="stable")  # best on top
    texts = [names[k] for k in labels.tolist()]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, np.asarray(scores).tolist(), strict=True)]

    sv = supervision_module()
    detections = sv.Detections(xyxy=boxes[order], class_id=labels[order])
    palette = sv.ColorPalette.from_hex([color(k) for k in range(int(labels.max()) + 1)])
    crowded = len(boxes) > MAX_TEXTS
    side = max(canvas.shape[:2])
    thickness = max(1, round(side / (700 if crowded else 350)))
    # supervision works in BGR; flipping the channels twice keeps its colours right for RGB.
    canvas = np.ascontiguousarray(canvas[..., ::-1])
    canvas = sv.BoxAnnotator(color=palette, thickness=thickness).annotate(canvas, detections)
    if not crowded:
        size, padding = max(11, round(side / 44)), thickness + 1
        shown = [texts[i] for i in order.tolist()]
        detections.xyxy = _label_anchors(detections.xyxy, shown, canvas.shape, size, padding, thickness)
        annotator = sv.RichLabelAnnotator(color=palette, font_path=font_path(), font_size=size, text_padding=padding)
        canvas = annotator.annotate(canvas, detections, labels=shown)
    return np.ascontiguousarray(canvas[..., ::-1])


def _label_anchors(
    boxes: Array, texts: Sequence[str], shape: tuple[int, ...], size: int, padding: int, thickness: int
) -> Array:
    """Boxes [N,4] whose top left corners leave room for the text above and to the right, in the image."""
    font = ImageFont.truetype(font_path(), size)
    height, width = shape[:2]
    text_width = np.array([font.getlength(text) for text in texts]) + 2 * padding + 1
    left = np.clip(boxes[:, 0] - thickness / 2, 0, np.maximum(0, width - text_width))
    # Height of a capital with its descender; a label that would leave at the top moves into its box.
    text_height = size * 1.2 + 2 * padding
    top = np.clip(boxes[:, 1], text_height, max(text_height, height - 1))
    return np.stack([left, top, left + 1, top + 1], 1)


def supervision_module() -> Any:
    """supervision, imported when first needed (it takes seconds)."""
    with warnings.catch_warnings():
        # Its notice that OpenCV is absent; the drawing used here needs none.
        warnings.simplefilter("ignore", UserWarning)
        import supervision
    return supervision


@cache
def font_path() -> str:
    """DejaVu Sans, which matplotlib ships: knows more scripts than Pillow's own."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def checked(image: Array) -> Array:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}, expected uint8 [H,W,3] RGB")
    return image


def _resized(image: Array, factor: int) -> Array:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
