"""Boxes drawn on images, and contact sheets of such images.

Images are [H,W,3] uint8 RGB; boxes are xyxy in pixels of the image. Drawn by supervision, written by
Pillow. Shape letters: N boxes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alignrank.report.palette import color

Array = np.ndarray[Any, Any]
Objects = tuple[Array, Array]  # boxes [N,4], labels [N]
ScoredObjects = tuple[Array, Array, Array]  # boxes [N,4], scores [N], labels [N]

MIN_SIDE = 400  # px: images whose longer side is below are enlarged before drawing, so that text fits
MAX_TEXTS = 60  # boxes, above which text would hide the picture
_INK, _PAPER = (30, 41, 59), (255, 255, 255)


def draw_boxes(image: Array, boxes: Array, labels: Array, names: Sequence[str], scores: Array | None = None) -> Array:
    """A copy of `image` with boxes [N,4], class names by labels [N] and scores [N] drawn on it.

    Lines and text grow with the image. Above 60 boxes the lines are thin and the text is left out. An
    image whose longer side is below 400 px is enlarged by a whole factor (2 to 4): the result is then
    larger than `image`. Raises ValueError if `image` is not [H,W,3] uint8.
    """
    image = _checked(image)
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

    sv = _supervision()
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
        annotator = sv.RichLabelAnnotator(color=palette, font_path=_font_path(), font_size=size, text_padding=padding)
        canvas = annotator.annotate(canvas, detections, labels=shown)
    return np.ascontiguousarray(canvas[..., ::-1])


def _label_anchors(
    boxes: Array, texts: Sequence[str], shape: tuple[int, ...], size: int, padding: int, thickness: int
) -> Array:
    """Boxes [N,4] whose top left corners leave room for the text above and to the right, in the image."""
    font = ImageFont.truetype(_font_path(), size)
    height, width = shape[:2]
    text_width = np.array([font.getlength(text) for text in texts]) + 2 * padding + 1
    left = np.clip(boxes[:, 0] - thickness / 2, 0, np.maximum(0, width - text_width))
    # Height of a capital with its descender; a label that would leave at the top moves into its box.
    text_height = size * 1.2 + 2 * padding
    top = np.clip(boxes[:, 1], text_height, max(text_height, height - 1))
    return np.stack([left, top, left + 1, top + 1], 1)


def sheet(
    images: Sequence[Array],
    path: str | PathLike[str],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    *,
    tile: int = 480,
) -> Path:
    """Write a contact sheet: equal tiles row by row, each image fitted into its own, captions below.

    tile: width of a tile, px; its height follows from the images' middle aspect ratio. columns: by
    default about as many as rows. The format goes by the ending of `path`.
    Raises ValueError without images, or if there are not as many captions.
    """
    if not len(images):
        raise ValueError("a sheet needs at least one image")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    images = [_checked(image) for image in images]
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    columns = max(1, min(columns, len(images)))
    width, height = tile, _tile_height(images, tile)
    gap, strip = 10, 26 if captions is not None else 0
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + strip + gap) + gap), _PAPER)
    pen = ImageDraw.Draw(page)
    font = ImageFont.truetype(_font_path(), 15)
    for i, image in enumerate(images):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + strip + gap)
        picture = _fitted(image, width, height)
        page.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        if captions is not None:
            pen.text((left + 2, top + height + 4), _shortened(captions[i], font, width - 4), fill=_INK, font=font)
    return _write(page, path)


def compare_sheet(
    images: Sequence[Array],
    gt: Sequence[Objects],
    detections: Sequence[ScoredObjects],
    names: Sequence[str],
    path: str | PathLike[str],
    *,
    captions: Sequence[str] | None = None,
    tile: int = 640,
) -> Path:
    """Write a sheet with, for each image, its ground truth (left) beside the predictions (right).

    gt: (boxes [N,4], labels [N]) for each image; detections: (boxes [N,4], scores [N], labels [N]).
    Images are scaled to the tile before drawing, so that lines and text come out sharp.
    """
    tiles: list[Array] = []
    texts: list[str] = []
    titles = [""] * len(images) if captions is None else [f"{caption}: " for caption in captions]
    height = _tile_height(images, tile)
    for image, (boxes, labels), found, title in zip(images, gt, detections, titles, strict=True):
        small = np.asarray(_fitted(_checked(image), tile, height))
        scale = small.shape[1] / image.shape[1]
        found_boxes, scores, found_labels = found
        tiles.append(draw_boxes(small, np.asarray(boxes) * scale, labels, names))
        tiles.append(draw_boxes(small, np.asarray(found_boxes) * scale, found_labels, names, scores))
        texts += [f"{title}ground truth, {len(labels)}", f"{title}predictions, {len(found_labels)}"]
    return sheet(tiles, path, columns=2 if len(images) < 4 else 4, captions=texts, tile=tile)


def _supervision() -> Any:
    with warnings.catch_warnings():
        # Its notice that OpenCV is absent; the drawing used here needs none.
        warnings.simplefilter("ignore", UserWarning)
        import supervision
    return supervision


@cache
def _font_path() -> str:
    """DejaVu Sans, which matplotlib ships: knows more scripts than Pillow's own."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _checked(image: Array) -> Array:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}, expected uint8 [H,W,3] RGB")
    return image


def _resized(image: Array, factor: int) -> Array:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def _fitted(image: Array, width: int, height: int) -> Image.Image:
    """The image, scaled to the largest size that fits."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = Image.fromarray(image)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _tile_height(images: Sequence[Array], width: int) -> int:
    aspect = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    return round(width * min(2.0, max(0.4, aspect)))


def _shortened(text: str, font: Any, width: int) -> str:
    """The text, its middle cut out if it is wider than `width` px."""
    full = text = " ".join(text.split())
    keep = len(full)
    while keep > 4 and font.getlength(text) > width:
        keep -= 1
        text = f"{full[: keep // 2]}…{full[len(full) - keep // 2 :]}"
    return text


def _write(page: Image.Image, path: str | PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path
