"""A loss of the box on which the candidates of an object agree. Ours; the distribution is RCQ's (`losses.ranking`).

Shape letters: P entries, G objects, K entries of the largest set.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignrank.boxes import at_least_float32
from alignrank.losses.localization import ciou_loss
from alignrank.losses.sets import sets_of

ConsensusTo = Literal["scores", "boxes", "both"]


def consensus_box_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: Tensor,
    gt_index: Tensor,
    *,
    tau: float = 1.0,
    to: ConsensusTo = "both",
) -> tuple[Tensor, int]:
    """1 - CIoU of an object and the mean of its entries' boxes, weighted by their share of the scores.

    logits [P], of the object's class; boxes [P,4] and targets [P,4] (the object's box), xyxy in one unit; gt_index [P]
    int64, unique over the batch, -1 for entries of no object. For the set S of an object: sum_i P_i b_i with P =
    softmax(log sigmoid(z) / tau), the distribution that list alignment makes proportional to the quality. The gradient
    goes `to` the scores (which candidates count), to the boxes, or to both; targets are constants.

    Mean over objects with an entry (0 with a gradient path without any), and their count. A set of one counts: its mean
    is its box, which gives no gradient to its score. Raises ValueError for another `to`.
    """
    if to not in ("scores", "boxes", "both"):
        raise ValueError(f"to must be 'scores', 'boxes' or 'both', got {to!r}")
    logits, boxes = at_least_float32(logits), at_least_float32(boxes)
    if to == "scores":
        boxes = boxes.detach()
    elif to == "boxes":
        logits = logits.detach()
    member = gt_index >= 0
    if not member.any():
        return (logits.sum() + boxes.sum()) * 0, 0
    sets = sets_of(gt_index[member])
    strength = logsigmoid(sets.padded(logits[member])) / tau  # [G,K]
    share = torch.where(sets.present(), strength, torch.finfo(strength.dtype).min).softmax(1)
    mean = (share[..., None] * sets.padded(boxes[member])).sum(1)  # [G,4]
    target = sets.padded(targets[member])[:, 0]  # that of an object's entries is one and the same
    return ciou_loss(mean, target).mean(), len(sets.counts)
