"""Predictions with one part replaced by ground truth, at assigned points only."""

from __future__ import annotations

import pytest
import torch
from tiny_forms import tiny_form
from torch.testing import assert_close

from alignrank.boxes import aligned_iou
from alignrank.contracts import Built, Targets
from alignrank.errors import InputError
from alignrank.evaluation.oracle import KINDS, correction
from alignrank.weights.recipe import load_recipe

NAMES = ("atss-r50", "retinanet-r50", "yolov8-n", "yolov10-n", "alignrank-n")
TARGETS = [
    Targets(torch.tensor([[4.0, 4.0, 60.0, 60.0], [30.0, 40.0, 90.0, 62.0]]), torch.tensor([0, 2])),
    Targets.empty(),
]


def small(name: str) -> Built:
    torch.manual_seed(0)
    return load_recipe(name, num_classes=3, overrides=tiny_form(name)).build()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_part_is_right(name: str, kind: str) -> None:
    """Boxes are the objects'; class scores are 1 or the IoU; nothing else changes, and the original not at all."""
    built = small(name)
    with torch.no_grad():
        before = built.model.eval()(torch.rand(2, 3, 64, 96))
        copy = before.logits.clone(), before.boxes.clone()
        if kind.startswith("ctr") and before.centreness is None:
            with pytest.raises(InputError, match="needs a detector with centreness"):
                correction(kind, built.criterion)(before, TARGETS)
            return
        after = correction(kind, built.criterion)(before, TARGETS)
    image, point, labels, gt = built.criterion.positives(before, TARGETS)  # type: ignore[attr-defined]
    assert len(image) > 0
    assert (image == 0).all()
    assert torch.equal(before.logits, copy[0])
    assert torch.equal(before.boxes, copy[1])
    iou = aligned_iou(before.boxes[image, point], gt)
    scores = after.scores()[image, point, labels]
    if kind == "box":
        assert_close(after.boxes[image, point], gt)
        after.boxes[image, point] = before.boxes[image, point]
    elif kind == "ctr-iou":
        assert after.centreness is not None
        assert_close(after.centreness[image, point, 0].sigmoid(), iou, atol=1e-5, rtol=0)
    elif kind == "ctr":
        assert after.centreness is not None
        assert ((after.centreness[image, point, 0].sigmoid() > 0) & (after.centreness[image, point, 0] < 31)).all()
    elif before.centreness is None:
        assert_close(scores, iou if kind == "class-iou" else torch.ones_like(iou), atol=1e-5, rtol=0)
    if kind.startswith("class"):
        after.logits[image, point, labels] = before.logits[image, point, labels]
    assert torch.equal(after.boxes, before.boxes)
    assert torch.equal(after.logits, before.logits)


def test_centreness_by_hand() -> None:
    """A point 10 px from the left and 30 from the right side, in the middle between top and bottom: sqrt(1/3)."""
    built = small("atss-r50")
    with torch.no_grad():
        predictions = built.model.eval()(torch.rand(1, 3, 64, 64))
        targets = [Targets(torch.tensor([[6.0, 4.0, 46.0, 28.0]]), torch.tensor([1]))]
        image, point, _, _ = built.criterion.positives(predictions, targets)  # type: ignore[attr-defined]
        after = correction("ctr", built.criterion)(predictions, targets)
    assert predictions.points is not None
    chosen = (predictions.points[point] == torch.tensor([16.0, 16.0])).all(1).nonzero().squeeze(1)
    assert len(chosen) > 0
    assert after.centreness is not None
    assert_close(after.centreness[image, point, 0][chosen].sigmoid(), torch.full((len(chosen),), 3**-0.5))


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match="expected one of ctr, ctr-iou, box, class, class-iou, got 'boxes'"):
        correction("boxes", small("yolov8-n").criterion)
    with pytest.raises(InputError, match="does not assign points"):
        correction("box", object())
