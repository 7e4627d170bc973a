"""Losses that make class scores rank boxes by their quality (RCQ-Loss): those of one object, and beyond it.

Source: Li & Liu 2025, YOLO-AlignRank ("intra-set list alignment and pairwise ranking"); only the abstract is
public, so the formulas are ours: list alignment after ListNet (Cao et al. 2007), the pairs after RankNet-style
hinges with a margin proportional to the gap of quality. The scopes beyond an object's set are ours as well:
suppression leaves one box of an object, and which object's box is then the better one is what AP counts.

With score sigmoid(z) = quality both terms have gradient 0 (for beta = 1/tau and mu <= 4), so they do not pull against
a classification loss whose optimum is that point. Quality is a constant: boxes are never worsened to please a ranking.

Shape letters: P entries (one point and the class of its object each), G objects or lists, K entries of the largest set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignrank.boxes import at_least_float32
from alignrank.losses.other_processes import Entries
from alignrank.losses.rank_pairs import ALL_PAIRS, balanced_pairs
from alignrank.losses.sets import Sets, sets_of

ScoreSpace = Literal["logsigmoid", "logit"]
RankScope = Literal["object", "class", "both"]
AlignScope = Literal["object", "class"]
Across = Literal["all", "best"]
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
    scope: RankScope = "object",
    align_scope: AlignScope = "object",
    across: Across = "all",
    labels: Tensor | None = None,
    images: Tensor | None = None,
    others: Entries | None = None,
) -> RankTerms:
    """List alignment and pairwise ranking of the entries of objects.

    logits [P], of the object's class; quality [P] in 0..1, usually the IoU with the object (NaN counts as 0); gt_index
    [P] int64, unique over the batch, -1 for entries of no object. For the set S of an object:

    align = -sum_i Q_i log P_i, Q = quality^beta / sum, P = softmax(log sigmoid(z) / tau), or softmax(z / tau) in score
    space "logit". Valid: sets of at least two with some quality.
    rank = sum over pairs with q_i - q_j > delta of (q_i - q_j) max(0, mu (q_i - q_j) - (z_i - z_j)), divided by the sum
    of (q_i - q_j). Valid: objects with such a pair.

    The pairs of an object, by `scope`: "object": of two entries of its set (the paper's). "class": of one of its
    entries and one of another object of its class, in any image; needs labels [P], int64. "both": the mean of the two
    values, or the one there is. In every scope `balanced_pairs` chooses them, and each object counts the same, so the
    sum of the gradient's absolute values is at most 2: scopes can be compared at one weight. across "best" compares
    only the best-scored entries of objects with those of others, those that suppression would leave.

    The lists of align, by `align_scope`: "object", S; "class", all entries of the objects of a class in an image; needs
    labels and images [P] int64. A list counts as often as it has objects.

    others: entries of other processes' objects, constants. The counts are of this process's objects, and the value is
    the mean over these; the gradient is such that the sum over processes of rank * num_rank has that of one process.

    Costs memory of G*K^2, for pairs beyond a set of 64*P. Raises ValueError for unknown names and missing labels.
    """
    if score_space not in ("logsigmoid", "logit"):
        raise ValueError(f"score_space must be 'logsigmoid' or 'logit', got {score_space!r}")
    _check_scopes(scope, align_scope, across, labels, images)
    logits, quality = at_least_float32(logits), _constant(quality)
    member = gt_index >= 0
    if not member.any():
        nothing = logits.sum() * 0
        return RankTerms(nothing, nothing, 0, 0)
    z, q, number = logits[member], quality[member], gt_index[member]
    sets = lists = sets_of(number)
    if align_scope == "class":
        assert labels is not None
        assert images is not None
        lists = sets_of(images[member] * (int(labels.max()) + 1) + labels[member])
    objects = torch.bincount(lists.row[sets.column == 0], minlength=len(lists.counts))
    align, num_align = _alignment(lists, z, q, objects, tau, beta, score_space)
    if scope == "object":
        rank, num_rank = _mean_of_valid(*_within(sets, z, q, mu, delta))
        return RankTerms(align, rank, num_align, num_rank)
    assert labels is not None
    label, own = labels[member], torch.ones_like(number, dtype=torch.bool)
    if others is not None:
        z = torch.cat([z, at_least_float32(others.logits.detach())])
        q = torch.cat([q, _constant(others.quality)])
        label, own = torch.cat([label, others.labels]), torch.cat([own, torch.zeros_like(others.labels).bool()])
        sets = sets_of(torch.cat([number, others.gt_index]))
    per_object, valid = _between(sets, z, q, label, across, mu, delta)
    if scope == "both":
        within, inner = _within(sets, z, q, mu, delta)
        terms = torch.where(valid, per_object, 0) + torch.where(inner, within, 0)
        per_object, valid = terms / (valid.to(z.dtype) + inner.to(z.dtype)).clamp(min=1), valid | inner
    rank, num_rank = _mean_of_own(per_object, valid, sets.padded(own)[:, 0])
    return RankTerms(align, rank, num_align, num_rank)


def _check_scopes(scope: str, align_scope: str, across: str, labels: Tensor | None, images: Tensor | None) -> None:
    if scope not in ("object", "class", "both"):
        raise ValueError(f"scope must be 'object', 'class' or 'both', got {scope!r}")
    if align_scope not in ("object", "class"):
        raise ValueError(f"align_scope must be 'object' or 'class', got {align_scope!r}")
    if across not in ("all", "best"):
        raise ValueError(f"across must be 'all' or 'best', got {across!r}")
    if scope != "object" and labels is None:
        raise ValueError(f"scope {scope!r} needs labels")
    if align_scope == "class" and (labels is None or images is None):
        raise ValueError("align_scope 'class' needs labels and images")


def _constant(quality: Tensor) -> Tensor:
    return at_least_float32(quality.detach()).nan_to_num(0).clamp(0, 1)


def _alignment(
    lists: Sets, z: Tensor, q: Tensor, objects: Tensor, tau: float, beta: float, score_space: ScoreSpace
) -> tuple[Tensor, int]:
    z, q, present = lists.padded(z), lists.padded(q), lists.present()  # [G,K]
    weight = torch.where(present, q.pow(beta), 0)
    total = weight.sum(1)
    valid = (lists.counts > 1) & (total >= NO_QUALITY)
    target = weight / total.clamp(min=NO_QUALITY)[:, None]
    strength = (logsigmoid(z) if score_space == "logsigmoid" else z) / tau
    # Absent places get a large negative number, not -inf: 0 * -inf would be NaN.
    log_probability = torch.where(present, strength, torch.finfo(z.dtype).min).log_softmax(1)
    per_list = -torch.where(present, target * log_probability, 0).sum(1)
    count = int(objects[valid].sum())
    return torch.where(valid, per_list * objects, 0).sum() / max(count, 1), count


def _within(sets: Sets, z: Tensor, q: Tensor, mu: float, delta: float) -> tuple[Tensor, Tensor]:
    """Mean over the pairs of each set [G], and whether it has any [G]."""
    if int(sets.counts.max()) > ALL_PAIRS:
        return _means(sets, z, q, balanced_pairs(sets.row, q, z.detach()), mu, delta)
    z, q, present = sets.padded(z), sets.padded(q), sets.present()
    gap = q[:, :, None] - q[:, None, :]  # [G,K,K], better minus worse
    weight = torch.where((gap > delta) & present[:, :, None] & present[:, None, :], gap, 0)
    hinge = (mu * gap - (z[:, :, None] - z[:, None, :])).clamp(min=0)
    total = weight.sum((1, 2))
    valid = total > 0
    return (weight * hinge).sum((1, 2)) / torch.where(valid, total, 1), valid


def _between(
    sets: Sets, z: Tensor, q: Tensor, labels: Tensor, across: Across, mu: float, delta: float
) -> tuple[Tensor, Tensor]:
    """Mean over the pairs of each object with other objects of its class [G], and whether it has any [G]."""
    compared = torch.arange(len(z), device=z.device)
    if across == "best":
        score = torch.where(sets.present(), sets.padded(z.detach()), torch.finfo(z.dtype).min)
        compared = compared[sets.column == score.argmax(1)[sets.row]]
    pairs = balanced_pairs(labels[compared], q[compared], z.detach()[compared])
    first, second = (compared[place] for place in pairs)
    apart = sets.row[first] != sets.row[second]
    return _means(sets, z, q, (first[apart], second[apart]), mu, delta)


def _means(
    sets: Sets, z: Tensor, q: Tensor, pairs: tuple[Tensor, Tensor], mu: float, delta: float
) -> tuple[Tensor, Tensor]:
    """Mean over the pairs that each object takes part in [G], and whether it has any [G]."""
    first, second = pairs
    gap = q[first] - q[second]
    ahead = gap > 0
    better, worse = torch.where(ahead, first, second), torch.where(ahead, second, first)
    gap = gap.abs()
    counts = gap > delta
    better, worse, weight = better[counts], worse[counts], gap[counts]
    # index_select: the gradient of z[better] is slow to add up on a CPU.
    value = weight * (mu * weight - (z.index_select(0, better) - z.index_select(0, worse))).clamp(min=0)
    nothing = z.new_zeros(len(sets.counts))
    # A pair within a set counts twice in both sums.
    ends = sets.row[better], sets.row[worse]
    total = nothing.index_add(0, ends[0], weight).index_add(0, ends[1], weight)
    sums = nothing.index_add(0, ends[0], value).index_add(0, ends[1], value)
    valid = total > 0
    return sums / torch.where(valid, total, 1), valid


def _mean_of_own(per_object: Tensor, valid: Tensor, own: Tensor) -> tuple[Tensor, int]:
    """The mean over valid own objects, with the gradient that own entries have in the sum over all objects."""
    count = int((valid & own).sum())
    everything, mine = (torch.where(kept, per_object, 0).sum() for kept in (valid, valid & own))
    # Another process's objects have pairs with own entries, too. It cannot follow that gradient, so it is taken here.
    return (mine.detach() + (everything - everything.detach())) / max(count, 1), count


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
    logits, quality = at_least_float32(logits), _constant(quality)
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
