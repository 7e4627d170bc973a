"""COCO's twelve figures from one matching, without a loop over detections, thresholds or classes.

Array axes: T IoU thresholds, R 101 recalls 0:.01:1, K categories, A sizes (all, small, medium, large) or all only,
H detections that overlap an object, I images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.metrics.accumulation import Accumulation
from alignrank.metrics.inputs import Array, CocoInputs, Id
from alignrank.metrics.matching import SIZES, Matching, match
from alignrank.metrics.overlaps import find_overlaps

# As pycocotools computes them: to the last bit, because a curve may reach a recall exactly.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """precision [T,R,K,A] and recall [T,K,A] in 0..1 with `max_dets` detections; -1 without ground truth.

    fewer: recall [K,A] at each of the two smaller allowances, mean over T. category_ids, names: K each.
    """

    thresholds: tuple[float, ...]
    precision: Array
    recall: Array
    fewer: tuple[Array, Array]
    category_ids: tuple[Id, ...]
    names: tuple[str, ...]

    def figures(self) -> dict[str, float | None]:
        """The twelve figures by name, fractions; None where no ground truth defines one."""
        p, r = self.precision, self.recall
        return {
            "ap": mean_defined(p[:, :, :, 0]),
            "ap50": mean_defined(p[0, :, :, 0]),
            "ap75": mean_defined(p[5, :, :, 0]),
            **{f"ap_{size}": mean_defined(p[:, :, :, a]) for a, size in enumerate(SIZES) if a},
            "ar1": mean_defined(self.fewer[0][:, 0]),
            "ar10": mean_defined(self.fewer[1][:, 0]),
            "ar100": mean_defined(r[:, :, 0]),
            **{f"ar_{size}": mean_defined(r[:, :, a]) for a, size in enumerate(SIZES) if a},
        }

    def per_class(self) -> dict[Id, dict[str, Any]]:
        """{category id: {name, ap, ap50, ap75, ap_small, ap_medium, ap_large, ar100}}."""
        p, r = self.precision, self.recall
        return {
            category: {
                "name": name,
                "ap": mean_defined(p[:, :, k, 0]),
                "ap50": mean_defined(p[0, :, k, 0]),
                "ap75": mean_defined(p[5, :, k, 0]),
                **{f"ap_{size}": mean_defined(p[:, :, k, a]) for a, size in enumerate(SIZES) if a},
                "ar100": mean_defined(r[:, k, 0]),
            }
            for k, (category, name) in enumerate(zip(self.category_ids, self.names, strict=True))
        }

    def curve(self, iou: float = 0.5) -> Array:
        """[K,R] interpolated precision at the recalls `RECALLS`, NaN for classes without ground truth.

        Raises ValueError if `iou` is not one of the thresholds.
        """
        index = np.flatnonzero(np.isclose(self.thresholds, iou))
        if not len(index):
            raise ValueError(f"iou is {iou}, expected one of {', '.join(f'{t:.2f}' for t in self.thresholds)}")
        curve = self.precision[index[0], :, :, 0].T
        return np.where(curve < 0, np.nan, curve)


def average_precision(inputs: CocoInputs, *, max_dets: int = 100) -> AveragePrecision:
    """Evaluate validated inputs as COCO does, with at most `max_dets` detections per image and category.

    AP is that at `max_dets`. The allowances of AR are 1, 10 and `max_dets` (none above `max_dets`), so
    `ar100` is the recall at `max_dets`, also where that is not 100. Raises ValueError if max_dets < 1.
    """
    if max_dets < 1:
        raise ValueError(f"max_dets is {max_dets}, expected at least 1")
    matching = match(find_overlaps(inputs), thresholds=tuple(IOU_THRESHOLDS), sizes=True, max_dets=max_dets)
    return of_matching(matching)


def of_matching(
    matching: Matching, *, weights: Array | None = None, accumulation: Accumulation | None = None
) -> AveragePrecision:
    """The same from a matching. weights [I]: how often each image counts (once, unless resampled).

    accumulation: the matching's, for those who ask often.
    """
    inputs = matching.inputs
    curves = accumulation or Accumulation(matching)
    num_gt = count_objects(matching, weights)
    here, total, seen = curves.weighted(weights)
    objects = np.where(num_gt > 0, num_gt, np.nan)[:, None, :]
    recalled = curves.sums(here) / objects

    precision = np.zeros((len(matching.thresholds), len(RECALLS), *num_gt.shape))
    counted = np.flatnonzero(here)
    t, k, a, total, seen = (x[counted] for x in (curves.threshold, curves.label, curves.size, total, seen))
    # A true detection gives its precision to every recall up to its own; the curve is the best that a recall gets.
    reached = np.searchsorted(RECALLS, total / num_gt[k, a], side="right") - 1
    np.maximum.at(precision.reshape(-1), np.ravel_multi_index((t, reached, k, a), precision.shape), total / seen)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision[:, :, num_gt == 0] = -1

    fewer = [
        _undefined_as_minus_one((curves.sums(here, curves.rank < allowed) / objects).mean(1)) for allowed in (1, 10)
    ]
    return AveragePrecision(
        matching.thresholds,
        precision,
        _undefined_as_minus_one(recalled.transpose(1, 0, 2)),
        (fewer[0], fewer[1]),
        inputs.category_ids,
        inputs.names,
    )


def mean_ap(accumulation: Accumulation, *, weights: Array | None = None) -> float | None:
    """AP alone, over the matching's thresholds and all sizes."""
    found = of_matching(accumulation.matching, weights=weights, accumulation=accumulation)
    return mean_defined(found.precision[:, :, :, 0])


def mean_defined(values: Array) -> float | None:
    """Mean of the entries that are not -1 (COCO's mark for "no ground truth"), None if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def count_objects(matching: Matching, weights: Array | None = None) -> Array:
    """[K,A] objects to be found, by class and size."""
    inputs = matching.inputs
    weight = matching.gt_counts if weights is None else matching.gt_counts * weights[inputs.gt_image][:, None]
    kinds = len(inputs.category_ids)
    columns = [np.bincount(inputs.gt_category, weight[:, a], minlength=kinds) for a in range(weight.shape[1])]
    return np.stack(columns, axis=1)


def _undefined_as_minus_one(values: Array) -> Array:
    result: Array = np.where(np.isnan(values), -1.0, values)
    return result
