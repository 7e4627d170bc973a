"""Duplicates: boxes of one class on one another, above the score that a user of the detector would set.

Shape letters: N detections, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching
from alignrank.metrics.overlaps import pair_iou, rank_in_run

OVERLAPS = (0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """dt: the detections above their class's threshold, int64 indices; of each, the highest IoU with a better-scored
    one of its class and image: overlap, 0 for none."""

    dt: Array
    overlap: Array

    def rate(self, above: float, weights: Array | None = None) -> float | None:
        """Share of them, 0..1, that overlap a better-scored one by more than `above`; None if there is none.

        weights [N]: how often each detection counts.
        """
        weight = np.ones(len(self.dt)) if weights is None else weights[self.dt]
        total = float(weight.sum())
        return float(weight @ (self.overlap > above)) / total if total else None


def duplicates(matching: Matching, thresholds: Array) -> Duplicates:
    """Among the counted detections scored at least `thresholds` [K] of their class (NaN: none of that class)."""
    inputs = matching.inputs
    scores, label = inputs.dt_scores, inputs.dt_category
    dt = matching.order[scores[matching.order] >= thresholds[label[matching.order]]]
    group = inputs.dt_image * max(len(thresholds), 1) + label
    dt = dt[np.lexsort((dt, -scores[dt], group[dt]))]
    place = rank_in_run(group[dt])
    overlap = np.zeros(len(dt))
    distance = 1
    while len(i := np.flatnonzero(place >= distance)):
        iou = pair_iou(inputs.dt_boxes[dt[i]], inputs.dt_boxes[dt[i - distance]])
        overlap[i] = np.maximum(overlap[i], iou)
        distance += 1
    return Duplicates(dt, overlap)
