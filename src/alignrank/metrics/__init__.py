"""Figures of merit from COCO results, of any detector: from arrays, never from models."""

from __future__ import annotations

from alignrank.metrics.average_precision import AveragePrecision, average_precision
from alignrank.metrics.comparison import Comparison, Interval, compare
from alignrank.metrics.diagnosis import Diagnosis
from alignrank.metrics.inputs import CocoInputs, Source, read_inputs
from alignrank.metrics.operating_point import OperatingCurves, confusion_matrix, operating_curves
from alignrank.metrics.summary import Metrics

__all__ = [
    "AveragePrecision",
    "CocoInputs",
    "Comparison",
    "Diagnosis",
    "Interval",
    "Metrics",
    "OperatingCurves",
    "average_precision",
    "compare",
    "confusion_matrix",
    "evaluate",
    "operating_curves",
    "read_inputs",
]


def evaluate(gt: Source | CocoInputs, dt: Source | None = None, *, max_dets: int = 100) -> Metrics:
    """Evaluate COCO detections `dt` against ground truth `gt`.

    gt, dt: path of a COCO JSON or the parsed object; or `gt` alone, as returned by `read_inputs`.
    max_dets: detections that count per image and category (100 as COCO; more where images hold more).
    Raises InputError for input on which the figures are not defined.
    """
    return Diagnosis(_inputs(gt, dt), max_dets=max_dets).metrics


def _inputs(gt: Source | CocoInputs, dt: Source | None) -> CocoInputs:
    if isinstance(gt, CocoInputs):
        if dt is not None:
            raise ValueError("dt must be left out where gt is the result of read_inputs")
        return gt
    if dt is None:
        raise ValueError("dt is missing: give the detections' path or list")
    return read_inputs(gt, dt)
