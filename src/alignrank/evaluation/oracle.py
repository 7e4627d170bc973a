"""What AP would be if one part of the predictions were right: VarifocalNet's experiment (table 1), for any detector.

At the points that training would assign to an object, before suppression, the named part is replaced by what ground
truth says. All other points stay as they are.

Shape letters: P assigned points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignrank.assign.fcos import centreness_target
from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions, Targets
from alignrank.errors import InputError

KINDS = ("ctr", "ctr-iou", "box", "class", "class-iou")
# A logit whose sigmoid is 1 in float32.
CERTAIN = 30.0

Correction = Callable[[Predictions, Sequence[Targets]], Predictions]


def correction(kind: str, criterion: Any) -> Correction:
    """Predictions and targets -> predictions with one part right.

    `ctr`: centreness; `ctr-iou`: centreness is the IoU with the object; `box`: boxes; `class`: the object's class has
    score 1; `class-iou`: it has the IoU as its score. Raises InputError for another name, and for a criterion that
    does not say which points it assigns.
    """
    if kind not in KINDS:
        raise InputError(f"--oracle: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not hasattr(criterion, "positives"):
        raise InputError("--oracle: this architecture does not assign points to objects")

    def correct(predictions: Predictions, targets: Sequence[Targets]) -> Predictions:
        image, point, labels, gt = criterion.positives(predictions, targets)
        own = predictions.boxes[image, point]
        if kind == "box":
            boxes = predictions.boxes.clone()
            boxes[image, point] = gt.to(boxes.dtype)
            return replace(predictions, boxes=boxes)
        if kind.startswith("class"):
            logits = predictions.logits.clone()
            score = aligned_iou(own, gt) if kind == "class-iou" else torch.ones_like(own[:, 0])
            logits[image, point, labels] = _logit(score).to(logits.dtype)
            return replace(predictions, logits=logits)
        if predictions.centreness is None or predictions.points is None:
            raise InputError(f"--oracle: {kind} needs a detector with centreness, such as atss-r50")
        score = aligned_iou(own, gt) if kind == "ctr-iou" else centreness_target(predictions.points[point], gt)
        centreness = predictions.centreness.clone()
        centreness[image, point, 0] = _logit(score).to(centreness.dtype)
        return replace(predictions, centreness=centreness)

    return correct


def _logit(score: Tensor) -> Tensor:
    return torch.logit(score.double()).clamp(-CERTAIN, CERTAIN)
