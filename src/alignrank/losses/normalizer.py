"""What a loss is divided by, when several processes train together."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(count: Tensor) -> Tensor:
    """The mean of a 0-dim `count` over all processes, without gradient; `count` itself in a single one.

    Gradients are averaged over processes, so a sum divided by this mean gives the gradient that one
    process would have had on the joined batch.
    """
    count = count.detach().float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count
