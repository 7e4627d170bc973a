"""What a detector does at a chosen confidence: confusion matrix, precision, recall and F1.

Shape letters: K categories, N detections, X confidence thresholds, R recalls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array, CocoInputs
from alignrank.metrics.matching import Matching, match
from alignrank.metrics.overlaps import find_overlaps


def confusion_matrix(inputs: CocoInputs, *, conf: float = 0.25, iou: float = 0.5) -> Array:
    """[K+1,K+1] int64: row the true class, column the predicted one, the last of each is background.

    Matching knows no class: in falling order of score, each detection scored at least `conf` takes the
    free object of highest IoU (at least `iou`) of its image; then the two classes are compared. So a
    well-placed box of a wrong class counts once, off the diagonal, and not as a miss and a false box.
    The background row holds detections without an object, the background column objects without a
    detection. Crowd regions, and detections on them, are left out.
    """
    kinds = len(inputs.category_ids)
    overlaps = find_overlaps(inputs, minimum=iou, same_class=False)
    taken, left_out = match(overlaps, thresholds=(iou,), same_class=False, conf=conf).at(iou)
    counted = ~left_out
    gt_index = taken[counted]
    hit = gt_index >= 0
    missed = ~inputs.gt_crowd
    missed[gt_index[hit]] = False

    true_class = np.full(len(gt_index), kinds)
    true_class[hit] = inputs.gt_category[gt_index[hit]]
    matrix = np.zeros((kinds + 1, kinds + 1), dtype=np.int64)
    np.add.at(matrix, (true_class, inputs.dt_category[counted]), 1)
    np.add.at(matrix, (inputs.gt_category[missed], np.full(int(missed.sum()), kinds)), 1)
    return matrix


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Counts over all classes at one score threshold (a detection counts if its score is at least that), and the
    precision, recall and F1 of the counts in 0..1, None where they are 0 / 0 (FINE, table 5)."""

    threshold: float
    tp: int
    fp: int
    fn: int

    def to_dict(self) -> dict[str, float | int | None]:
        """threshold, tp, fp, fn, precision, recall, f1."""
        ratios = {
            "precision": (self.tp, self.tp + self.fp),
            "recall": (self.tp, self.tp + self.fn),
            "f1": (2 * self.tp, 2 * self.tp + self.fp + self.fn),
        }
        shown = {name: above / below if below else None for name, (above, below) in ratios.items()}
        return {"threshold": self.threshold, "tp": self.tp, "fp": self.fp, "fn": self.fn, **shown}


def operating_points(matching: Matching, *, conf: float = 0.25) -> tuple[OperatingPoint, OperatingPoint | None]:
    """The point at `conf`, and that of highest F1 over all thresholds: the highest such score; None without a hit.

    From a matching that has the threshold .5. Leaving out low scores does not change what the others match.
    """
    inputs = matching.inputs
    taken, left_out = matching.at(0.5)
    counted = np.flatnonzero(~left_out)
    counted = counted[np.argsort(-inputs.dt_scores[counted], kind="stable")]
    scores = inputs.dt_scores[counted]
    tp = np.r_[0, np.cumsum(taken[counted] >= 0)]
    objects = int((~inputs.gt_crowd).sum())

    def point(threshold: float, count: int) -> OperatingPoint:
        return OperatingPoint(threshold, int(tp[count]), count - int(tp[count]), objects - int(tp[count]))

    chosen = point(conf, int(np.searchsorted(-scores, -conf, side="right")))
    if not tp[-1]:
        return chosen, None
    last = np.r_[np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1] + 1  # a threshold takes all that tie
    best = int(last[np.argmax(2 * tp[last] / (last + objects))])
    return chosen, point(float(scores[best - 1]), best)


