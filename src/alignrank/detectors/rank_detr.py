"""Rank-DETR's parts, each a switch of every detection transformer here: scores that know a query's rank, queries that
are sorted and told their rank, a class loss and a matching cost that go by the box's fit.

Source: Pu et al., Rank-DETR, NeurIPS 2023: section 3.2 (rank-adaptive head, eq. 2; query rank layer, eq. 3 and 4), 3.3
(GIoU-aware loss, eq. 6; high-order cost, eq. 7). The authors' code maps the static part of the content queries by one
more linear layer, which the paper does not say; so does this. For DINO there is no public code.

Shape letters: B images, Q queries, R ranks (rows), D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from alignrank.plug.ranking import FitConfig


class RankConfig(FitConfig):
    """The four parts of Rank-DETR."""

    head: bool = False
    """Class scores get a learnt bias for each rank."""
    query_layer: bool = False
    """Queries are sorted by score between decoder layers, and told their rank."""
    loss: Literal["gcl", "vfl", "focal"] = "focal"
    """Class loss: `gcl` (GIoU-aware), `vfl` (varifocal) or `focal`."""

    @property
    def sorts(self) -> bool:
        """Queries are sorted between layers."""
        return self.head or self.query_layer


@dataclass(frozen=True, slots=True)
class Groups:
    """Queries one after another: `fixed` (denoising) ones, which have no rank, then groups that are sorted apart."""

    fixed: int
    sorted: tuple[int, ...]

    def order(self, scores: Tensor) -> Tensor:
        """scores [B,Q] -> indices [B,Q] of the queries by rank: each group's best first, the fixed ones in place."""
        with torch.no_grad():
            fixed = torch.arange(self.fixed, device=scores.device).expand(scores.shape[0], -1)
            parts, start = [fixed] if self.fixed else [], self.fixed
            for count in self.sorted:
                parts.append(scores[:, start : start + count].argsort(1, descending=True) + start)
                start += count
            return torch.cat(parts, 1)


def by_order(x: Tensor, order: Tensor) -> Tensor:
    """x [B,Q,K] with its queries in `order` [B,Q]."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


class RankBias(nn.Module):
    """S of eq. 2: what a rank adds to the class logits; 0 at first."""

    def __init__(self, rows: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, num_classes))

    def forward(self, logits: Tensor, fixed: int) -> Tensor:
        """logits [B,Q,C] -> the same; the first `fixed` queries have no rank."""
        return _after(fixed, logits, lambda x: x + self.weight[: x.shape[1]])

    def settle(self, rows: int) -> None:
        """In place, for inference: the first `rows` ranks alone."""
        self.weight = nn.Parameter(self.weight[:rows].detach().clone())


class RankFusion(nn.Module):
    """Eq. 3 and 4: content queries, sorted, joined with what is learnt for each rank.

    The layer over the two is one matrix product of each, so that the static one is computed once for all images, and
    never again after `settle`.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(rows, width))
        self.before = nn.Linear(width, width)
        self.after = nn.Linear(2 * width, width)
        self.folded: nn.Parameter | None = None

    def forward(self, x: Tensor, fixed: int) -> Tensor:
        """x [B,Q,D] -> [B,Q,D]; the first `fixed` queries stay as they are."""
        return _after(fixed, x, self._fused)

    def _fused(self, x: Tensor) -> Tensor:
        width, count = x.shape[-1], x.shape[1]
        static = self._static(count) if self.folded is None else self.folded[:count]
        return linear(x, self.after.weight[:, :width]) + static

    def _static(self, count: int) -> Tensor:
        return linear(
            self.before(self.embedding[:count]), self.after.weight[:, self.embedding.shape[1] :], self.after.bias
        )

    def settle(self, rows: int) -> None:
        """In place, for inference: the static part of the first `rows` ranks becomes a table."""
        width = self.embedding.shape[1]
        with torch.no_grad():
            self.folded = nn.Parameter(self._static(rows).clone(), requires_grad=False)
            after = nn.Linear(width, width, bias=False)
            after.weight = nn.Parameter(self.after.weight[:, :width].clone())
        self.after = after
        del self.before
        self.embedding = nn.Parameter(torch.empty(0, width), requires_grad=False)


def _after(fixed: int, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of all but the first `fixed` queries."""
    return torch.cat([x[:, :fixed], function(x[:, fixed:])], 1) if fixed else function(x)


class Ranks(nn.Module):
    """All rank parts of a decoder: a bias for each layer, a fusion for each but the first."""

    def __init__(self, config: RankConfig, *, layers: int, rows: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.biases = nn.ModuleList(RankBias(rows, num_classes) for _ in range(layers if config.head else 0))
        self.fusions = nn.ModuleList(RankFusion(rows, width) for _ in range(layers - 1 if config.query_layer else 0))

    def fused(self, layer: int, x: Tensor, groups: Groups) -> Tensor:
        """Sorted queries [B,Q,D] on their way into `layer`, 1 for the second."""
        return self.fusions[layer - 1](x, groups.fixed) if len(self.fusions) else x

    def biased(self, layer: int, logits: Tensor, groups: Groups) -> Tensor:
        """Class logits [B,Q,C] of `layer`."""
        return self.biases[layer](logits, groups.fixed) if len(self.biases) else logits

    def settle(self, rows: int) -> None:
        """In place, for inference with `rows` queries."""
        for part in [*self.biases, *self.fusions]:
            part.settle(rows)
