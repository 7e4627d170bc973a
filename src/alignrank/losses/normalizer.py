"""What a loss is divided by, when several processes train together."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from alignrank.boxes import at_least_float32


def shared_normalizer(count: Tensor, *, alone: bool = False) -> Tensor:
    """max(sum of `count` over all processes, 1) / number of processes, without gradient; of each of several counts.

    Gradients are averaged over processes, so a sum divided by this gives the gradient that one process
    would have had on the joined batch. alone: this process computes by itself (evaluation on one rank);
    asking the others would wait for ever.
    """
    count = at_least_float32(count.detach())
    if alone or not (dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1)
    total = count.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


def shared_mean(mean: Tensor, count: int, *, alone: bool = False) -> Tensor:
    """A mean over `count` objects of this process -> its share of the mean over the objects of all processes."""
    return mean * count / shared_normalizer(mean.new_tensor(float(count)), alone=alone)