@dataclass(frozen=True, slots=True)
class OperatingCurves:
    """Curves by class at one IoU; rows of classes without ground truth are NaN and stay out of means.

    thresholds [X], rising: a detection counts if its score is at least that.
    precision [K,X] (NaN where nothing is detected), recall [K,X], f1 [K,X] = 2 TP / (2 TP + FP + FN).
    recalls [R] = 0, .01 ... 1; precision_at_recall [K,R]: the best precision at that recall or a higher
    one (COCO's interpolation: its mean over R is AP at that IoU).
    """

    thresholds: Array
    precision: Array
    recall: Array
    f1: Array
    recalls: Array
    precision_at_recall: Array

    @property
    def mean_f1(self) -> Array:
        """[X] mean over the classes with ground truth; NaN if there is none."""
        return mean_over_classes(self.f1)

    @property
    def best_threshold(self) -> float | None:
        """The confidence of highest mean F1, the middle one where several are equal; None without ground truth."""
        mean = self.mean_f1
        if np.isnan(mean).all():
            return None
        best = np.flatnonzero(mean >= np.nanmax(mean) - 1e-12)
        return float(self.thresholds[best[len(best) // 2]])

    def best_thresholds(self) -> Array:
        """[K] the same for each class, NaN without ground truth."""
        best = np.full(len(self.f1), np.nan)
        for k, row in enumerate(self.f1):
            if not np.isnan(row).all():
                ties = np.flatnonzero(row >= row.max() - 1e-12)
                best[k] = self.thresholds[ties[len(ties) // 2]]
        return best


def operating_curves(
    inputs: CocoInputs, *, iou: float = 0.5, max_dets: int = 100, num_thresholds: int = 1001
) -> OperatingCurves:
    """Match within each class as COCO does at `iou`, then sweep the confidence threshold.

    Thresholds are spaced evenly over 0..1 (wider if scores lie outside): .001 apart by default.
    """
    taken, left_out = match(find_overlaps(inputs, minimum=iou), thresholds=(iou,), max_dets=max_dets).at(iou)
    counted = np.flatnonzero(~left_out)
    # Ties across images go by ascending image id, as COCO concatenates them.
    counted = counted[np.lexsort((inputs.dt_image[counted], -inputs.dt_scores[counted]))]
    scores, labels = inputs.dt_scores[counted], inputs.dt_category[counted]
    hits = taken[counted] >= 0
    kinds = len(inputs.category_ids)
    num_gt = np.bincount(inputs.gt_category[~inputs.gt_crowd], minlength=kinds)

    low, high = min(0.0, scores.min(initial=0.0)), max(1.0, scores.max(initial=1.0))
    thresholds = np.linspace(low, high, num_thresholds)
    recalls = np.linspace(0, 1, 101)
    precision, recall, f1 = (np.full((kinds, num_thresholds), np.nan) for _ in range(3))
    at_recall = np.full((kinds, len(recalls)), np.nan)
    for k in np.flatnonzero(num_gt):
        mine = labels == k
        true = np.cumsum(hits[mine])
        above = np.searchsorted(-scores[mine], -thresholds, side="right")
        true_above = np.r_[0, true][above]
        np.divide(true_above, above, out=precision[k], where=above > 0)
        recall[k] = true_above / num_gt[k]
        f1[k] = 2 * true_above / (above + num_gt[k])
        at_recall[k] = _interpolated(true, num_gt[k], recalls)
    return OperatingCurves(thresholds, precision, recall, f1, recalls, at_recall)


def mean_over_classes(curves: Array) -> Array:
    """[K,X] -> [X]: mean of the entries that are not NaN, NaN where all are."""
    defined = ~np.isnan(curves)
    count = defined.sum(0)
    total = np.where(defined, curves, 0).sum(0)
    result: Array = np.divide(total, count, out=np.full(curves.shape[1], np.nan), where=count > 0)
    return result


def _interpolated(true: Array, num_gt: int, recalls: Array) -> Array:
    """Running hits [n], best score first -> [R] best precision at each recall or above, 0 if never reached."""
    precision = true / np.arange(1, len(true) + 1)
    envelope = np.r_[np.maximum.accumulate(precision[::-1])[::-1], 0.0]
    result: Array = envelope[np.searchsorted(true / num_gt, recalls, side="left")]
    return result
