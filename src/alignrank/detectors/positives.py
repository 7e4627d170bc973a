"""What criteria share: the assigned points (anchors, queries) of all images in one list, and their IoUs as targets.

Shape letters: B images, A points, C classes, T objects of an image, P positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions, Targets
from alignrank.losses.class_loss import LEAST_QUALITY

# Of one image: points [P], and the object [P] that each learns.
Pairs = tuple[Tensor, Tensor]
# Images [P], points [P], labels [P] and boxes of the objects [P,4].
Positives = tuple[Tensor, Tensor, Tensor, Tensor]


def gathered(assigned: Iterable[Tensor], targets: Sequence[Targets]) -> Positives:
    """assigned: of each image the object [A] int64 of every point, -1 for a negative."""
    pairs = []
    for gt_index in assigned:
        point = (gt_index >= 0).nonzero().squeeze(1)
        pairs.append((point, gt_index[point]))
    return gathered_pairs(pairs, targets)


def gathered_pairs(pairs: Sequence[Pairs], targets: Sequence[Targets]) -> Positives:
    """The same where pairs are known: no number of positives has to come from the GPU first."""
    images = [torch.full_like(point, number) for number, (point, _) in enumerate(pairs)]
    labels = [target.labels[gt_index] for (_, gt_index), target in zip(pairs, targets, strict=True)]
    boxes = [target.boxes[gt_index] for (_, gt_index), target in zip(pairs, targets, strict=True)]
    points = [point for point, _ in pairs]
    return torch.cat(images), torch.cat(points), torch.cat(labels), torch.cat(boxes)


def quality_of(boxes: Tensor, gt: Tensor) -> Tensor:
    """[P,4],[P,4] -> IoU [P], at least `LEAST_QUALITY`, constant."""
    return aligned_iou(boxes.detach(), gt).clamp(min=LEAST_QUALITY)


def class_targets(predictions: Predictions, positives: Positives, *, floor: float = 0.0) -> Tensor:
    """[B,A,C]: the IoU of the predicted box at the class of a positive, or `floor` if that is more; else 0."""
    image, point, labels, gt = positives
    targets = torch.zeros_like(predictions.logits)
    quality = quality_of(predictions.boxes[image, point], gt).clamp(min=floor)
    targets[image, point, labels] = quality.to(targets.dtype)
    return targets
