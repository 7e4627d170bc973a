"""Entries in sets of unequal size, and the same entries in one padded tensor with a row for each set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sets:
    """For M entries the set (row [M]) and the place in it (column [M]); the sizes of the G sets, `counts` [G]."""

    row: Tensor
    column: Tensor
    counts: Tensor

    def padded(self, values: Tensor) -> Tensor:
        """values [M,...] -> [G,K,...], K the size of the largest set, 0 in places that a set does not have."""
        shape = (len(self.counts), int(self.counts.max()), *values.shape[1:])
        return values.new_zeros(shape).index_put((self.row, self.column), values)

    def present(self) -> Tensor:
        """[G,K] bool, the places that a set has."""
        return torch.arange(int(self.counts.max()), device=self.counts.device) < self.counts[:, None]


def sets_of(number: Tensor) -> Sets:
    """number [M] int64 of each entry's set -> the sets in ascending order, entries in theirs."""
    _, row, counts = torch.unique(number, return_inverse=True, return_counts=True)
    order = row.argsort(stable=True)
    start = counts.cumsum(0) - counts
    column = torch.empty_like(row)
    column[order] = torch.arange(len(row), device=row.device) - start[row[order]]
    return Sets(row, column, counts)
