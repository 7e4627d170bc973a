"""Rank & Sort loss (Oksuz et al., Rank & Sort Loss for Object Detection and Instance Segmentation, ICCV 2021).

Positives are to stand above negatives (ranking), and among each other in the order of their quality (sorting).
Counting who stands above whom is flat almost everywhere, so the gradient is not the derivative of the value: the
error of a positive is handed out to the entries that cause it (the paper's identity update).

Shape letters: N entries, P positives, M negatives in reach of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32

# Of a positive and another entry. A few tables of this size are alive at a time, 16 MiB each in float32.
PAIRS_PER_CHUNK = 1 << 22


def rank_sort_loss(logits: Tensor, quality: Tensor, *, delta: float = 0.5) -> tuple[Tensor, Tensor]:
    """Ranking and sorting error of the positives: two 0-dim means over them, in 0..1 (0 without any).

    logits [N], finite; quality [N] in 0..1, the IoU of a positive, 0 for a negative (NaN counts as 0). `delta`, in
    logits, is half the width of the ramp that stands for the step of "j is above i":

    H_ij = clamp((z_j - z_i) / (2 delta) + 1/2, 0, 1), or [z_j >= z_i] with delta 0. Every entry counts for itself.
    ranking_i = sum of H_ij over negatives / sum of H_ij over all
    sorting_i = mean of 1 - q_j over positives, with weights H_ij, minus the same over positives with q_j >= q_i

    (section 4). The gradient is the identity update (section 3), here times P: z_i of a positive gets -ranking_i and
    -sorting_i; negatives share each ranking_i in proportion to H_ij, positives with q_j < q_i each sorting_i likewise.
    So the gradient of either sums to 0. There is no second derivative.

    Costs time of P*N; memory is bounded by `PAIRS_PER_CHUNK`, or N. Raises ValueError for a negative delta.
    """
    if not delta >= 0:
        raise ValueError(f"delta must be at least 0, got {delta!r}")
    logits, quality = at_least_float32(logits), at_least_float32(quality)
    with torch.no_grad():
        values, gradients = _errors_and_updates(logits, quality, delta)
    ranking, sorting = (_Given.apply(logits, *pair) for pair in zip(values, gradients, strict=True))
    return ranking, sorting


class _Given(torch.autograd.Function):
    """`value`, whose gradient with respect to `logits` is said to be `gradient`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _errors_and_updates(logits: Tensor, quality: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """logits, quality [N] -> the two means [2] and their gradients [2,N]."""
    positive = quality > 0
    values, gradients = logits.new_zeros(2), logits.new_zeros(2, len(logits))
    if not positive.any():
        return values, gradients
    own, own_quality = logits[positive], quality[positive]
    # Late in training most negatives are below the ramp of every positive.
    in_reach = ~positive & (logits - own.min() >= -delta)
    negatives = logits[in_reach]
    ranking, sorting = torch.zeros_like(own), torch.zeros_like(own)
    blame_of_positives, blame_of_negatives = torch.zeros_like(own), torch.zeros_like(negatives)

    rows = max(1, PAIRS_PER_CHUNK // (len(own) + len(negatives)))
    for start in range(0, len(own), rows):
        part = slice(start, start + rows)
        among = _above(own, own[part], delta)  # [rows,P]
        beyond = _above(negatives, own[part], delta)  # [rows,M]
        num_false, num_true = beyond.sum(1), among.sum(1)
        ranking[part] = num_false / (num_false + num_true)
        # ranking_i H_ij / sum_j H_ij. Not as a product of matrices: autocast would make those half precision.
        blame_of_negatives += beyond.div_((num_false + num_true)[:, None]).sum(0)

        worse = own_quality < own_quality[part, None]
        missorted, rightful = among * worse, among * ~worse
        current = (among * (1 - own_quality)).sum(1) / num_true
        target = (rightful * (1 - own_quality)).sum(1) / rightful.sum(1)
        sorting[part] = current - target
        # Without a missorted entry the two are the same sum, so the error is 0 exactly, and any divisor will do.
        total = missorted.sum(1, keepdim=True)
        share = missorted / torch.where(total > 0, total, 1)
        blame_of_positives += (share * sorting[part, None]).sum(0)

    count = len(own)
    values[0], values[1] = ranking.sum() / count, sorting.sum() / count
    gradients[0, positive], gradients[0, in_reach] = -ranking / count, blame_of_negatives / count
    gradients[1, positive] = (blame_of_positives - sorting) / count
    return values, gradients


def _above(others: Tensor, own: Tensor, delta: float) -> Tensor:
    """others [n], own [rows] -> H [rows,n], how much each of the others is above the own entry, 0..1."""
    gap = others - own[:, None]
    if delta == 0:
        return (gap >= 0).to(gap.dtype)
    return gap.div_(2 * delta).add_(0.5).clamp_(0, 1)
