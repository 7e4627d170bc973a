"""Do scores rank boxes by how well they fit? Correlation of score and IoU, order among an object's candidates.

A *candidate* of an object is a detection of its class whose best-IoU object of that class it is, with IoU >= .5;
crowd regions have none. A *true* detection is one that takes an object in COCO's matching at IoU .5. Formulas, ranges
and good values: docs/rank-report.md.

Shape letters: S detections with an object each, C candidates, G objects, N detections, I images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from alignrank.extras import optional
from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching
from alignrank.metrics.overlaps import Overlaps, pair_iou, same_if_equal

CANDIDATE_IOU = 0.5
GAP = 0.05


@dataclass(frozen=True, slots=True)
class Fits:
    """Detections dt [S] int64, each with an object gt [S]: scores [S], and ious [S] of the two."""

    dt: Array
    gt: Array
    scores: Array
    ious: Array

    def correlation(self, chosen: Array | None = None, repeats: Array | None = None) -> dict[str, float | None]:
        """spearman, kendall (tau-b) and pearson of scores and IoUs in -1..1, None where either is constant.

        chosen [S] bool: only these. repeats [S]: how often each counts.
        """
        scores, ious = self._sample(chosen, repeats)
        spearman = _spearman(scores, ious)
        if spearman is None:
            return {"spearman": None, "kendall": None, "pearson": None}
        stats = optional("report", "scipy.stats")
        return {
            "spearman": spearman,
            "kendall": float(stats.kendalltau(scores, ious).statistic),
            "pearson": _pearson(scores, ious),
        }

    def spearman(self, chosen: Array | None = None, repeats: Array | None = None) -> float | None:
        """That of `correlation` alone, several times as fast."""
        return _spearman(*self._sample(chosen, repeats))

    def _sample(self, chosen: Array | None, repeats: Array | None) -> tuple[Array, Array]:
        index = np.arange(len(self.dt)) if chosen is None else np.flatnonzero(chosen)
        if repeats is not None:
            index = np.repeat(index, repeats[index].astype(np.int64))
        return self.scores[index], self.ious[index]


def true_fits(matching: Matching) -> Fits:
    """The true detections of a matching that has the threshold .5, best of each class first."""
    t = matching.threshold_index(0.5)
    hits = np.flatnonzero(matching.true[:, t, 0])
    dt, gt = matching.order[matching.position[hits]], matching.gt_index[hits, t, 0].astype(np.int64)
    inputs = matching.inputs
    return Fits(dt, gt, inputs.dt_scores[dt], same_if_equal(pair_iou(inputs.dt_boxes[dt], inputs.gt_boxes[gt])))


def candidate_fits(overlaps: Overlaps, counted: Array) -> Fits:
    """The candidates among the detections `counted` (indices), each with its object."""
    dt = counted[overlaps.best_iou[counted] >= CANDIDATE_IOU]
    return Fits(dt, overlaps.best_gt[dt], overlaps.inputs.dt_scores[dt], same_if_equal(overlaps.best_iou[dt]))


def _spearman(scores: Array, ious: Array) -> float | None:
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(ious) == 0:
        return None
    stats = optional("report", "scipy.stats")  # imported where it is needed: more than a second
    return _pearson(stats.rankdata(scores), stats.rankdata(ious))


def _pearson(a: Array, b: Array) -> float | None:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / size, -1, 1)) if size > 0 else None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of each of the G objects: num [G] candidates; pairs [G] of them with an IoU gap, wrong [G] those whose scores
    are in the wrong order (ties half). best_iou [G] of all candidates, chosen_iou [G] of the best-scored one (mean of
    those that tie); missed [G]: 1 where no best-scored candidate has the best IoU, 1/2 where one of several has.
    best_dt, chosen_dt [G] int64: such detections, -1 without candidates.
    """

    num: Array
    pairs: Array
    wrong: Array
    best_iou: Array
    chosen_iou: Array
    missed: Array
    best_dt: Array
    chosen_dt: Array

    def figures(self, weights: Array | None = None) -> dict[str, float | None]:
        """misranked, best_box_missed, iou_lost, fractions over the objects; weights [G]: how often each counts.

        None where no object has a candidate; misranked is 0 where no pair has the gap.
        """
        weight = (self.num > 0) * (1.0 if weights is None else weights)
        objects, pairs = float(weight.sum()), float(weight @ self.pairs)
        if not objects:
            return {"misranked": None, "best_box_missed": None, "iou_lost": None}
        return {
            "misranked": float(weight @ self.wrong) / pairs if pairs else 0.0,
            "best_box_missed": float(weight @ self.missed) / objects,
            "iou_lost": float(weight @ (self.best_iou - self.chosen_iou)) / objects,
        }

    def suppressed(self, kept: Candidates) -> float | None:
        """Share of objects with a candidate here, before NMS, whose best box was dropped and a worse one `kept`."""
        objects = self.num > 0
        worse = objects & (kept.num > 0) & (kept.best_iou < self.best_iou - 1e-9)
        return float(worse.sum() / objects.sum()) if objects.any() else None


