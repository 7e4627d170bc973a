"""Consensus boxes: a kept box becomes the weighted mean of the candidates that overlap it.

Source: box voting (Gidaris & Komodakis 2015, section 5), weights score x IoU. Scores stay as they are.
Shape letters: B images, K candidates of the masked form, M kept boxes, N candidates of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, outside_autocast, pairwise_iou

# Kept boxes that are compared with all candidates at once: 64 x 3000 overlaps take a few MB.
CHUNK = 64
_TINY = 1e-12  # a sum of weights may underflow, and 0 / 0 is no box


def consensus(kept: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """kept [M] indices into boxes [N,4] xyxy px, scores [N] 0..1, labels [N] -> boxes [M,4] of the kept ones.

    Each becomes the mean of itself and the boxes of its label that overlap it by more than `iou`.
    """
    candidates = at_least_float32(boxes)
    merged = []
    for chunk in kept.split(CHUNK):
        own = candidates[chunk]
        overlap = pairwise_iou(own, candidates)
        counted = overlap * ((overlap > iou) & (labels[chunk, None] == labels)).to(overlap.dtype)
        merged.append(own + step_to_mean(own, scores.to(overlap.dtype), counted, candidates))
    return torch.cat(merged).to(boxes.dtype) if merged else boxes[kept]


def step_to_mean(boxes: Tensor, scores: Tensor, overlap: Tensor, candidates: Tensor | None = None) -> Tensor:
    """From boxes [...,M,4] xyxy px to the means of those of candidates [...,N,4] (of `boxes`) that count, with weights
    score x IoU: [...,M,4] px. scores [...,N] 0..1; overlap [...,M,N] IoU where a candidate counts, itself among them.

    Products and no loops, so it exports. A step is exactly 0 where no other box counts, for then its own is 1. (Below
    2 px^2 `mutual_iou` is a little less, and the step is rounding.)
    """
    candidates = boxes if candidates is None else candidates
    with outside_autocast(boxes):
        weighted = overlap @ torch.cat([candidates * scores[..., None], scores[..., None]], -1)
        total = weighted[..., 4:]
        return (weighted[..., :4] - total * boxes) / total.clamp(min=_TINY)
