"""Pictures that are drawn, where something must be looked at and there is nothing else."""

from __future__ import annotations

import numpy as np

from alignrank.data.samples import Array


def drawn_scene(rng: np.random.Generator, height: int, width: int) -> Array:
    """[height,width,3] uint8: discs and bars of many sizes on slopes of colour."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.stack([x / width, y / height, 1 - x / width], -1) * rng.uniform(40, 160, 3) + rng.uniform(20, 90, 3)
    for _ in range(24):
        (left, top), radius = rng.uniform(0, (width, height)), rng.uniform(6, 90)
        far = np.hypot(x - left, y - top) if rng.random() < 0.5 else np.maximum(abs(x - left), 2 * abs(y - top))
        pixels[far < radius] = rng.uniform(0, 255, 3)
    pixels += rng.normal(0, 4, pixels.shape)
    scene: Array = pixels.clip(0, 255).astype(np.uint8)
    return scene
