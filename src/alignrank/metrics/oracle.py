"""AP that a detector would have with perfect ranking, and with perfect suppression: what each of them costs it.

Shape letters: N detections, H those that overlap an object, T thresholds, C candidates, F objects that have some.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching, match
from alignrank.metrics.overlaps import Overlaps, rank_in_run, same_if_equal
from alignrank.metrics.ranking import CANDIDATE_IOU


def with_oracle_scores(overlaps: Overlaps, matching: Matching, *, max_dets: int) -> Matching:
    """The matching anew, each detection ranked by its best IoU with an object of its class (0 without one).

    VarifocalNet's oracle (Zhang et al. 2021, table 1): boxes and classes stay, only the order changes; of equal IoUs
    the detector's score decides. The allowance counts in the new order, so a good box beyond the best `max_dets`
    by score comes back.
    """
    inputs = overlaps.inputs
    keys = (inputs.dt_scores, same_if_equal(overlaps.best_iou))
    order = np.lexsort(keys)
    changed = np.zeros(len(order), dtype=np.int64)
    for key in keys:
        changed[1:] |= key[order[1:]] != key[order[:-1]]
    ranks = np.empty(len(order))
    ranks[order] = np.cumsum(changed)
    return match(overlaps, thresholds=matching.thresholds, scores=ranks, max_dets=max_dets)


def with_orders_put_right(overlaps: Overlaps, matching: Matching, *, max_dets: int) -> tuple[Matching, Matching]:
    """The matching anew with the order within each object's candidates right, and with that between objects as well.

    A place is one in the order of all detections of a class, over all images. Within: an object's candidates keep its
    places, the best IoU takes the first of them. Between: the objects' first boxes keep their places, the best IoU of
    a class takes the first; an object's other boxes stay, or follow its first box where that has fallen below them.
    False boxes keep their places throughout. Equal IoUs keep their order. The allowance counts in the new order.
    """
    inputs = overlaps.inputs
    by_place = np.lexsort((inputs.dt_image, -matching.scores, inputs.dt_category))
    place = np.empty(len(by_place), dtype=np.int64)
    place[by_place] = np.arange(len(by_place))

    own = np.flatnonzero(overlaps.best_iou >= CANDIDATE_IOU)
    gt, iou = overlaps.best_gt, -same_if_equal(overlaps.best_iou)
    slots = own[np.lexsort((place[own], gt[own]))]
    boxes = own[np.lexsort((place[own], iou[own], gt[own]))]  # [C] both, object by object
    within = place.copy()
    within[boxes] = place[slots]

    starts = rank_in_run(gt[boxes]) == 0
    first = boxes[starts]  # [F]
    between = within.copy()
    # Places rise with the class, so sorted ones are class by class like the boxes that take them.
    between[first[np.lexsort((within[first], iou[first], inputs.dt_category[first]))]] = np.sort(within[first])
    between[boxes] = np.maximum(between[boxes], between[first][np.cumsum(starts) - 1])
    # What shares its place with its object's first box comes after it.
    order = np.lexsort((within, between))
    after_both = np.empty(len(order), dtype=np.int64)
    after_both[order] = np.arange(len(order))
    right = [
        match(overlaps, thresholds=matching.thresholds, scores=-places.astype(float), max_dets=max_dets)
        for places in (within, after_both)
    ]
    return right[0], right[1]


def with_perfect_suppression(overlaps: Overlaps, matching: Matching) -> Matching:
    """The matching of all sizes without duplicates: of a found object, only the box that found it stays.

    At each threshold the object's other candidates are left out, whichever scored better. Scores stay.
    """
    # The last row stands for "no object", index -1.
    found = np.zeros((len(matching.gt_counts) + 1, len(matching.thresholds)), dtype=bool)
    h, t = np.nonzero(matching.true[:, :, 0])
    found[matching.gt_index[h, t, 0], t] = True
    hit = matching.order[matching.position]
    own: Array = overlaps.best_gt[hit]
    candidate = overlaps.best_iou[hit] >= CANDIDATE_IOU
    duplicate = candidate[:, None] & (matching.gt_index[:, :, 0] < 0) & found[own]
    return replace(
        matching,
        in_range=matching.in_range[:, :1],
        gt_index=matching.gt_index[:, :, :1],
        ignored=matching.ignored[:, :, :1] | duplicate[:, :, None],
        gt_counts=matching.gt_counts[:, :1],
    )
