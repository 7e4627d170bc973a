"""Can a score be read as a quality? Reliability, LaECE (Oksuz et al., CVPR 2023), and what unmatched boxes look like.

Shape letters: I images, N detections, B 25 bins of equal width over 0..1, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.average_precision import count_objects
from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching
from alignrank.metrics.overlaps import Overlaps
from alignrank.metrics.ranking import Fits

BINS = 25
DENSITY_BINS = 50


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sums over the counted detections (not on crowd regions) by class and score bin: count, score, iou [K,B].

    iou: of true detections at IoU .5 with their object, 0 for false ones. has_objects [K].
    """

    count: Array
    score: Array
    iou: Array
    has_objects: Array

    @property
    def laece(self) -> float | None:
        """Mean over classes of sum_j n_j / n * |mean score_j - mean IoU_j|, false detections having IoU 0.

        In 0..1, 0 is best. mean IoU_j is precision times mean IoU of the true. Classes without ground truth or
        without detections stay out; None if none is left.
        """
        counted = self.has_objects & (self.count.sum(1) > 0)
        if not counted.any():
            return None
        gap = np.abs(self.score - self.iou)[counted].sum(1) / self.count[counted].sum(1)
        return float(gap.mean())

    def reliability(self) -> tuple[Array, Array, Array]:
        """Of all classes together: mean score [B], mean IoU [B], NaN where a bin is empty, and count [B]."""
        count = self.count.sum(0)
        safe = np.where(count > 0, count, np.nan)
        return self.score.sum(0) / safe, self.iou.sum(0) / safe, count


def calibration(matching: Matching, matched: Fits, *, weights: Array | None = None) -> Calibration:
    """weights [I]: how often each image counts. Scores beyond 0..1 fall into the outer bins."""
    inputs = matching.inputs
    kinds = len(inputs.category_ids)
    dt = counted_detections(matching)
    iou = np.zeros(len(inputs.dt_scores))
    iou[matched.dt] = matched.ious
    score = inputs.dt_scores[dt]
    weight = np.ones(len(dt)) if weights is None else weights[inputs.dt_image[dt]]
    cell = inputs.dt_category[dt] * BINS + np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
    sums = [np.bincount(cell, values * weight, minlength=kinds * BINS) for values in (np.ones(len(dt)), score, iou[dt])]
    objects = count_objects(matching, weights)[:, 0] > 0
    count, total, fit = (values.reshape(kinds, BINS) for values in sums)
    return Calibration(count, total, fit, objects)


def counted_detections(matching: Matching) -> Array:
    """Indices of the detections that are true or false at IoU .5: within the allowance and not on crowd regions."""
    hit_left_out = matching.ignored[:, matching.threshold_index(0.5), 0]
    kept = np.ones(len(matching.order), dtype=bool)
    kept[matching.position[hit_left_out]] = False
    result: Array = matching.order[kept]
    return result


def score_densities(matching: Matching, matched: Fits) -> tuple[Array, Array, Array]:
    """edges [51] over 0..1 (wider if scores are), densities [50] of matched and of unmatched scores; each integrates
    to 1, or is 0 throughout where there is none (Rank-DETR, figure 3)."""
    scores = matching.inputs.dt_scores
    edges = np.linspace(scores.min(initial=0.0), scores.max(initial=1.0), DENSITY_BINS + 1)
    densities = []
    for chosen in (matched.dt, _unmatched(matching, matched)):
        count = np.histogram(scores[chosen], edges)[0]
        densities.append(count / max(count.sum(), 1) / np.diff(edges))
    return edges, densities[0], densities[1]


def unmatched_overlap(overlaps: Overlaps, matching: Matching, matched: Fits) -> tuple[Array, Array]:
    """Grid of IoUs [101] over 0..1, and the share [101] of unmatched detections whose best IoU with an object of
    their class is at most that (Rank-DETR, figure 4); both empty where none is unmatched."""
    best = np.sort(overlaps.best_iou[_unmatched(matching, matched)])
    if not len(best):
        return np.zeros(0), np.zeros(0)
    grid = np.linspace(0, 1, 101)
    return grid, np.searchsorted(best, grid, side="right") / len(best)


def _unmatched(matching: Matching, matched: Fits) -> Array:
    false = np.zeros(len(matching.scores), dtype=bool)
    false[counted_detections(matching)] = True
    false[matched.dt] = False
    return np.flatnonzero(false)
