"""Which detections overlap which objects: found once by array operations, used by every measure.

Shape letters: T ground-truth boxes, N detections, P pairs of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from alignrank.metrics.inputs import Array, CocoInputs

# Pairs looked at in one go: about 150 MB of temporary arrays.
_CHUNK = 1 << 20
# pycocotools' own guard: a threshold of 1 still admits boxes that are equal but for rounding.
_ALMOST_ONE = 1 - 1e-10


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of one image (and class, if same_class) whose overlap reaches `minimum`, and each detection's best object.

    dt, gt [P] int64 indices into the inputs; iou [P]: IoU, or intersection over the detection's area where the
    object is a crowd region. best_iou [N], best_gt [N] int64: over all objects but crowd regions, also below
    `minimum`; 0 and -1 where none is touched; of equal IoUs the earliest object.
    """

    inputs: CocoInputs
    minimum: float
    dt: Array
    gt: Array
    iou: Array
    best_iou: Array
    best_gt: Array


def find_overlaps(inputs: CocoInputs, *, minimum: float = 0.5, same_class: bool = True) -> Overlaps:
    """The overlaps of all detections, with objects of their own class or of any class. minimum: above 0."""
    kinds = max(len(inputs.category_ids), 1)
    dt_group = inputs.dt_image * kinds + (inputs.dt_category if same_class else 0)
    gt_group = inputs.gt_image * kinds + (inputs.gt_category if same_class else 0)
    best = _Best(len(inputs.dt_scores))
    dt_edges, gt_edges = edges(inputs.dt_boxes), edges(inputs.gt_boxes)
    kept = []
    for dt, gt in pairs_of_group(dt_group, gt_group):
        near = touching(dt_edges, gt_edges, dt, gt)
        dt, gt = dt[near], gt[near]
        iou = pair_iou(inputs.dt_boxes[dt], inputs.gt_boxes[gt], inputs.gt_crowd[gt])
        best.add(dt, gt, np.where(inputs.gt_crowd[gt], 0.0, iou))
        enough = iou >= min(minimum, _ALMOST_ONE)
        kept.append((dt[enough], gt[enough], iou[enough]))
    if not kept:
        kept = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    dts, gts, ious = zip(*kept, strict=True)
    return Overlaps(inputs, minimum, np.concatenate(dts), np.concatenate(gts), np.concatenate(ious), best.iou, best.gt)


def best_of_other_class(inputs: CocoInputs) -> tuple[Array, Array]:
    """best_iou [N], best_gt [N] as in `Overlaps`, among objects of other classes than the detection's."""
    best = _Best(len(inputs.dt_scores))
    if len(inputs.category_ids) < 2:
        return best.iou, best.gt
    dt_edges, gt_edges = edges(inputs.dt_boxes), edges(inputs.gt_boxes)
    objects = np.flatnonzero(~inputs.gt_crowd)
    for dt, place in pairs_of_group(inputs.dt_image, inputs.gt_image[objects]):
        gt = objects[place]
        other = inputs.gt_category[gt] != inputs.dt_category[dt]
        dt, gt = dt[other], gt[other]
        near = touching(dt_edges, gt_edges, dt, gt)
        dt, gt = dt[near], gt[near]
        best.add(dt, gt, pair_iou(inputs.dt_boxes[dt], inputs.gt_boxes[gt]))
    return best.iou, best.gt


def edges(boxes: Array) -> Array:
    """[N,4] left, top, width, height -> [4,N] left, right, top, bottom: rows, for fast reading."""
    left, top, width, height = boxes.T
    return np.stack([left, left + width, top, top + height])


def touching(a: Array, b: Array, i: Array, j: Array) -> Array:
    """Places of the pairs (i, j) [P], rising, that have area in common; a, b: `edges`. Few of an image's pairs have,
    and this is quicker than their IoU.
    """
    near = np.flatnonzero(np.minimum(a[1, i], b[1, j]) > np.maximum(a[0, i], b[0, j]))
    i, j = i[near], j[near]
    result: Array = near[np.minimum(a[3, i], b[3, j]) > np.maximum(a[2, i], b[2, j])]
    return result


def pair_iou(a: Array, b: Array, crowd: Array | None = None) -> Array:
    """a [P,4], b [P,4] left, top, width, height -> [P] IoU; over a's area alone where `crowd` [P] bool."""
    # Column by column: an array [P,2] takes several times as long as two [P].
    width, height = (
        np.minimum(a[:, i] + a[:, i + 2], b[:, i] + b[:, i + 2]) - np.maximum(a[:, i], b[:, i]) for i in (0, 1)
    )
    intersection = width.clip(min=0) * height.clip(min=0)
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    union = area_a + area_b - intersection
    if crowd is not None:
        union = np.where(crowd, area_a, union)
    result: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return result


def same_if_equal(iou: Array) -> Array:
    """IoUs as they are compared with each other: x + w - x is not w in floating point, and equal boxes would differ
    in the last digit. What is compared with a threshold is not rounded, as in COCO."""
    result: Array = np.round(iou, 12)
    return result


def rank_in_run(values: Array) -> Array:
    """[N] sorted -> [N] int64: 0, 1, 2... within each run of equal values."""
    positions = np.arange(len(values))
    starts = np.r_[True, values[1:] != values[:-1]] if len(values) else np.zeros(0, dtype=bool)
    result: Array = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    return result


class _Best:
    """The best object of each detection so far; a detection's pairs come in one piece, objects in file order."""

    def __init__(self, num: int) -> None:
        self.iou = np.zeros(num)
        self.gt = np.full(num, -1, dtype=np.int64)

    def add(self, dt: Array, gt: Array, iou: Array) -> None:
        if not len(dt):
            return
        starts = np.flatnonzero(np.r_[True, dt[1:] != dt[:-1]])
        top = np.maximum.reduceat(iou, starts)
        winner = (iou == np.repeat(top, np.diff(np.r_[starts, len(dt)]))) & (iou > 0)
        # Backwards, so that of several winners the first is written last.
        self.gt[dt[winner][::-1]] = gt[winner][::-1]
        self.iou[dt[starts]] = top


def pairs_of_group(dt_group: Array, gt_group: Array) -> Iterator[tuple[Array, Array]]:
    """Indices of all detections and objects of equal group, by detection, then object, in pieces of bounded size."""
    gt_order = np.argsort(gt_group, kind="stable")
    sorted_group = gt_group[gt_order]
    low = np.searchsorted(sorted_group, dt_group, "left")
    count = np.searchsorted(sorted_group, dt_group, "right") - low
    some = np.flatnonzero(count)
    ends = np.cumsum(count[some])
    start = 0
    while start < len(some):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _CHUNK, "right")), start + 1)
        piece = some[start:stop]
        dt = np.repeat(piece, count[piece])
        within = np.arange(len(dt)) - np.repeat(np.cumsum(count[piece]) - count[piece], count[piece])
        yield dt, gt_order[np.repeat(low[piece], count[piece]) + within]
        start = stop
