"""The terms that compare candidates, over all processes, for the base detector and for other libraries' detectors.

A candidate is a prediction that is taken for one of an object: a point that the assignment gives to it, a query whose
box overlaps it.

Shape letters: P candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from alignrank.losses.normalizer import shared_mean
from alignrank.losses.other_processes import Entries, entries_of_other_processes
from alignrank.losses.ranking import Across, AlignScope, RankScope, RankTerms, chosen_rank_loss, rank_consistent_loss


class Constants(Protocol):
    """Those of `rank_consistent_loss`, as sections of recipes have them."""

    @property
    def tau(self) -> float: ...
    @property
    def beta(self) -> float: ...
    @property
    def mu(self) -> float: ...
    @property
    def delta(self) -> float: ...


class OneToOneOptions(Constants, Protocol):
    """What `one_to_one_rank` compares."""

    @property
    def rank_scope(self) -> RankScope: ...
    @property
    def o2o_pairs(self) -> Literal["chosen", "all"]: ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """logits [P] of their object's class, quality [P] (IoU with it), numbers of the objects [P], unique in the batch,
    their classes [P], and the images [P].
    """

    logits: Tensor
    quality: Tensor
    gt_index: Tensor
    labels: Tensor
    images: Tensor


def faded(progress: float, start: float, end: float) -> float:
    """Weight of ranking terms: 0 before `start` of the training, 1 from `end` on, a line between."""
    return float(progress >= end) if end <= start else min(max((progress - start) / (end - start), 0.0), 1.0)


def rank_terms(
    found: Candidates,
    constants: Constants,
    scope: RankScope,
    *,
    align_scope: AlignScope = "object",
    across: Across = "all",
    alone: bool = False,
) -> RankTerms:
    """`rank_consistent_loss` of candidates; pairs beyond an object are with those of all processes, unless `alone`."""
    others = None
    if scope != "object":
        entries = Entries(found.logits, found.quality, found.gt_index, found.labels)
        others = entries_of_other_processes(entries, alone=alone)
    return rank_consistent_loss(
        found.logits,
        found.quality,
        found.gt_index,
        tau=constants.tau,
        beta=constants.beta,
        mu=constants.mu,
        delta=constants.delta,
        scope=scope,
        align_scope=align_scope,
        across=across,
        labels=found.labels,
        images=found.images,
        others=others,
    )


def one_to_one_rank(
    chosen: Candidates, wider: Candidates, taken: Tensor, options: OneToOneOptions, *, alone: bool = False
) -> Tensor:
    """Pairwise ranking of a one-to-one output, in which one candidate was `chosen` for each object, 0-dim.

    wider: the chosen ones and others of the objects; taken [P] bool, which of these are chosen. The pairs of an object
    only order the chosen one above its others (`o2o_pairs` "all": all of them), and pairs across objects are between
    chosen candidates, the boxes that are left without suppression. Of scope "both", each kind of pairs has half of the
    weight. A mean over the objects of all processes, unless `alone`.
    """
    terms = []
    if options.rank_scope != "class":
        if options.o2o_pairs == "all":
            within = rank_terms(wider, options, "object", alone=alone)
            rank, count = within.rank, within.num_rank
        else:
            rank, count = chosen_rank_loss(wider.logits, wider.quality, wider.gt_index, taken, mu=options.mu)
        terms.append(shared_mean(rank, count, alone=alone))
    if options.rank_scope != "object":
        between = rank_terms(chosen, options, "class", alone=alone)
        terms.append(shared_mean(between.rank, between.num_rank, alone=alone))
    return torch.stack(terms).mean()
