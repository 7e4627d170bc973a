"""What a loss is divided by, when several processes train together."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from alignrank.boxes import at_least_float32


def mean_over_ranks(count: Tensor, *, alone: bool = False) -> Tensor:
    """The mean of a 0-dim `count` over all processes, without gradient; `count` itself in a single one.

    Gradients are averaged over processes, so a sum divided by this mean gives the gradient that one
    process would have had on the joined batch. alone: this process computes by itself (evaluation on one
    rank); asking the others would wait for ever.
    """
    count = at_least_float32(count.detach())
    if not alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count
