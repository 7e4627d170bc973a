"""Consensus boxes: a kept box becomes the weighted mean of the candidates that overlap it.

Source: box voting (Gidaris & Komodakis 2015, section 5), weights score x IoU. Scores stay as they are.
Shape letters: B images, K candidates of the masked form, M kept boxes, N candidates of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, pairwise_iou

# Kept boxes that are compared with all candidates at once: 64 x 3000 overlaps take a few MB.
CHUNK = 64
_TINY = 1e-12  # a sum of weights may underflow, and 0 / 0 is no box


def masked_consensus(boxes: Tensor, scores: Tensor, overlap: Tensor, iou: float) -> Tensor:
    """boxes [B,K,4] xyxy px, scores [B,K] 0..1, overlap [B,K,K] IoU, 0 for pairs apart -> boxes [B,K,4].

    Every box becomes the mean of itself and those that overlap it by more than `iou`. Products and no loops, so it
    exports. A box that nothing overlaps stays as it is, to the bit.
    """
    others = 1 - torch.eye(boxes.shape[1], dtype=overlap.dtype, device=overlap.device)
    weights = overlap * (overlap > iou).to(overlap.dtype) * others * scores[:, None]
    return _moved(boxes, scores, weights, weights @ boxes)


def consensus(kept: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """kept [M] indices into boxes [N,4] xyxy px, scores [N] 0..1, labels [N] -> boxes [M,4] of the kept ones.

    Each becomes the mean of itself and the boxes of its label that overlap it by more than `iou`.
    """
    candidates = at_least_float32(boxes)
    merged = []
    for chunk in kept.split(CHUNK):
        own = candidates[chunk]
        overlap = pairwise_iou(own, candidates)
        allowed = (overlap > iou) & (labels[chunk, None] == labels)
        allowed[torch.arange(len(chunk), device=allowed.device), chunk] = False  # itself counts in _moved
        weights = overlap * allowed.to(overlap.dtype) * scores.to(overlap.dtype)
        merged.append(_moved(own, scores[chunk].to(overlap.dtype), weights, weights @ candidates))
    return torch.cat(merged).to(boxes.dtype) if merged else boxes[kept]


def _moved(boxes: Tensor, scores: Tensor, weights: Tensor, weighted: Tensor) -> Tensor:
    """boxes [...,4] of weight `scores` [...] and others of `weights` [...,N], whose sum is `weighted` [...,4] -> mean.

    As a step from the box itself, which is exactly 0 where no other box counts.
    """
    total = weights.sum(-1, keepdim=True)
    return boxes + (weighted - total * boxes) / (total + scores[..., None]).clamp(min=_TINY)
