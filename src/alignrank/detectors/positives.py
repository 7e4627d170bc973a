"""What criteria of dense detectors share: the assigned points of all images in one list, and their IoUs as targets.

Shape letters: B images, A points or anchors, C classes, T objects of an image, P positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions, Targets

# Marks a positive whose box misses its object.
LEAST_QUALITY = 1e-6

# Images [P], points [P], labels [P] and boxes of the objects [P,4].
Positives = tuple[Tensor, Tensor, Tensor, Tensor]


def gathered(assigned: Iterable[Tensor], targets: Sequence[Targets]) -> Positives:
    """assigned: of each image the object [A] int64 of every point, -1 for a negative."""
    images, points, labels, boxes = [], [], [], []
    for number, (gt_index, target) in enumerate(zip(assigned, targets, strict=True)):
        point = (gt_index >= 0).nonzero().squeeze(1)
        images.append(torch.full_like(point, number))
        points.append(point)
        labels.append(target.labels[gt_index[point]])
        boxes.append(target.boxes[gt_index[point]])
    return torch.cat(images), torch.cat(points), torch.cat(labels), torch.cat(boxes)


def quality_of(boxes: Tensor, gt: Tensor) -> Tensor:
    """[P,4],[P,4] -> IoU [P], at least `LEAST_QUALITY`, constant."""
    return aligned_iou(boxes.detach(), gt).clamp(min=LEAST_QUALITY)


def class_targets(predictions: Predictions, positives: Positives) -> Tensor:
    """[B,A,C]: the IoU of the predicted box at the class of a positive, else 0."""
    image, point, labels, gt = positives
    targets = torch.zeros_like(predictions.logits)
    targets[image, point, labels] = quality_of(predictions.boxes[image, point], gt).to(targets.dtype)
    return targets
