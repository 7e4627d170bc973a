"""COCO's twelve figures, computed by faster-coco-eval behind this one adapter.

Images, categories and annotations are renumbered from 1 on the way in: the library (as pycocotools)
takes an annotation id of 0 for "no match", which would cost AP.

Array axes: T 10 IoU thresholds .50:.05:.95, R 101 recalls 0:.01:1, K categories,
A sizes (all, small, medium, large), M detections allowed per image and category.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.metrics.inputs import Array, CocoInputs, Id

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SIZES = ("all", "small", "medium", "large")  # by area: below 32^2 px^2, below 96^2 px^2, above


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """precision [T,R,K,A,M] in 0..1 and recall [T,K,A,M] in 0..1, -1 where there is no ground truth.

    category_ids, names: K each, in the order of axis K. max_dets: the M = 3 allowances, the last is
    the one of AP.
    """

    precision: Array
    recall: Array
    category_ids: tuple[Id, ...]
    names: tuple[str, ...]
    max_dets: tuple[int, int, int]

    def figures(self) -> dict[str, float | None]:
        """The twelve figures by name, fractions; None where no ground truth defines one."""
        p, r = self.precision, self.recall
        return {
            "ap": mean_defined(p[:, :, :, 0, 2]),
            "ap50": mean_defined(p[0, :, :, 0, 2]),
            "ap75": mean_defined(p[5, :, :, 0, 2]),
            **{f"ap_{size}": mean_defined(p[:, :, :, a, 2]) for a, size in enumerate(SIZES) if a},
            "ar1": mean_defined(r[:, :, 0, 0]),
            "ar10": mean_defined(r[:, :, 0, 1]),
            "ar100": mean_defined(r[:, :, 0, 2]),
            **{f"ar_{size}": mean_defined(r[:, :, a, 2]) for a, size in enumerate(SIZES) if a},
        }

    def per_class(self) -> dict[Id, dict[str, Any]]:
        """{category id: {name, ap, ap50, ap75, ap_small, ap_medium, ap_large, ar100}}."""
        p, r = self.precision, self.recall
        return {
            category: {
                "name": name,
                "ap": mean_defined(p[:, :, k, 0, 2]),
                "ap50": mean_defined(p[0, :, k, 0, 2]),
                "ap75": mean_defined(p[5, :, k, 0, 2]),
                **{f"ap_{size}": mean_defined(p[:, :, k, a, 2]) for a, size in enumerate(SIZES) if a},
                "ar100": mean_defined(r[:, k, 0, 2]),
            }
            for k, (category, name) in enumerate(zip(self.category_ids, self.names, strict=True))
        }

    def curve(self, iou: float = 0.5) -> Array:
        """[K,R] interpolated precision at the recalls `RECALLS`, NaN for classes without ground truth.

        Raises ValueError if `iou` is not one of COCO's ten thresholds.
        """
        index = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))
        if not len(index):
            raise ValueError(f"iou is {iou}, expected one of {', '.join(f'{t:.2f}' for t in IOU_THRESHOLDS)}")
        curve = self.precision[index[0], :, :, 0, 2].T
        return np.where(curve < 0, np.nan, curve)


def average_precision(inputs: CocoInputs, *, max_dets: int = 100) -> AveragePrecision:
    """Evaluate validated inputs as COCO does, with at most `max_dets` detections per image and category.

    AP is that at `max_dets`. The allowances of AR are 1, 10 and `max_dets` (none above `max_dets`), so
    `ar100` is the recall at `max_dets`, also where that is not 100. Raises ValueError if max_dets < 1.
    """
    if max_dets < 1:
        raise ValueError(f"max_dets is {max_dets}, expected at least 1")
    allowed = (1, min(10, max_dets), max_dets)
    kinds = len(inputs.category_ids)
    precision = np.full((10, 101, kinds, 4, 3), -1.0)
    recall = np.full((10, kinds, 4, 3), -1.0)
    if kinds and len(inputs.image_ids):
        evaluated = _run_library(inputs, allowed)
        precision, recall = np.asarray(evaluated["precision"]), np.asarray(evaluated["recall"])
    return AveragePrecision(precision, recall, inputs.category_ids, inputs.names, allowed)


def mean_defined(values: Array) -> float | None:
    """Mean of the entries that are not -1 (COCO's mark for "no ground truth"), None if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _run_library(inputs: CocoInputs, max_dets: tuple[int, int, int]) -> dict[str, Any]:
    from faster_coco_eval.core import COCO, COCOeval_faster

    images = [{"id": i} for i in range(1, len(inputs.image_ids) + 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(inputs.names, start=1)]
    truth = _records(inputs.gt_image, inputs.gt_category, inputs.gt_boxes)
    for record, area, crowd in zip(truth, inputs.gt_area.tolist(), inputs.gt_crowd.tolist(), strict=True):
        record.update(area=area, iscrowd=int(crowd))
    found = _records(inputs.dt_image, inputs.dt_category, inputs.dt_boxes)
    areas = (inputs.dt_boxes[:, 2] * inputs.dt_boxes[:, 3]).tolist()
    for record, area, score in zip(found, areas, inputs.dt_scores.tolist(), strict=True):
        record.update(area=area, score=score, iscrowd=0)

    shared = {"images": images, "categories": categories}
    evaluation = COCOeval_faster(
        COCO({**shared, "annotations": truth}, print_function=_silent),
        COCO({**shared, "annotations": found}, print_function=_silent),
        iouType="bbox",
        print_function=_silent,
    )
    evaluation.params.maxDets = list(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    result: dict[str, Any] = evaluation.eval
    return result


def _records(image: Array, category: Array, boxes: Array) -> list[dict[str, Any]]:
    columns = zip((image + 1).tolist(), (category + 1).tolist(), boxes.tolist(), strict=True)
    return [
        {"id": i, "image_id": image_id, "category_id": category_id, "bbox": box}
        for i, (image_id, category_id, box) in enumerate(columns, start=1)
    ]


def _silent(*_: object) -> None:
    """The library prints through a function it is given."""
