"""`predict` of a published checkpoint says what the library's own processor, network and post-processing say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_hosts import RECIPES, write_published
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from alignrank import Detections, Detector

# (height, width): odd, long, larger and smaller than the input, and of its own size.
SHAPES = [(61, 83), (200, 131), (37, 160), (64, 96)]
LIMITS = {"conf": 0.01, "max_dets": 20}


def picture(height: int, width: int) -> Any:
    """[H,W,3] uint8, of which nothing is smooth."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def said_by_the_library(folder: Path, images: list[Any], max_dets: int) -> list[dict[str, Tensor]]:
    """One picture at a time, with the classes that the checkpoint's files name. The network computes in 64 bits: in 32
    D-FINE's scores of a picture alone and among others differ by 1.4e-6, and each from these by .9e-6.
    """
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval().double()
    options = {"top_k": max_dets} if "Deformable" in type(processor).__name__ else {}
    found = []
    for image in images:
        said = model(**processor(image, return_tensors="pt").to(torch.float64))
        (rows,) = processor.post_process_object_detection(
            said, threshold=LIMITS["conf"], target_sizes=[image.shape[:2]], **options
        )
        found.append({name: value.float() if value.is_floating_point() else value for name, value in rows.items()})
    return found


def clipped(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """The library lets boxes reach over the picture's edge; ours end there."""
    return boxes.clamp(min=0).minimum(torch.tensor([shape[1], shape[0]] * 2))


def assert_same(ours: list[Detections], theirs: list[dict[str, Tensor]]) -> None:
    for found, expected, shape in zip(ours, theirs, SHAPES, strict=True):
        assert len(expected["scores"]) > 5
        assert_close(found.scores, expected["scores"], atol=1e-6, rtol=0)
        assert_close(found.boxes, clipped(expected["boxes"], shape), atol=1e-4, rtol=0)
        assert torch.equal(found.labels, expected["labels"])


@pytest.mark.parametrize("name", RECIPES)
def test_boxes_and_scores_are_the_library_s(name: str, tmp_path: Path) -> None:
    write_published(tmp_path, name)
    images = [picture(*shape) for shape in SHAPES]
    theirs = said_by_the_library(tmp_path, images, 20)
    ours = Detector(RECIPES[name], pretrained=tmp_path).predict(images, batch=3, device="cpu", **LIMITS)
    assert_same(ours, theirs)
    assert len({round(float(found.scores[0]), 6) for found in ours}) == len(SHAPES), "they look at the pictures"
