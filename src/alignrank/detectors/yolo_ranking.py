"""The terms of the base detector's loss that compare candidates: list alignment, pairwise ranking, consensus.

Source: Li & Liu 2025, YOLO-AlignRank, for the first two (`alignrank.losses.ranking`); the scopes and the consensus are
ours. A candidate is a point that the assignment gives to an object.

Shape letters: P candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignrank.assign import Assignment
from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions
from alignrank.detectors.yolo import LossConfig
from alignrank.losses.consensus_box import consensus_box_loss
from alignrank.losses.normalizer import shared_mean
from alignrank.losses.other_processes import Entries, entries_of_other_processes
from alignrank.losses.ranking import RankScope, RankTerms, chosen_rank_loss, rank_consistent_loss


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The assigned points: logits [P] of their object's class, quality [P] (IoU with it), boxes [P,4], the objects'
    boxes [P,4], numbers [P], unique in the batch, and classes [P]; the image [P] and the place there [P].
    """

    logits: Tensor
    quality: Tensor
    boxes: Tensor
    gt_boxes: Tensor
    gt_index: Tensor
    labels: Tensor
    images: Tensor
    points: Tensor


def _candidates(predictions: Predictions, assignment: Assignment) -> _Candidates:
    entries = assignment.foreground.nonzero(as_tuple=True)
    image, point = entries
    labels, boxes, gt_boxes = assignment.labels[entries], predictions.boxes[entries], assignment.boxes[entries]
    number = image * (int(assignment.gt_index.max()) + 1 if len(image) else 1) + assignment.gt_index[entries]
    quality = aligned_iou(boxes.detach(), gt_boxes)
    return _Candidates(predictions.logits[image, point, labels], quality, boxes, gt_boxes, number, labels, image, point)


def ranking_terms(
    predictions: Predictions, assignment: Assignment, loss: LossConfig, *, fade: float, alone: bool
) -> dict[str, Tensor]:
    """`align`, `rank` and `consensus` of a one-to-many output, those of them that have a weight, times `fade`."""
    parts: dict[str, Tensor] = {}
    # Fixed boxes have nothing to learn.
    to = "scores" if predictions.fixed_boxes and loss.consensus_to == "both" else loss.consensus_to
    consensus = 0.0 if predictions.fixed_boxes and to == "boxes" else loss.consensus
    if not (loss.align or loss.rank or consensus):
        return parts
    found = _candidates(predictions, assignment)
    if loss.align or loss.rank:
        terms = _rank_consistent(found, loss, loss.rank_scope if loss.rank else "object", alone=alone)
        weight = loss.cls * fade
        if loss.align:
            parts["align"] = weight * loss.align * shared_mean(terms.align, terms.num_align, alone=alone)
        if loss.rank:
            parts["rank"] = weight * loss.rank * shared_mean(terms.rank, terms.num_rank, alone=alone)
    if consensus:
        mean, count = consensus_box_loss(found.logits, found.boxes, found.gt_boxes, found.gt_index, tau=loss.tau, to=to)
        parts["consensus"] = loss.box * fade * consensus * shared_mean(mean, count, alone=alone)
    return parts


def one_to_one_terms(
    predictions: Predictions, chosen: Assignment, wider: Assignment, loss: LossConfig, *, fade: float, alone: bool
) -> dict[str, Tensor]:
    """`rank` of a one-to-one output, by which one candidate was `chosen` for each object, and the `wider` choice.

    No list alignment here and no consensus: they would raise the scores of duplicates. The pairs of an object only
    order them. Pairs across objects are between chosen candidates, the boxes that are left without suppression. Of
    scope "both", each kind of pairs has half of the weight.
    """
    terms = []
    if loss.rank_scope != "class":
        found = _candidates(predictions, wider)
        if loss.o2o_pairs == "all":
            within = _rank_consistent(found, loss, "object", alone=alone)
            rank, count = within.rank, within.num_rank
        else:
            taken = chosen.foreground[found.images, found.points]
            rank, count = chosen_rank_loss(found.logits, found.quality, found.gt_index, taken, mu=loss.mu)
        terms.append(shared_mean(rank, count, alone=alone))
    if loss.rank_scope != "object":
        between = _rank_consistent(_candidates(predictions, chosen), loss, "class", alone=alone)
        terms.append(shared_mean(between.rank, between.num_rank, alone=alone))
    return {"rank": loss.cls * fade * loss.rank * torch.stack(terms).mean()}


def _rank_consistent(found: _Candidates, loss: LossConfig, scope: RankScope, *, alone: bool) -> RankTerms:
    others = None
    if scope != "object":
        entries = Entries(found.logits, found.quality, found.gt_index, found.labels)
        others = entries_of_other_processes(entries, alone=alone)
    return rank_consistent_loss(
        found.logits,
        found.quality,
        found.gt_index,
        tau=loss.tau,
        beta=loss.beta,
        mu=loss.mu,
        delta=loss.delta,
        scope=scope,
        align_scope=loss.align_scope,
        across=loss.rank_across,
        labels=found.labels,
        images=found.images,
        others=others,
    )
