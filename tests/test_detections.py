"""The result object: as dictionary, JSON, supervision detections and picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignrank.contracts import Detections

NAMES = ("cat", "größe")


def detections(count: int = 2, *, image: bool = True, size: tuple[int, int] = (300, 450)) -> Detections:
    boxes = torch.tensor([[100.0, 50, 200, 150.12345], [20, 120, 60, 280]])[:count]
    picture = np.full((*size, 3), 128, np.uint8) if image else None
    labels = torch.tensor([1, 0])[:count]
    return Detections(boxes, torch.tensor([0.9, 0.31])[:count], labels, NAMES, "a/b.jpg", size, picture)


def test_dictionary_and_json_agree(tmp_path: Path) -> None:
    found = detections()
    assert found.to_dict() == {
        "source": "a/b.jpg",
        "boxes": [[100, 50, 200, 150.123], [20, 120, 60, 280]],
        "scores": [0.9, 0.31],
        "labels": [1, 0],
        "names": ["größe", "cat"],
    }
    assert json.loads(found.to_json(tmp_path / "x.json")) == found.to_dict()
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == found.to_dict()


def test_nothing_found() -> None:
    found = detections(0)
    assert len(found) == 0
    assert found.to_dict()["boxes"] == []
    assert len(found.to_supervision()) == 0
    assert np.unique(found.plot()).tolist() == [128]


def test_supervision_detections_carry_everything() -> None:
    converted = detections().to_supervision()
    assert converted.confidence is not None
    assert converted.class_id is not None
    np.testing.assert_allclose(converted.xyxy[1], [20, 120, 60, 280])
    np.testing.assert_allclose(converted.confidence, [0.9, 0.31], atol=1e-6)
    assert converted.class_id.tolist() == [1, 0]
    assert list(converted.data["class_name"]) == ["größe", "cat"]


@pytest.mark.parametrize("size", [(300, 450), (300, 200)])
def test_the_drawing_is_where_the_boxes_are(size: tuple[int, int]) -> None:
    """Small pictures are enlarged by a whole factor, so that names can be read."""
    found = detections(size=size)
    drawn = found.plot()
    factor = drawn.shape[0] // size[0]
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)
    assert drawn.dtype == np.uint8
    assert found.image is not None
    assert np.unique(found.image).tolist() == [128], "the image itself is not drawn on"
    changed = (drawn != 128).any(-1)
    middle = (50 + 150) // 2 * factor
    reach = slice(98 * factor, 103 * factor)
    assert changed[middle, reach].any(), "left side of the first box"
    assert not changed[middle, 140 * factor], "inside of it"
    assert not changed[-5 * factor :].any(), "below both"


def test_without_an_image_there_is_nothing_to_draw_on() -> None:
    with pytest.raises(ValueError, match="keep_images=True"):
        detections(image=False).plot()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_saved_pictures_open(suffix: str, tmp_path: Path) -> None:
    found = detections()
    path = found.save(tmp_path / "new" / f"x.{suffix}")
    with Image.open(path) as image:
        assert image.size == found.plot().shape[1::-1]
