"""Confusion matrix and threshold curves: hand-worked, and PR against COCO's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignrank.metrics import CocoInputs, average_precision, confusion_matrix, operating_curves, read_inputs
from alignrank.metrics.operating_point import mean_over_classes


def inputs(objects: list[tuple[Any, ...]], found: list[tuple[Any, ...]], classes: int = 2) -> CocoInputs:
    """objects (image, category, xywh[, crowd]); found (image, category, xywh, score)."""
    gt = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, classes + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": box, "iscrowd": int(any(crowd))}
            for n, (i, k, box, *crowd) in enumerate(objects)
        ],
    }
    return read_inputs(gt, [{"image_id": i, "category_id": k, "bbox": b, "score": s} for i, k, b, s in found])


A, B, C, FAR = [0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [90, 90, 10, 10]


def test_confusion_matrix() -> None:
    """Objects: A, B of class 1, C of class 2, and a crowd region over FAR.

    Detections >= .25: A right (.9); A again as class 2 (.8), A is taken -> background row, column 2;
    C as class 1 (.7) -> row 2, column 1; one in the crowd (.6) -> left out; B scored .1 -> below, so B
    is missed: row 1, background column.
    """
    case = inputs(
        [(1, 1, A), (1, 1, B), (1, 2, C), (1, 1, [80, 80, 40, 40], True)],
        [(1, 2, A, 0.8), (1, 1, A, 0.9), (1, 1, C, 0.7), (1, 1, FAR, 0.6), (1, 1, B, 0.1)],
    )
    assert confusion_matrix(case).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert confusion_matrix(case, conf=0.05).tolist() == [[2, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert confusion_matrix(case, conf=0.95).tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]


def test_highest_overlap_wins_and_iou_is_settable() -> None:
    """A detection [4,0,10,10] overlaps A by 6/14 = .43 and [5,0,10,10] by 9/11 = .82: it takes the second."""
    case = inputs([(1, 1, A), (1, 2, [5, 0, 10, 10])], [(1, 2, [4, 0, 10, 10], 0.9)])
    assert confusion_matrix(case).tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert confusion_matrix(case, iou=0.85).tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]


def test_curves() -> None:
    """Class 1: objects A, B in image 1 and C in 2; class 2 has none. By score: .9 A hit, .6 miss, .3 B hit.

    Threshold <= .3: TP 2, FP 1, FN 1: precision 2/3, recall 2/3, F1 2*2 / (3 + 3) = 2/3.
    .3 < t <= .6: TP 1 of 2: F1 2 / (2 + 3) = .4. .6 < t <= .9: 2 / (1 + 3) = .5. Above: precision undefined, F1 0.
    Best: all t in 0 ... .3, the middle one .15. Precision at recall <= 1/3: 1; <= 2/3: 2/3; above: 0.
    """
    found = [(1, 1, B, 0.3), (2, 1, FAR, 0.6), (1, 1, A, 0.9), (1, 2, A, 0.5)]
    curves = operating_curves(inputs([(1, 1, A), (1, 1, B), (2, 1, C)], found), num_thresholds=101)
    at = [round(t * 100) for t in (0.2, 0.5, 0.8, 0.95)]
    np.testing.assert_allclose(curves.precision[0, at], [2 / 3, 0.5, 1, np.nan])
    np.testing.assert_allclose(curves.recall[0, at], [2 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(curves.f1[0, at], [2 / 3, 0.4, 0.5, 0])
    assert np.isnan(curves.f1[1]).all()
    np.testing.assert_array_equal(curves.mean_f1, curves.f1[0])
    assert curves.best_threshold == pytest.approx(0.15)
    np.testing.assert_allclose(curves.best_thresholds(), [0.15, np.nan])
    np.testing.assert_allclose(curves.precision_at_recall[0, [0, 33, 34, 66, 67, 100]], [1, 1, 2 / 3, 2 / 3, 0, 0])


def test_nothing_to_compare() -> None:
    empty = operating_curves(inputs([], []))
    assert empty.best_threshold is None
    assert np.isnan(empty.mean_f1).all()
    nothing_found = operating_curves(inputs([(1, 1, A)], []))
    assert nothing_found.mean_f1.max() == 0
    assert confusion_matrix(inputs([], [])).sum() == 0


def test_precision_at_recall_equals_coco() -> None:
    rng = np.random.default_rng(3)
    objects, found = [], []
    for _ in range(400):
        image, category = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        box = [*rng.uniform(0, 900, 2), *rng.uniform(5, 90, 2)]
        objects.append((image, category, box, rng.random() < 0.1))
        for _ in range(rng.integers(0, 3)):
            moved = (np.array(box) + rng.normal(0, 6, 4)).clip(min=1).tolist()
            found.append((image, category, moved, float(np.round(rng.random(), 2))))
    case = inputs(objects, found, classes=4)
    for iou, max_dets in ((0.5, 100), (0.75, 40)):
        coco = average_precision(case, max_dets=max_dets)
        curves = operating_curves(case, iou=iou, max_dets=max_dets)
        np.testing.assert_allclose(curves.precision_at_recall, coco.curve(iou), atol=1e-12)
        ap = mean_over_classes(curves.precision_at_recall).mean()
        assert ap == pytest.approx(coco.figures()["ap50" if iou == 0.5 else "ap75"], abs=1e-12)