def candidates(overlaps: Overlaps, counted: Array, *, gap: float = GAP) -> Candidates:
    """The candidates among the detections `counted` (indices). gap: pairs count whose IoUs differ by more, 0..1."""
    inputs = overlaps.inputs
    counted = counted[np.lexsort((counted, overlaps.best_gt[counted]))]
    fits = candidate_fits(overlaps, counted)
    dt, gt, iou, score = fits.dt, fits.gt, fits.ious, fits.scores
    num_objects = len(inputs.gt_image)

    num = np.bincount(gt, minlength=num_objects)
    pairs, wrong = np.zeros(num_objects), np.zeros(num_objects)
    for i, j in _pairs_in_runs(num[gt], gt):
        apart = np.abs(iou[i] - iou[j]) > gap
        i, j = i[apart], j[apart]
        agreement = np.sign(score[i] - score[j]) * np.sign(iou[i] - iou[j])
        pairs += np.bincount(gt[i], minlength=num_objects)
        wrong += np.bincount(gt[i], (1 - agreement) / 2, minlength=num_objects)

    top_score, top_iou = np.full(num_objects, -np.inf), np.zeros(num_objects)
    np.maximum.at(top_score, gt, score)
    np.maximum.at(top_iou, gt, iou)
    chosen, best = score == top_score[gt], iou == top_iou[gt]
    num_chosen = np.bincount(gt[chosen], minlength=num_objects)
    num_both = np.bincount(gt[chosen & best], minlength=num_objects)
    chosen_iou = np.bincount(gt[chosen], iou[chosen], minlength=num_objects)
    missed = np.where(num_both == num_chosen, 0.0, np.where(num_both == 0, 1.0, 0.5))
    return Candidates(
        num=num,
        pairs=pairs,
        wrong=wrong,
        best_iou=top_iou,
        chosen_iou=chosen_iou / np.maximum(num_chosen, 1),
        missed=missed,
        best_dt=_first_of_each(dt, gt, best, num_objects),
        chosen_dt=_first_of_each(dt, gt, chosen, num_objects),
    )


def _pairs_in_runs(length: Array, run: Array) -> Iterator[tuple[Array, Array]]:
    """All pairs (i, j) of equal `run` [C] (sorted; `length` [C] of each one's run), by distance j - i."""
    place = np.arange(len(run)) - np.searchsorted(run, run)
    i = np.arange(len(run))
    distance = 1
    while len(i := i[place[i] + distance < length[i]]):
        yield i, i + distance
        distance += 1


def _first_of_each(dt: Array, gt: Array, chosen: Array, num_objects: int) -> Array:
    result = np.full(num_objects, -1, dtype=np.int64)
    result[gt[chosen][::-1]] = dt[chosen][::-1]
    return result
