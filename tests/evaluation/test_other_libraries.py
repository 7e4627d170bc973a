"""Results that other libraries write go through the diagnosis unchanged: random weights, real predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import alignrank

SIZE = (80, 96)  # height, width


def coco_results(image_id: int, found: dict[str, torch.Tensor], category_ids: list[int]) -> list[dict[str, Any]]:
    """As docs/rank-report.md has it."""
    rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for (x0, y0, x1, y1), score, label in rows
    ]


def diagnosed(results: list[dict[str, Any]], folder: Path, classes: int) -> dict[str, Any]:
    """The figures, through files; two objects that lie where the first image's first detections are."""
    assert results
    boxes = [row for row in results if row["image_id"] == 1][:2]
    annotations = [
        {"id": i, "image_id": 1, "category_id": row["category_id"], "bbox": row["bbox"], "area": 100.0}
        for i, row in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(classes)]
    (folder / "gt.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (folder / "dt.json").write_text(json.dumps(results))
    return alignrank.diagnose(folder / "gt.json", folder / "dt.json").to_dict()


def test_torchvision_fcos(tmp_path: Path) -> None:
    from torchvision.models.detection import fcos_resnet50_fpn

    model = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96, score_thresh=0.0
    ).eval()
    with torch.no_grad():
        outputs = model([torch.rand(3, *SIZE), torch.rand(3, *SIZE)])
    results = [row for i, found in enumerate(outputs, start=1) for row in coco_results(i, found, [0, 1, 2, 3])]
    found = diagnosed(results, tmp_path, classes=4)
    assert found["ap"] > 0
    assert found["rank"]["ap_oracle"] >= found["ap"]


def test_transformers_detector(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=[64, 64],
        patch_size=16, num_detection_tokens=20, num_labels=3,
    )  # fmt: skip
    model = transformers.YolosForObjectDetection(config).eval()
    processor = transformers.YolosImageProcessor(size={"height": 64, "width": 64})
    images = [torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8) for _ in range(2)]
    with torch.no_grad():
        outputs = model(**processor(images, return_tensors="pt"))
    found = processor.post_process_object_detection(outputs, threshold=0.001, target_sizes=[SIZE, SIZE])
    results = [row for i, of in enumerate(found, start=1) for row in coco_results(i, of, [0, 1, 2])]
    figures = diagnosed(results, tmp_path, classes=3)
    assert figures["ap50"] > 0
    assert figures["lrp"] < 1
