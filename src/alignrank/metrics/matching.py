"""Greedy matching of detections to ground truth, as COCO does it, for a whole data set.

All pairs that overlap enough are found by array operations; only they pass through a Python loop.

Shape letters: T ground-truth boxes, N detections, P pairs of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array, CocoInputs


@dataclass(frozen=True, slots=True)
class Matching:
    """For each of the N detections of the inputs, in their order.

    gt_index [N] int64: the object matched, -1 for none; ignored [N] bool: counts neither as true nor
    as false (beyond the allowance, below the threshold, or on a crowd region).
    """

    gt_index: Array
    ignored: Array


def match(
    inputs: CocoInputs, *, iou: float = 0.5, same_class: bool = True, conf: float = -np.inf, max_dets: int | None = None
) -> Matching:
    """Detections in falling order of score each take the free object of highest IoU, at least `iou`.

    same_class: only objects of the detection's class are candidates. Detections scored below `conf`
    and those beyond the best `max_dets` of an image (and class, if same_class) are ignored. A detection
    that finds no object but lies on a crowd region (intersection over its own area >= iou) is ignored.
    Equal scores keep file order.
    """
    kinds = max(len(inputs.category_ids), 1)
    dt_group = inputs.dt_image * kinds + (inputs.dt_category if same_class else 0)
    gt_group = inputs.gt_image * kinds + (inputs.gt_category if same_class else 0)
    order = np.lexsort((-inputs.dt_scores, dt_group))  # stable: by group, then score
    ignored = inputs.dt_scores < conf
    if max_dets is not None:
        ignored[order[_rank_in_run(dt_group[order]) >= max_dets]] = True

    kept = order[~ignored[order]]
    dt, gt = _pairs(dt_group[kept], gt_group)
    overlap = pair_iou(inputs.dt_boxes[kept[dt]], inputs.gt_boxes[gt], inputs.gt_crowd[gt])
    # The library's own guard: a threshold of 1 still admits identical boxes.
    enough = overlap >= min(iou, 1 - 1e-10)
    dt, gt, overlap = dt[enough], gt[enough], overlap[enough]
    first = np.lexsort((-gt, -overlap, inputs.gt_crowd[gt], dt))
    gt_index, on_crowd = _take(kept, dt[first], gt[first], inputs)
    return Matching(gt_index, ignored | on_crowd)


def pair_iou(a: Array, b: Array, crowd: Array | None = None) -> Array:
    """a [P,4], b [P,4] left, top, width, height -> [P] IoU; over a's area alone where `crowd` [P] bool."""
    side = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    side = side.clip(min=0)
    intersection = side[:, 0] * side[:, 1]
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = area_a + area_b - intersection
    if crowd is not None:
        union = np.where(crowd, area_a, union)
    result: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return result


def _rank_in_run(values: Array) -> Array:
    """[N] sorted -> [N] int64: 0, 1, 2... within each run of equal values."""
    positions = np.arange(len(values))
    starts = np.r_[True, values[1:] != values[:-1]] if len(values) else np.zeros(0, dtype=bool)
    result: Array = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    return result


def _pairs(dt_group: Array, gt_group: Array) -> tuple[Array, Array]:
    """Indices [P], [P] of all detections and objects with equal group."""
    gt_order = np.argsort(gt_group, kind="stable")
    low = np.searchsorted(gt_group[gt_order], dt_group, "left")
    count = np.searchsorted(gt_group[gt_order], dt_group, "right") - low
    dt = np.repeat(np.arange(len(dt_group)), count)
    within = np.arange(len(dt)) - np.repeat(np.cumsum(count) - count, count)
    return dt, gt_order[np.repeat(low, count) + within]


def _take(kept: Array, dt: Array, gt: Array, inputs: CocoInputs) -> tuple[Array, Array]:
    """Walk over the pairs, best first: gt_index [N], on_crowd [N]."""
    gt_index = np.full(len(inputs.dt_scores), -1, dtype=np.int64)
    on_crowd = np.zeros(len(inputs.dt_scores), dtype=bool)
    free = [True] * len(inputs.gt_crowd)
    done = -1
    crowd = inputs.gt_crowd[gt].tolist()
    for d, g, is_crowd in zip(dt.tolist(), gt.tolist(), crowd, strict=True):
        if d == done or not free[g]:
            continue
        done = d
        if is_crowd:
            on_crowd[kept[d]] = True
        else:
            gt_index[kept[d]] = g
            free[g] = False
    return gt_index, on_crowd
