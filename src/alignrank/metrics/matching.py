"""COCO's greedy matching of a whole data set, at many IoU thresholds and object sizes in one pass.

Within an image and class, detections in falling order of score each take the free object of highest IoU. Groups do
not touch each other, so the k-th best detection of every group is handled at once: the loop runs over k and over the
few objects a detection overlaps, never over detections.

Shape letters: T IoU thresholds, A size ranges, M counted detections, H those that overlap an object enough for any
threshold, N all detections, G objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array, CocoInputs
from alignrank.metrics.overlaps import Overlaps, rank_in_run

SIZES = ("all", "small", "medium", "large")
# By area, px^2, both ends included as COCO has it.
SIZE_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
_ALMOST_ONE = 1 - 1e-10


@dataclass(frozen=True, slots=True)
class Matching:
    """order [M]: indices of the detections that count, by class, then falling score, then image, then file order
    (the order in which COCO accumulates). rank [M]: place within image and class, from 0.
    scores [N]: what was ranked by.

    position [H] rising indices into `order`; gt_index [H,T,A] the object taken, -1 for none; ignored [H,T,A]: counts
    neither as true nor as false (it took a crowd region or an object of another size, or was set aside since).
    A detection that is not among the H is false wherever its own area lies in the range: in_range [M,A].
    gt_counts [G,A]: whether the object is to be found at all (no crowd region, of that size).
    """

    inputs: CocoInputs
    thresholds: tuple[float, ...]
    scores: Array
    order: Array
    rank: Array
    in_range: Array
    position: Array
    gt_index: Array
    ignored: Array
    gt_counts: Array

    @property
    def true(self) -> Array:
        """[H,T,A] bool: took an object that counts."""
        result: Array = (self.gt_index >= 0) & ~self.ignored
        return result

    def threshold_index(self, iou: float) -> int:
        """Place of `iou` among the thresholds. Raises ValueError if it is not one of them."""
        index = np.flatnonzero(np.isclose(self.thresholds, iou, rtol=0, atol=1e-9))
        if not len(index):
            raise ValueError(f"iou is {iou}, expected one of {', '.join(f'{t:.2f}' for t in self.thresholds)}")
        return int(index[0])

    def at(self, iou: float) -> tuple[Array, Array]:
        """For each of the N detections at threshold `iou` and any size: the object taken [N], -1 for none, and
        whether it is left out [N] (beyond the allowance, below the score, or on a crowd region)."""
        t = self.threshold_index(iou)
        taken = np.full(len(self.scores), -1, dtype=np.int64)
        left_out = np.ones(len(self.scores), dtype=bool)
        left_out[self.order] = False
        hit = self.order[self.position]
        taken[hit] = np.where(self.ignored[:, t, 0], -1, self.gt_index[:, t, 0])
        left_out[hit] = self.ignored[:, t, 0]
        return taken, left_out


def match(
    overlaps: Overlaps,
    *,
    thresholds: Sequence[float] = (0.5,),
    sizes: bool = False,
    scores: Array | None = None,
    conf: float = -np.inf,
    max_dets: int | None = None,
    same_class: bool = True,
) -> Matching:
    """Match as COCO does: an object that counts is preferred to one that does not; of equal IoUs the later wins.

    sizes: for each of `SIZES`, else only for all. scores [N] replace the detections' own. Detections scored below
    `conf`, and those beyond the best `max_dets` of an image and class, are left out. Equal scores keep file order.
    same_class: as the overlaps were found. Raises ValueError if a threshold is below the overlaps' minimum.
    """
    if min(thresholds) < overlaps.minimum:
        raise ValueError(f"threshold {min(thresholds)} is below the overlaps' minimum {overlaps.minimum}")
    inputs = overlaps.inputs
    scores = inputs.dt_scores if scores is None else scores
    kinds = max(len(inputs.category_ids), 1)
    group = inputs.dt_image * kinds + (inputs.dt_category if same_class else 0)
    order = np.lexsort((inputs.dt_image, -scores, inputs.dt_category))
    # Within image and class `order` goes by score already, and one sort of whole numbers is quicker.
    by_group = order[np.argsort(group[order], kind="stable")] if same_class else np.lexsort((-scores, group))
    by_group = by_group[scores[by_group] >= conf]
    rank = np.full(len(scores), -1, dtype=np.int64)
    rank[by_group] = rank_in_run(group[by_group])
    if max_dets is not None:
        rank[rank >= max_dets] = -1
    order = order[rank[order] >= 0]

    ranges = np.array(SIZE_RANGES if sizes else SIZE_RANGES[:1])
    area = inputs.dt_boxes[order, 2] * inputs.dt_boxes[order, 3]
    gt_counts = _inside(inputs.gt_area, ranges) & ~inputs.gt_crowd[:, None]
    position, gt_index, ignored = _greedy(overlaps, order, rank, group, np.array(thresholds), gt_counts)
    return Matching(
        inputs, tuple(thresholds), scores, order, rank[order], _inside(area, ranges), position, gt_index, ignored,
        gt_counts,
    )  # fmt: skip


def _inside(area: Array, ranges: Array) -> Array:
    """[n] px^2, [A,2] -> [n,A] bool."""
    result: Array = (area[:, None] >= ranges[:, 0]) & (area[:, None] <= ranges[:, 1])
    return result


def _greedy(
    overlaps: Overlaps, order: Array, rank: Array, group: Array, thresholds: Array, gt_counts: Array
) -> tuple[Array, Array, Array]:
    """position [H], gt_index [H,T,A], ignored [H,T,A]."""
    place = np.full(len(rank), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    pairs = np.flatnonzero(place[overlaps.dt] >= 0)
    position, row = np.unique(place[overlaps.dt[pairs]], return_inverse=True)
    gt, iou = overlaps.gt[pairs], overlaps.iou[pairs]

    shape = (len(position), len(thresholds), gt_counts.shape[1])
    gt_index = np.full(shape, -1, dtype=np.int32)
    ignored = np.zeros(shape, dtype=bool)
    free = np.ones((len(gt_counts), *shape[1:]), dtype=bool)
    crowd = overlaps.inputs.gt_crowd
    enough = iou[:, None] >= np.minimum(thresholds, _ALMOST_ONE)
    for steps in _rounds(order[position], row, gt, iou, rank, group):
        for counting in (True, False):
            for step in steps:
                d, g = row[step], gt[step]
                counts = gt_counts[g]
                if not counting and counts.all():
                    continue
                wanted = counts if counting else ~counts
                takes = enough[step][:, :, None] & wanted[:, None, :] & (gt_index[d] < 0)
                takes &= free[g] if counting else free[g] | crowd[g][:, None, None]
                free[g] &= ~takes
                gt_index[d] = np.where(takes, g[:, None, None], gt_index[d])
                if not counting:
                    ignored[d] |= takes
    return position, gt_index, ignored


def _rounds(hit: Array, row: Array, gt: Array, iou: Array, rank: Array, group: Array) -> Iterator[list[Array]]:
    """For k = 0, 1...: the pairs of the k-th best overlapping detection of each group, as lists of pair indices;
    the j-th list holds the j-th best object of each. Within a list no detection and no object occurs twice."""
    by_group = np.lexsort((rank[hit], group[hit]))
    turn = np.empty(len(hit), dtype=np.int64)
    turn[by_group] = rank_in_run(group[hit][by_group])
    pairs = np.lexsort((-gt, -iou, row))
    choice = np.empty(len(pairs), dtype=np.int64)
    choice[pairs] = rank_in_run(row[pairs])
    turn = turn[row]
    sequence = np.lexsort((choice, turn))
    turn, choice = turn[sequence], choice[sequence]
    changed = np.flatnonzero((turn[1:] != turn[:-1]) | (choice[1:] != choice[:-1])) + 1
    steps: list[Array] = []
    for step, first in zip(np.split(sequence, changed), np.r_[0, changed].astype(int), strict=True):
        if len(step) and choice[first] == 0 and steps:
            yield steps
            steps = []
        steps.append(step)
    if steps:
        yield steps
