"""`predict` of a published state dict says what torchvision's own model call says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_forms import tiny_torchvision
from torch.testing import assert_close
from torchvision_hosts import RECIPES, write_published

from alignrank import Detector
from alignrank.plug.torchvision_models import ARCHITECTURES

# (height, width): odd, long, larger and smaller than the input, and one after another of one canvas.
SHAPES = [(61, 83), (200, 131), (37, 160), (64, 96), (63, 95)]
IMGSZ = [51, 133]


def picture(height: int, width: int) -> Any:
    """[H,W,3] uint8, of which nothing is smooth."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", RECIPES)
def test_boxes_and_scores_are_the_library_s(name: str, tmp_path: Path) -> None:
    """At the thresholds of both, which are the library's."""
    library = write_published(tmp_path / "weights.safetensors", name)
    library.transform.min_size, library.transform.max_size = (IMGSZ[0],), IMGSZ[1]
    images = [picture(*shape) for shape in SHAPES]
    options = tiny_torchvision(name) | {"train.imgsz": IMGSZ}
    detector = Detector(RECIPES[name], pretrained=tmp_path, **options)
    ours = detector.predict(images, batch=3, device="cpu")
    first = int(ARCHITECTURES[name].two_stages)
    for found, image in zip(ours, images, strict=True):
        with torch.no_grad():
            (expected,) = library([torch.from_numpy(image).permute(2, 0, 1) / 255])
        assert len(expected["scores"]) > 5
        assert_close(found.scores, expected["scores"], atol=1e-6, rtol=0)
        assert_close(found.boxes, expected["boxes"], atol=1e-4, rtol=0)
        assert torch.equal(found.labels, expected["labels"] - first)
    assert len({round(float(found.scores[0]), 6) for found in ours}) == len(SHAPES), "they look at the pictures"
