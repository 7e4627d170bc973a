"""What the other processes of a training know, for losses that compare entries over the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Entries:
    """logits [P], quality [P], gt_index [P] int64 (number of the object) and labels [P] int64 (its class)."""

    logits: Tensor
    quality: Tensor
    gt_index: Tensor
    labels: Tensor


def entries_of_other_processes(own: Entries, *, alone: bool = False) -> Entries | None:
    """The entries of all other processes, constants, their objects renumbered to be none of this process's.

    None with one process. Every process has to call it, also one without entries. alone: as in `shared_normalizer`.
    """
    if alone or not (dist.is_available() and dist.is_initialized()):
        return None
    # float64 holds float32 and the numbers of objects exactly, so that one exchange is enough.
    rows = torch.stack([x.detach().double() for x in (own.logits, own.quality, own.gt_index, own.labels)], 1)
    everyone = range(dist.get_world_size())
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in everyone]
    dist.all_gather(counts, count)
    sizes = [int(x) for x in counts]
    if max(sizes) == 0:
        return None
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows
    found = [torch.zeros_like(padded) for _ in everyone]
    dist.all_gather(found, padded)
    objects = torch.stack([x[:, 2].max() for x in found]).max() + 1
    for process, x in enumerate(found):
        x[:, 2] += objects * (process + 1)
    others = torch.cat([found[i][: sizes[i]] for i in everyone if i != dist.get_rank()])
    logits, quality, gt_index, labels = others.unbind(1)
    return Entries(logits.to(own.logits.dtype), quality.to(own.quality.dtype), gt_index.long(), labels.long())
