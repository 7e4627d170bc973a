"""The terms of the base detector's loss that compare candidates: list alignment, pairwise ranking, consensus.

Source: Li & Liu 2025, YOLO-AlignRank, for the first two (`alignrank.losses.ranking`); the scopes and the consensus are
ours. A candidate is a point that the assignment gives to an object.

Shape letters: P candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alignrank.assign import Assignment
from alignrank.boxes import aligned_iou
from alignrank.contracts import Predictions
from alignrank.detectors.yolo import LossConfig
from alignrank.losses.candidates import Candidates, one_to_one_rank, rank_terms
from alignrank.losses.consensus_box import consensus_box_loss
from alignrank.losses.normalizer import shared_mean
from alignrank.losses.ranking import RankScope


@dataclass(frozen=True, slots=True)
class _Assigned:
    """The assigned points as candidates, their boxes [P,4], their objects' [P,4], and their places in the image [P]."""

    candidates: Candidates
    boxes: Tensor
    gt_boxes: Tensor
    points: Tensor


def _assigned(predictions: Predictions, assignment: Assignment) -> _Assigned:
    entries = assignment.foreground.nonzero(as_tuple=True)
    image, point = entries
    labels, boxes, gt_boxes = assignment.labels[entries], predictions.boxes[entries], assignment.boxes[entries]
    number = image * (int(assignment.gt_index.max()) + 1 if len(image) else 1) + assignment.gt_index[entries]
    quality = aligned_iou(boxes.detach(), gt_boxes)
    logits = predictions.logits[image, point, labels]
    return _Assigned(Candidates(logits, quality, number, labels, image), boxes, gt_boxes, point)


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
    found = _assigned(predictions, assignment)
    entries = found.candidates
    if loss.align or loss.rank:
        scope: RankScope = loss.rank_scope if loss.rank else "object"
        terms = rank_terms(entries, loss, scope, align_scope=loss.align_scope, across=loss.rank_across, alone=alone)
        weight = loss.cls * fade
        if loss.align:
            parts["align"] = weight * loss.align * shared_mean(terms.align, terms.num_align, alone=alone)
        if loss.rank:
            parts["rank"] = weight * loss.rank * shared_mean(terms.rank, terms.num_rank, alone=alone)
    if consensus:
        mean, count = consensus_box_loss(
            entries.logits, found.boxes, found.gt_boxes, entries.gt_index, tau=loss.tau, to=to
        )
        parts["consensus"] = loss.box * fade * consensus * shared_mean(mean, count, alone=alone)
    return parts


def one_to_one_terms(
    predictions: Predictions, chosen: Assignment, wider: Assignment, loss: LossConfig, *, fade: float, alone: bool
) -> dict[str, Tensor]:
    """`rank` of a one-to-one output, by which one candidate was `chosen` for each object, and the `wider` choice.

    No list alignment here and no consensus: they would raise the scores of duplicates.
    """
    best, found = _assigned(predictions, chosen).candidates, _assigned(predictions, wider)
    taken = chosen.foreground[found.candidates.images, found.points]
    rank = one_to_one_rank(best, found.candidates, taken, loss, alone=alone)
    return {"rank": loss.cls * fade * loss.rank * rank}
