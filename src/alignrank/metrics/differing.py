"""Which boxes only one of two detectors has, among those above each one's LRP-optimal thresholds.

Shape letters: N, M detections of the two; D boxes that only the first has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.diagnosis import Diagnosis
from alignrank.metrics.inputs import Array
from alignrank.metrics.overlaps import pair_iou, pairs_of_group

SAME_BOX = 0.5


@dataclass(frozen=True, slots=True)
class OnlyOne:
    """dt [D] int64 detections, best score first; gt [D] the object found, -1 for a false box."""

    dt: Array
    gt: Array


def only_first(first: Diagnosis, second: Diagnosis) -> OnlyOne:
    """What `second` lacks: objects that only `first` finds (IoU .5), and its false boxes on which `second` has no box
    of that class (IoU .5). Boxes on crowd regions are neither."""
    taken, left_out = first.matching.at(0.5)
    dt = first.duplicates.dt
    other = second.duplicates.dt
    found_by_other = np.zeros(len(first.inputs.gt_image) + 1, dtype=bool)
    found_by_other[second.matching.at(0.5)[0][other]] = True
    found_by_other[-1] = False  # index -1: no object

    true = dt[(taken[dt] >= 0) & ~found_by_other[taken[dt]]]
    false = dt[(taken[dt] < 0) & ~left_out[dt]]
    kinds = max(len(first.inputs.category_ids), 1)
    group, other_group = (
        d.inputs.dt_image[rows] * kinds + d.inputs.dt_category[rows] for d, rows in ((first, false), (second, other))
    )
    shared = np.zeros(len(false), dtype=bool)
    for i, j in pairs_of_group(group, other_group):
        same = pair_iou(first.inputs.dt_boxes[false[i]], second.inputs.dt_boxes[other[j]]) >= SAME_BOX
        shared[i[same]] = True
    rows = np.r_[true, false[~shared]]
    rows = rows[np.lexsort((rows, -first.inputs.dt_scores[rows]))]
    return OnlyOne(rows, taken[rows])
