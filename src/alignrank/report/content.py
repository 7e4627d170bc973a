"""What the rank report shows, as plain records: the engine fills them, `report.html` draws them.

Shape letters: M boxes that lie on an object, R recalls, B bins, X points of a curve, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DetectorFigures:
    """One detector. metrics: the dictionary of `Metrics.to_dict`, undefined figures None.

    scores [M], ious [M]: the detections that lie on an object of their class with IoU >= .5, each with its best one.
    recalls [R] in 0..1; precision: {IoU: [R] mean over classes, NaN where undefined}.
    confidence [B], quality [B], counts [B]: reliability by score bin, NaN where a bin is empty; quality is the
    summed IoU of true detections over all detections of the bin.
    density_edges [B'+1], matched_density [B'], unmatched_density [B']: each density integrates to 1 over the edges,
    zeros where there is no detection of that kind.
    unmatched_iou [X], rising, unmatched_share [X] in 0..1: share of unmatched detections whose best IoU is at most
    that; empty where no detection is unmatched.
    errors: {kind: {"count": int, "ap_lost": float | None}} for classification, localization, both, duplicate,
    background, missed.
    operating: {"chosen": {...}, "best": {...} | None}, each {threshold, tp, fp, fn, precision, recall, f1}.
    """

    name: str
    metrics: Mapping[str, Any]
    scores: Array
    ious: Array
    recalls: Array
    precision: Mapping[float, Array]
    confidence: Array
    quality: Array
    counts: Array
    density_edges: Array
    matched_density: Array
    unmatched_density: Array
    unmatched_iou: Array
    unmatched_share: Array
    errors: Mapping[str, Mapping[str, Any]]
    operating: Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """Second detector minus first of one figure, with a 95 % interval of paired resampling; None where undefined."""

    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SizeGain:
    """A figure of two detectors, the difference, and that in parts of the first; None where undefined."""

    first: float | None
    second: float | None
    absolute: float | None
    relative: float | None


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box on a crop: xyxy in the crop's pixels, its role, and what its tag says.

    role: "object" (ground truth), "chosen" (best-scored candidate), "better" (the better box that lost),
    "first" or "second" (a box that only that detector has).
    """

    box: Box
    role: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Crop:
    """A piece of an image: JPEG bytes, its width and height in pixels, the boxes on it, and where it is from."""

    jpeg: bytes
    width: int
    height: int
    boxes: Sequence[DrawnBox]
    class_name: str
    image: str


@dataclass(frozen=True, slots=True)
class MisrankedObject:
    """An object whose best-scored candidate fits worse than another one, `iou_lost` = better_iou - chosen_iou > 0."""

    crop: Crop
    chosen_score: float
    chosen_iou: float
    better_score: float
    better_iou: float

    @property
    def iou_lost(self) -> float:
        return self.better_iou - self.chosen_iou


@dataclass(frozen=True, slots=True)
class OnlyOne:
    """A detection that only one of two detectors has. by: "first" or "second". correct: it finds an object."""

    crop: Crop
    by: str
    correct: bool
    score: float
    iou: float


@dataclass(frozen=True, slots=True)
class ReportContent:
    """The whole report. detectors: one or two. differences: {figure, as in `metrics` ("ap", "rank.spearman"): ...},
    class_differences: {category id: {"ap": Difference, "lrp": Difference}}; both empty for one detector.
    detection_errors: of two detectors {"dt", "dt2", "difference"} of {tp, fp, fn, precision, recall, f1} at one score,
    which the first two name as threshold; gains: {figure: SizeGain}; both empty for one detector.
    notes: sentences about options and limits (max_dets, classes chosen, how many objects are shown of how many).
    misranked: {detector's name: objects, worst first}; num_misranked: {name: how many there are in all}.
    only_one: detections of one detector alone; num_only_one: how many there are in all.
    """

    title: str
    num_images: int
    num_objects: int
    num_detections: Sequence[int]
    detectors: Sequence[DetectorFigures]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    class_differences: Mapping[Any, Mapping[str, Difference]] = field(default_factory=dict)
    detection_errors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gains: Mapping[str, SizeGain] = field(default_factory=dict)
    notes: Sequence[str] = ()
    misranked: Mapping[str, Sequence[MisrankedObject]] = field(default_factory=dict)
    num_misranked: Mapping[str, int] = field(default_factory=dict)
    only_one: Sequence[OnlyOne] = ()
    num_only_one: int = 0
