"""Losses that make class scores rank the boxes of one object by their quality (RCQ-Loss).

Source: Li & Liu 2025, YOLO-AlignRank ("intra-set list alignment and pairwise ranking"); only the abstract is
public, so the formulas are ours: list alignment after ListNet (Cao et al. 2007), the pairs after RankNet-style
hinges with a margin proportional to the gap of quality.

With score sigmoid(z) = quality both terms have gradient 0 (for beta = 1/tau and mu <= 4), so they do not pull against
a classification loss whose optimum is that point. Quality is a constant: boxes are never worsened to please a ranking.

Shape letters: P entries (one point and the class of its object each), G objects, K entries of the largest set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignrank.boxes import at_least_float32

ScoreSpace = Literal["logsigmoid", "logit"]
# Below this sum of quality^beta a set has nothing to be aligned to.
NO_QUALITY = 1e-9


@dataclass(slots=True)
class RankTerms:
    """0-dim means over the valid objects of one call (0 with a gradient path without any), and their counts."""

    align: Tensor
    rank: Tensor
    num_align: int
    num_rank: int


def rank_consistent_loss(
    logits: Tensor,
    quality: Tensor,
    gt_index: Tensor,
    *,
    tau: float = 1.0,
    beta: float = 1.0,
    mu: float = 1.0,
    delta: float = 0.05,
    score_space: ScoreSpace = "logsigmoid",
) -> RankTerms:
    """List alignment and pairwise ranking within the set of entries of each object.

    logits [P], of the object's class; quality [P] in 0..1, usually the IoU with the object (NaN counts as 0); gt_index
    [P] int64, unique over the batch, -1 for entries of no object. For the set S of an object:

    align = -sum_i Q_i log P_i, Q = quality^beta / sum, P = softmax(log sigmoid(z) / tau), or softmax(z / tau) in score
    space "logit". Valid: sets of at least two with some quality.
    rank = sum over pairs with q_i - q_j > delta of (q_i - q_j) max(0, mu (q_i - q_j) - (z_i - z_j)), divided by the sum
    of (q_i - q_j). Valid: sets with such a pair.

    Costs memory of G*K^2. Raises ValueError for another score space.
    """
    if score_space not in ("logsigmoid", "logit"):
        raise ValueError(f"score_space must be 'logsigmoid' or 'logit', got {score_space!r}")
    logits, quality = at_least_float32(logits), at_least_float32(quality.detach()).nan_to_num(0).clamp(0, 1)
    row, column, counts = _sets(gt_index)
    if len(counts) == 0:
        nothing = logits.sum() * 0
        return RankTerms(nothing, nothing, 0, 0)
    member = gt_index >= 0
    shape = (len(counts), int(counts.max()))
    z = logits.new_zeros(shape).index_put((row, column), logits[member])  # [G,K]
    q = quality.new_zeros(shape).index_put((row, column), quality[member])
    present = torch.zeros(shape, dtype=torch.bool, device=z.device).index_put((row, column), row.new_ones(()).bool())
    align, num_align = _alignment(z, q, present, tau, beta, score_space)
    rank, num_rank = _pairs(z, q, present, mu, delta)
    return RankTerms(align, rank, num_align, num_rank)


def _sets(gt_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """gt_index [P] -> for its members the object's row [M] and the place in it [M], and the sizes of the sets [G]."""
    members = gt_index[gt_index >= 0]
    _, row, counts = torch.unique(members, return_inverse=True, return_counts=True)
    order = row.argsort(stable=True)
    start = counts.cumsum(0) - counts
    column = torch.empty_like(row)
    column[order] = torch.arange(len(row), device=row.device) - start[row[order]]
    return row, column, counts


def _alignment(
    z: Tensor, q: Tensor, present: Tensor, tau: float, beta: float, score_space: ScoreSpace
) -> tuple[Tensor, int]:
    weight = torch.where(present, q.pow(beta), 0)
    total = weight.sum(1)
    valid = (present.sum(1) > 1) & (total >= NO_QUALITY)
    target = weight / total.clamp(min=NO_QUALITY)[:, None]
    strength = (logsigmoid(z) if score_space == "logsigmoid" else z) / tau
    # Absent places get a large negative number, not -inf: 0 * -inf would be NaN.
    log_probability = torch.where(present, strength, torch.finfo(z.dtype).min).log_softmax(1)
    per_object = -torch.where(present, target * log_probability, 0).sum(1)
    return _mean_of_valid(per_object, valid)


def _pairs(z: Tensor, q: Tensor, present: Tensor, mu: float, delta: float) -> tuple[Tensor, int]:
    gap = q[:, :, None] - q[:, None, :]  # [G,K,K], better minus worse
    weight = torch.where((gap > delta) & present[:, :, None] & present[:, None, :], gap, 0)
    hinge = (mu * gap - (z[:, :, None] - z[:, None, :])).clamp(min=0)
    total = weight.sum((1, 2))
    valid = total > 0
    per_object = (weight * hinge).sum((1, 2)) / torch.where(valid, total, 1)
    return _mean_of_valid(per_object, valid)


def _mean_of_valid(per_object: Tensor, valid: Tensor) -> tuple[Tensor, int]:
    count = int(valid.sum())
    return torch.where(valid, per_object, 0).sum() / max(count, 1), count


def chosen_rank_loss(
    logits: Tensor, quality: Tensor, gt_index: Tensor, chosen: Tensor, *, mu: float = 1.0
) -> tuple[Tensor, int]:
    """One entry of each object, the chosen one, above the object's others: for one-to-one outputs.

    logits, quality, gt_index as above; chosen [P] bool, at most one of an object. Mean over the other entries j of
    max(0, mu max(q_chosen - q_j, 0) - (z_chosen - z_j)), averaged over objects with a chosen entry and another; and
    their count. It never asks for the others' scores to be high, so it does not teach duplicates.
    """
    logits, quality = at_least_float32(logits), at_least_float32(quality.detach()).nan_to_num(0).clamp(0, 1)
    chosen = chosen & (gt_index >= 0)
    size = int(gt_index.max()) + 1 if len(gt_index) else 0
    place = torch.full((max(size, 1),), -1, dtype=torch.int64, device=logits.device)
    place[gt_index[chosen]] = chosen.nonzero().squeeze(1)
    best = place[gt_index.clamp(min=0)]
    other = (gt_index >= 0) & ~chosen & (best >= 0)
    if not other.any():
        return logits.sum() * 0, 0
    best, of = best[other], gt_index[other]
    margin = mu * (quality[best] - quality[other]).clamp(min=0)
    hinge = (margin - (logits[best] - logits[other])).clamp(min=0)
    sums, counts = hinge.new_zeros(size).index_add(0, of, hinge), torch.bincount(of, minlength=size)
    valid = counts > 0
    return _mean_of_valid(sums / counts.clamp(min=1), valid)
