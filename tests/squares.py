"""A data set of a few coloured squares: for tests that train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 200, 60))


def write_squares(
    folder: Path,
    *,
    num_train: int = 8,
    num_val: int = 4,
    classes: tuple[str, ...] = ("red", "green"),
    turned: bool = False,
) -> Path:
    """Images of 64 x 48 px (width x height) with two squares each, in COCO form; turned: every other is 48 x 64."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, count in (("train", num_train), ("val", num_val)):
        images, annotations = [], []
        for number in range(count):
            pixels = rng.integers(90, 130, (48, 64, 3), dtype=np.uint8)
            name = f"{split}{number}.png"
            tall = turned and number % 2 == 1
            width, height = (48, 64) if tall else (64, 48)
            images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
            for column in range(2):
                label = int(rng.integers(len(classes)))
                side, x, y = int(rng.integers(12, 22)), int(rng.integers(0, 10)) + 32 * column, int(rng.integers(0, 26))
                pixels[y : y + side, x : x + side] = COLOURS[label % 2]
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1,
                    "bbox": [y, x, side, side] if tall else [x, y, side, side], "area": side * side, "iscrowd": 0,
                })  # fmt: skip
            Image.fromarray(pixels.transpose(1, 0, 2) if tall else pixels).save(folder / "images" / name)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder
