"""AP that a detector would have with perfect ranking, and with perfect suppression: what each of them costs it.

Shape letters: N detections, H those that overlap an object, T thresholds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching, match
from alignrank.metrics.overlaps import Overlaps, same_if_equal
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
