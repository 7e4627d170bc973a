"""Small data sets in COCO form for the tests of the metrics: by hand from rows, or at random from a seed.

Hand-made cases use squares of 10 x 10 px that do not touch (A to F, and FAR), and `cut` for a box of known IoU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alignrank.metrics import CocoInputs, Diagnosis, read_inputs

Box = list[float]
Objects = list[tuple[Any, ...]]
Found = list[tuple[int, int, Box, float]]
Truth = dict[str, Any]
Results = list[dict[str, Any]]

A: Box = [0, 0, 10, 10]
B: Box = [20, 0, 10, 10]
C: Box = [40, 0, 10, 10]
D: Box = [60, 0, 10, 10]
E: Box = [80, 0, 10, 10]
F: Box = [100, 0, 10, 10]
FAR: Box = [150, 150, 10, 10]


def cut(box: Box, iou: float) -> Box:
    """The left part of a box: it lies inside, so its IoU with the whole is its share of the area, `iou`."""
    return [box[0], box[1], box[2] * iou, box[3]]


def truth(objects: Objects, *, images: int = 2, classes: int = 2) -> Truth:
    """objects: (image, category, box[, crowd]); ids of everything count from 1."""
    return {
        "images": [{"id": i, "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, classes + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": int(any(crowd))}
            for n, (i, k, box, *crowd) in enumerate(objects, start=1)
        ],
    }


def results(found: Found) -> Results:
    """found: (image, category, box, score)."""
    return [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in found]


def inputs(objects: Objects, found: Found, *, images: int = 2, classes: int = 2) -> CocoInputs:
    return read_inputs(truth(objects, images=images, classes=classes), results(found))


def diagnose(objects: Objects, found: Found, *, images: int = 2, classes: int = 2, **options: Any) -> Diagnosis:
    return Diagnosis(inputs(objects, found, images=images, classes=classes), **options)


def random_case(
    seed: int, *, images: int = 10, most: int = 7, ties: bool = False, whole: bool = False
) -> tuple[Truth, Results]:
    """At most `most` objects an image, one in ten a crowd region; objects and detections on one another; sizes on both
    sides of COCO's limits; areas that are not width * height. Of six classes the fifth has objects and no detection,
    the sixth detections and no object.

    ties: scores of one digit, else all distinct. whole: boxes on a coarse grid, so that IoUs tie as well.
    """
    rng = np.random.default_rng(seed)
    objects: Objects = []
    found: Found = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, most + 1)):
            side = float(rng.choice([12, 40, 130]))
            box = np.array([*rng.uniform(0, 60 if whole else 200, 2), *rng.uniform(0.6 * side, 1.4 * side, 2)])
            category = int(rng.choice([1, 2, 3, 4, 5]))
            objects.append((image, category, _rounded(box, whole), rng.random() < 0.1))
            for _ in range(rng.integers(0, 5)):
                moved = box + rng.normal(0, 0.1, 4) * np.tile(box[2:], 2)
                label = category if rng.random() < 0.8 else int(rng.choice([1, 2, 3, 6]))
                if label != 5:
                    found.append((image, label, _rounded(moved, whole), 0.0))
    scores = (rng.permutation(len(found)) + rng.uniform(0.2, 0.8, len(found))) / max(len(found), 1)
    scores = scores.round(1) if ties else scores
    found = [(*row[:3], float(score)) for row, score in zip(found, scores, strict=True)]
    gt = truth(objects, images=images, classes=6)
    for annotation in gt["annotations"]:
        annotation["area"] *= float(rng.uniform(0.6, 1.0))
    return gt, results(found)


def _rounded(box: Any, whole: bool) -> Box:
    box = (box / 8).round() * 8 if whole else box
    return [*box[:2].tolist(), *box[2:].clip(min=4).tolist()]
