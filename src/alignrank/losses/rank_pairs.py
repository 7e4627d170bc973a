"""Which entries pairwise ranking compares: all pairs of a small group, a balanced sample of those of a large one.

Shape letters: P entries, N pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

# An entry has at most twice as many partners. Few thousands of positives of a class then cost as many pairs as some
# thousands of objects with ten candidates, and not millions.
SHIFTS = 32
# Groups up to this size give all their pairs.
ALL_PAIRS = 2 * SHIFTS + 1


def balanced_pairs(group: Tensor, quality: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """group [P] int64, quality [P], logits [P] -> two indices [N] into them: pairs within a group, none of them twice.

    The n entries of a group stand in a circle in the order of quality (then of logits). Each is compared with those
    that stand s places further on, for up to `SHIFTS` values of s spread evenly over 1..n/2; with all of these n <=
    `ALL_PAIRS` gives each of its n (n - 1) / 2 pairs. So all entries have equally many partners, from the whole range
    of qualities, and a gap of so many places is as frequent among the sampled pairs as among all. Nothing is drawn at
    random: the pairs are the same in every process, and for every order of the entries.
    """
    order = logits.argsort(stable=True)
    for key in (quality, group):
        order = order[key[order].argsort(stable=True)]
    _, row, counts = torch.unique_consecutive(group[order], return_inverse=True, return_counts=True)
    start = (counts.cumsum(0) - counts)[row]
    size, place = counts[row], torch.arange(len(row), device=row.device) - start
    half = size // 2
    steps = half.clamp(max=SHIFTS)[:, None]
    step = torch.arange(1, min(SHIFTS, len(row) // 2) + 1, device=row.device)
    shift = step * half[:, None] // steps.clamp(min=1)  # [P,SHIFTS]
    # Half a circle on is half a circle back: such a pair is taken from its first entry only.
    once = (2 * shift < size[:, None]) | (place < half)[:, None]
    first, number = ((step <= steps) & once).nonzero(as_tuple=True)
    second = start[first] + (place[first] + shift[first, number]) % size[first]
    return order[first], order[second]
