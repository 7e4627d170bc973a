"""Duplicates: boxes of one class on one another, above the score that a user of the detector would set.

Shape letters: N detections, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching
from alignrank.metrics.overlaps import edges, pair_iou, rank_in_run, touching

OVERLAPS = (0.7, 0.9)
SUPPRESSION_IOU = 0.65


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


def after_suppression(matching: Matching, chosen: Array, *, above: float = SUPPRESSION_IOU) -> Array:
    """Indices of the counted detections that greedy suppression within image and class leaves: from the best-scored
    on, each drops those below it that overlap it with an IoU above `above`.

    chosen [N] bool: only the images and classes of these are looked at; the others' detections all stay.
    """
    inputs = matching.inputs
    group = inputs.dt_image * max(len(inputs.category_ids), 1) + inputs.dt_category
    wanted = np.zeros(int(group.max(initial=0)) + 1, dtype=bool)
    wanted[group[chosen]] = True
    dt = matching.order[wanted[group[matching.order]]]
    dt = dt[np.argsort(group[dt], kind="stable")]
    boxes, place = inputs.dt_boxes[dt], rank_in_run(group[dt])
    sides = edges(boxes)
    better, worse = [], []
    rest, distance = np.flatnonzero(place >= 1), 1
    while len(rest):
        near = rest[touching(sides, sides, rest, rest - distance)]
        overlap = near[pair_iou(boxes[near], boxes[near - distance]) > above]
        worse.append(overlap)
        better.append(overlap - distance)
        distance += 1
        rest = rest[place[rest] >= distance]
    stays = np.ones(len(matching.scores), dtype=bool)
    if worse:
        i, j = np.concatenate(better), np.concatenate(worse)
        by_place = np.argsort(place[i], kind="stable")
        i, j = dt[i[by_place]], dt[j[by_place]]
        turns = np.flatnonzero(np.diff(place[np.concatenate(better)[by_place]])) + 1
        for a, b in zip(np.split(i, turns), np.split(j, turns), strict=True):
            stays[b[stays[a]]] = False
    result: Array = matching.order[stays[matching.order]]
    return result


def duplicates(matching: Matching, thresholds: Array) -> Duplicates:
    """Among the counted detections scored at least `thresholds` [K] of their class (NaN: none of that class)."""
    inputs = matching.inputs
    scores, label = inputs.dt_scores, inputs.dt_category
    dt = matching.order[scores[matching.order] >= thresholds[label[matching.order]]]
    group = inputs.dt_image * max(len(thresholds), 1) + label
    dt = dt[np.lexsort((dt, -scores[dt], group[dt]))]
    place = rank_in_run(group[dt])
    boxes, overlap = inputs.dt_boxes[dt], np.zeros(len(dt))
    sides = edges(boxes)
    rest, distance = np.flatnonzero(place >= 1), 1
    while len(rest):
        near = rest[touching(sides, sides, rest, rest - distance)]
        overlap[near] = np.maximum(overlap[near], pair_iou(boxes[near], boxes[near - distance]))
        distance += 1
        rest = rest[place[rest] >= distance]
    return Duplicates(dt, overlap)
