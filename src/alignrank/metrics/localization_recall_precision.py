"""Localization Recall Precision and its optimum, oLRP (Oksuz et al., ECCV 2018 and TPAMI 2021).

At a score threshold s, with TP, FP and FN counted by the matching at IoU `tau`:

    LRP(s) = (sum over TP of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP + FN),   0 best, 1 worst
    oLRP = min over s, at s = `threshold`; there
    Loc = mean of 1 - IoU over TP, FP = FP / (TP + FP), FN = FN / (TP + FN).

Every detection is a threshold, but LRP can only rise where a false detection is added, so the minimum lies at a
true one. Loc is not divided by 1 - tau, as the reference implementation has it.

Shape letters: K classes, A sizes, H detections that overlap an object, I images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.metrics.average_precision import count_objects
from alignrank.metrics.inputs import Array, Id
from alignrank.metrics.matching import SIZES, Matching
from alignrank.metrics.overlaps import pair_iou


@dataclass(frozen=True, slots=True)
class LocalizationRecallPrecision:
    """lrp, loc, fp, fn, threshold: [K,A]; sizes as `SIZES`.

    A class without ground truth of that size is NaN throughout. One with ground truth and no true detection has lrp
    1 and fn 1; loc, fp and threshold are NaN, and it stays out of their means.
    """

    lrp: Array
    loc: Array
    fp: Array
    fn: Array
    threshold: Array
    category_ids: tuple[Id, ...]

    def figures(self) -> dict[str, float | None]:
        """lrp, lrp_loc, lrp_fp, lrp_fn: means over classes; lrp_small, lrp_medium, lrp_large. None if undefined."""
        return {
            "lrp": _mean(self.lrp[:, 0]),
            "lrp_loc": _mean(self.loc[:, 0]),
            "lrp_fp": _mean(self.fp[:, 0]),
            "lrp_fn": _mean(self.fn[:, 0]),
            **{f"lrp_{size}": _mean(self.lrp[:, a]) for a, size in enumerate(SIZES) if 0 < a < self.lrp.shape[1]},
        }

    def per_class(self) -> dict[Id, dict[str, Any]]:
        """{category id: {lrp, lrp_loc, lrp_fp, lrp_fn, threshold}}: threshold is the confidence to set in practice."""
        columns = {
            "lrp": self.lrp,
            "lrp_loc": self.loc,
            "lrp_fp": self.fp,
            "lrp_fn": self.fn,
            "threshold": self.threshold,
        }
        return {
            category: {name: _mean(values[k, :1]) for name, values in columns.items()}
            for k, category in enumerate(self.category_ids)
        }


def localization_recall_precision(
    matching: Matching, *, tau: float = 0.5, weights: Array | None = None
) -> LocalizationRecallPrecision:
    """LRP from a matching that has the threshold `tau`, between 0 and 1. weights [I]: how often each image counts."""
    t = matching.threshold_index(tau)
    inputs = matching.inputs
    num_gt = count_objects(matching, weights)
    kinds = num_gt.shape[0]
    hit = matching.order[matching.position]
    label = inputs.dt_category[hit]
    here, seen = _weighted(matching, t, weights)

    h, a = np.nonzero(here)
    gt = matching.gt_index[h, t, a]
    miss = np.zeros((len(hit), num_gt.shape[1]))
    iou = pair_iou(inputs.dt_boxes[hit[h]], inputs.gt_boxes[gt]).clip(max=1)  # equal boxes may come out above it
    miss[h, a] = (1 - iou) * here[h, a]
    tp = _running_sum(here, label)
    fp, missed = seen - tp, num_gt[label] - tp
    loc = _running_sum(miss, label)
    with np.errstate(invalid="ignore", divide="ignore"):
        lrp = (loc / (1 - tau) + fp + missed) / (num_gt[label] + fp)
    lrp[here == 0] = np.inf

    best = {name: np.full(num_gt.shape, np.nan) for name in ("lrp", "loc", "fp", "fn", "threshold")}
    best["lrp"][num_gt > 0] = best["fn"][num_gt > 0] = 1.0
    ends = np.searchsorted(label, np.arange(kinds + 1))
    columns = np.arange(num_gt.shape[1])
    for k in np.flatnonzero(ends[1:] > ends[:-1]):
        at = ends[k] + np.argmin(lrp[ends[k] : ends[k + 1]], axis=0)
        found = np.isfinite(lrp[at, columns])
        at, a = at[found], columns[found]
        best["lrp"][k, a] = lrp[at, a]
        best["loc"][k, a] = loc[at, a] / tp[at, a]
        best["fp"][k, a] = fp[at, a] / (tp[at, a] + fp[at, a])
        best["fn"][k, a] = missed[at, a] / num_gt[k, a]
        best["threshold"][k, a] = matching.scores[hit[at]]
    return LocalizationRecallPrecision(**best, category_ids=inputs.category_ids)


def _weighted(matching: Matching, t: int, weights: Array | None) -> tuple[Array, Array]:
    """At threshold index t: here [H,A], the weight of a true detection, else 0; and seen [H,A], that of all counting
    detections of the class up to each of the H.
    """
    inputs, position = matching.inputs, matching.position
    label = inputs.dt_category[matching.order]
    weight = np.ones(len(label)) if weights is None else weights[inputs.dt_image[matching.order]]
    in_range = matching.in_range * weight[:, None]
    counts = np.concatenate([np.zeros((1, in_range.shape[1])), np.cumsum(in_range, axis=0)])
    first = np.searchsorted(label, np.arange(len(inputs.category_ids)))[label[position]]

    by_area, taken, ignored = matching.in_range[position], matching.gt_index[:, t] >= 0, matching.ignored[:, t]
    true = taken & ~ignored
    # What the H add to or take from the count of detections by area alone.
    change = (np.where(taken, true, by_area & ~ignored) - by_area.astype(float)) * weight[position, None]
    seen = counts[position + 1] - counts[first] + _running_sum(change, label[position])
    return true * weight[position, None], seen


def _running_sum(values: Array, label: Array) -> Array:
    """values [H,A] with rising labels [H] -> cumulative sums that begin anew with each label."""
    total = np.cumsum(values, axis=0)
    if not len(label):
        return total
    starts = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    before = np.concatenate([np.zeros((1, values.shape[1])), total[starts[1:] - 1]])
    result: Array = total - np.repeat(before, np.diff(np.r_[starts, len(label)]), axis=0)
    return result


def _mean(values: Array) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
