"""Evaluation of a made-up network: what is measured before and after suppression, and its way into files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from alignrank.contracts import Batch, Frame, Predictions, Targets, WantedThresholds
from alignrank.data.coco import read_file
from alignrank.data.samples import Split
from alignrank.detectors.postprocess import NonMaximumSuppression
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.val import write_evaluation
from alignrank.evaluation.validate import Validation, validate

# Objects of 40 x 40. Per object, boxes as wide as given and the scores of each: IoU is width / 40.
OBJECTS = ((10.0, 10.0), (80.0, 10.0))
WIDTHS = ((40.0, 32.0, 31.0), (36.0, 40.0))
SCORES = ((0.6, 0.9, 0.3), (0.8, 0.2))


class Answers(nn.Module):
    """The same predictions for every image, whatever is in it."""

    stride = 32

    def forward(self, images: Tensor) -> Predictions:
        boxes = [[x, y, x + w, y + 40] for (x, y), widths in zip(OBJECTS, WIDTHS, strict=True) for w in widths]
        scores = [score for per_object in SCORES for score in per_object]
        return Predictions(
            torch.tensor(scores)[None, :, None].logit().expand(len(images), -1, -1),
            torch.tensor(boxes)[None].expand(len(images), -1, -1),
        )


@pytest.fixture
def split(tmp_path: Path) -> Split:
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.fromarray(np.full((64, 160, 3), 90, dtype=np.uint8)).save(tmp_path / "images" / "one.png")
    annotations = [
        {"id": i, "image_id": 5, "category_id": 2, "bbox": [x, y, 40, 40], "area": 1600, "iscrowd": 0}
        for i, (x, y) in enumerate(OBJECTS, start=1)
    ]
    content = {
        "images": [{"id": 5, "file_name": "one.png", "width": 160, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "thing"}],
    }
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(content))
    return read_file(tmp_path / "annotations" / "val.json")


def batches() -> Iterator[Batch]:
    yield Batch(
        torch.zeros(1, 3, 64, 160, dtype=torch.uint8), [Targets.empty()], [Frame("one.png", (64, 160), image_id=5)]
    )


def validated(split: Split, *, before_nms: bool) -> Validation:
    options = ValOptions(thresholds=WantedThresholds(iou=0.7), before_nms=before_nms)
    return validate(Answers(), NonMaximumSuppression(), batches(), split, options)


def test_ranking_before_and_after_nms(split: Split) -> None:
    """Before NMS object 1 has three candidates (IoU 1, .8, .775; scores .6, .9, .3): of the pairs with a gap above .05,
    (1, .8) is wrong, (1, .775) right, while .8 and .775 are too close. Object 2 has IoUs .9 and 1 with
    scores .8 and .2: wrong. 2 of 3 are mis-ranked, both best boxes are missed, the IoU lost is (.2 + .1) / 2. NMS at
    .7 keeps the best-scored of each, so both best boxes are suppressed for a worse one, and nothing is left to
    mis-rank.
    """
    metrics = validated(split, before_nms=True).metrics
    before = metrics.rank_before_nms
    assert before is not None
    assert before["misranked"] == pytest.approx(2 / 3)
    assert before["best_box_missed"] == 1
    assert before["iou_lost"] == pytest.approx(0.15, abs=1e-6)
    assert before["suppressed"] == 1
    assert (metrics.rank["misranked"], metrics.rank["best_box_missed"]) == (0, 0)
    assert validated(split, before_nms=False).metrics.rank_before_nms is None


def test_files_of_an_evaluation(split: Split, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_evaluation(validated(split, before_nms=True), split, out)
    written = json.loads((out / "metrics.json").read_text())
    assert written["rank_before_nms"]["suppressed"] == 1
    assert "rank_before_nms.suppressed" in (out / "report.html").read_text(encoding="utf-8")
    assert len(json.loads((out / "detections.json").read_text())) == 2
