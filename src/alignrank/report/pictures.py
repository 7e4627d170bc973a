"""Boxes drawn on images, and contact sheets of such images.

Images are [H,W,3] uint8 RGB; boxes are xyxy in pixels of the image. Shape letters: N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from alignrank.drawing import checked, color, draw_boxes, shortened, write
from alignrank.fonts import fonts, tidy

Array = np.ndarray[Any, Any]
Objects = tuple[Array, Array]  # boxes [N,4], labels [N]
ScoredObjects = tuple[Array, Array, Array]  # boxes [N,4], scores [N], labels [N]

_INK, _PAPER = (30, 41, 59), (255, 255, 255)
_TEXT = 15  # px
OBJECT_COLOR, FOUND_COLOR = color(2), color(1)
LAYER_TILE, LAYER_COLUMNS = 480, 6


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
    images = [checked(image) for image in images]
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    columns = max(1, min(columns, len(images)))
    width, height = tile, _tile_height(images, tile)
    gap, strip = 10, 26 if captions is not None else 0
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + strip + gap) + gap), _PAPER)
    pen = ImageDraw.Draw(page)
    lines = None if captions is None else readable_captions(captions)
    for i, image in enumerate(images):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + strip + gap)
        picture = _fitted(image, width, height)
        page.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        if lines is not None:
            write(pen, (left + 2, top + height + 18), shortened(lines[i], _TEXT, width - 4), _TEXT, _INK)
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
        small = np.asarray(_fitted(checked(image), tile, height))
        scale = small.shape[1] / image.shape[1]
        found_boxes, scores, found_labels = found
        tiles.append(draw_boxes(small, np.asarray(boxes) * scale, labels, names, enlarge=True))
        tiles.append(draw_boxes(small, np.asarray(found_boxes) * scale, found_labels, names, scores, enlarge=True))
        texts += [f"{title}ground truth, {len(labels)}", f"{title}predictions, {len(found_labels)}"]
    return sheet(tiles, path, columns=2 if len(images) < 4 else 4, captions=texts, tile=tile)


def layers_sheet(
    image: Array,
    gt: Objects,
    layers: Sequence[ScoredObjects],
    names: Sequence[str],
    path: str | PathLike[str],
    *,
    title: str = "",
) -> Path:
    """Write one image as many times as there are layers, side by side, up to six in a row: its objects in one colour,
    and over them what the layer detects in another.
    """
    small = np.asarray(_fitted(checked(image), LAYER_TILE, _tile_height([image], LAYER_TILE)))
    scale = small.shape[1] / image.shape[1]
    boxes, labels = gt
    with_objects = draw_boxes(small, np.asarray(boxes) * scale, labels, names, colors=OBJECT_COLOR)
    tiles, texts = [], []
    for number, (found, scores, found_labels) in enumerate(layers, start=1):
        tiles.append(draw_boxes(with_objects, found * scale, found_labels, names, scores, colors=FOUND_COLOR))
        count = f"{len(scores)} {'box' if len(scores) == 1 else 'boxes'}"
        texts.append(", ".join(filter(None, (f"layer {number}", count, title))))
    return sheet(tiles, path, columns=min(len(tiles), LAYER_COLUMNS), captions=texts, tile=LAYER_TILE)


def _fitted(image: Array, width: int, height: int) -> Image.Image:
    """The image, scaled to the largest size that fits."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = Image.fromarray(image)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _tile_height(images: Sequence[Array], width: int) -> int:
    aspect = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    return round(width * min(2.0, max(0.4, aspect)))


def readable_captions(captions: Sequence[str]) -> list[str]:
    """Captions with ? for characters that no font has, with a warning."""
    lines = [tidy(caption) for caption in captions]
    fonts().report(lines, "captions have ? in their place")
    missing = fonts().lacking("".join(lines))
    return [line.translate(dict.fromkeys(map(ord, missing), "?")) for line in lines]


def _write(page: Image.Image, path: str | PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path
