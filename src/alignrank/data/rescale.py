"""Pictures of random sizes, cut at random, as DETR and its successors train (Carion et al. 2020, appendix A.4).

There is no canvas: a picture keeps its aspect ratio, unless it is stretched, and has a size of its own; a batch is
padded on the right and below. Sides are told in parts of `imgsz`: of its shorter side, or of the longer where it is one
number. Of [800, 1333] a first size is 400, 500 or 600 px, and a cut from 384 to 600 px high and wide.
"""

from __future__ import annotations

import numpy as np

from alignrank.data.letterbox import resize, shape_of, zoomed
from alignrank.data.picture import Picture, clip
from alignrank.input_size import SIDE_STEP, Fit, InputSize, Size
from alignrank.weights.settings import AugmentConfig

FIRST_SIZES = (0.5, 0.625, 0.75)
SMALLEST_CUT, LARGEST_CUT = 0.48, 0.75


def rescaled(picture: Picture, size: InputSize, config: AugmentConfig, rng: np.random.Generator) -> Picture:
    """The picture, cut with the probability `crop`, at a size drawn from `sides`; the one given stays as it is."""
    if rng.random() < config.crop:
        picture = _cut(picture, size, rng)
    side = int(rng.choice(sides(size, config.shortest)))
    return _resized(picture, size.of_side(side).content(shape_of(picture.pixels)), size.fit)


def sides(size: InputSize, shortest: float) -> list[int]:
    """Lengths that are drawn from, px, falling: the whole and less by steps of 32, not below the share `shortest`."""
    # A share such as 0.7 has no exact float: a hair below is meant to be equal.
    least = max(shortest * size.side - 1e-6, min(SIDE_STEP, size.side))
    return [side for side in range(size.side, 0, -SIDE_STEP) if side >= least]


def _side(size: InputSize, shape: Size) -> int:
    """The side of a picture that `imgsz` is about."""
    return max(shape) if size.shorter is None else min(shape)


def _cut(picture: Picture, size: InputSize, rng: np.random.Generator) -> Picture:
    """A random part of the picture at a random first size; that of a part alone, as all of a long picture is large."""
    shape = shape_of(picture.pixels)
    factor = float(rng.choice(FIRST_SIZES)) * size.side / _side(size, shape)
    window = []
    for length in shape:
        low, high = (min(share * size.side / factor, length) for share in (SMALLEST_CUT, LARGEST_CUT))
        part = float(rng.uniform(low, high))
        begin = float(rng.uniform(0, length - part))
        first = min(round(begin), length - 1)
        window.append((first, max(round(begin + part), first + 1)))
    (top, bottom), (left, right) = window
    shape = zoomed((bottom - top, right - left), factor)
    boxes, kept = clip(picture.boxes, picture.boxes.new_tensor([left, top, right, bottom]))
    boxes = boxes - boxes.new_tensor([left, top] * 2)
    cut = Picture(picture.pixels[:, top:bottom, left:right], boxes, picture.labels[kept])
    return _resized(cut, shape, size.fit)


def _resized(picture: Picture, shape: Size, fit: Fit) -> Picture:
    (own_height, own_width), (height, width) = shape_of(picture.pixels), shape
    pixels = resize(picture.pixels, shape, fit)
    boxes = picture.boxes * picture.boxes.new_tensor([width / own_width, height / own_height] * 2)
    # Products are rounded: what ends at the edge must not end beyond it.
    return Picture(pixels, boxes.minimum(boxes.new_tensor([width, height] * 2)), picture.labels)
