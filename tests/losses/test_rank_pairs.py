"""Which entries are compared: all of a small group, as many for each entry of a large one."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from alignrank.losses.rank_pairs import ALL_PAIRS, SHIFTS, balanced_pairs


def pairs_of(group: Tensor, quality: Tensor, logits: Tensor) -> set[frozenset[int]]:
    first, second = balanced_pairs(group, quality, logits)
    found = [frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)]
    assert len(set(found)) == len(found)
    assert all(len(pair) == 2 for pair in found)
    return set(found)


def entries(*sizes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffled groups of `sizes` entries, numbered 7, 14, ..."""
    group = torch.cat([torch.full((n,), 7 * i) for i, n in enumerate(sizes, start=1)])
    generator = torch.Generator().manual_seed(sum(sizes))
    group = group[torch.randperm(len(group), generator=generator)]
    return group, torch.rand(len(group), generator=generator), torch.randn(len(group), generator=generator)


def test_small_groups_give_all_pairs() -> None:
    group, quality, logits = entries(1, 2, 3, 10, 64, 65, 1)
    expected = {
        frozenset(pair)
        for number in group.unique()
        for pair in combinations((group == number).nonzero().squeeze(1).tolist(), 2)
    }
    assert pairs_of(group, quality, logits) == expected
    assert ALL_PAIRS == 65


@pytest.mark.parametrize("size", [66, 67, 200, 1001])
def test_large_group_is_balanced(size: int) -> None:
    """Each entry has as many partners, and gaps of so many places are as frequent as among all pairs."""
    group, quality, logits = entries(size, 3)
    pairs = [tuple(pair) for pair in pairs_of(group, quality, logits) if group[next(iter(pair))] == 7]
    partners = torch.bincount(torch.tensor(pairs).flatten(), minlength=len(group))[group == 7]
    # Of an even number, one shift is half of the circle, on which an entry has one partner.
    assert partners.unique().tolist() == [2 * SHIFTS - (size % 2 == 0)]
    place = torch.empty(len(group), dtype=torch.int64)
    place[(group == 7).nonzero().squeeze(1)[quality[group == 7].argsort()]] = torch.arange(size)
    gaps = torch.tensor([abs(int(place[i] - place[j])) for i, j in pairs]).double()
    among_all = torch.arange(1, size).double()
    weights = size - among_all  # so many pairs have this gap
    assert gaps.mean().item() == pytest.approx(((among_all * weights).sum() / weights.sum()).item(), rel=0.03)


def test_order_of_entries_is_free() -> None:
    """Also where qualities are equal."""
    group, quality, logits = entries(300, 80, 5)
    quality = (quality * 10).round() / 10
    order = torch.randperm(len(group))
    moved = {frozenset(order[list(pair)].tolist()) for pair in pairs_of(group[order], quality[order], logits[order])}
    assert moved == pairs_of(group, quality, logits)


def test_no_entries() -> None:
    assert pairs_of(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0)) == set()
