"""From a diagnosis to what the HTML report shows: curves, and crops of the boxes worth looking at."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alignrank.data.decode import decode
from alignrank.errors import InputError
from alignrank.metrics import Comparison, Diagnosis, Interval
from alignrank.metrics.average_precision import RECALLS
from alignrank.metrics.calibration import score_densities, unmatched_overlap
from alignrank.metrics.differing import only_first
from alignrank.metrics.operating_point import mean_over_classes
from alignrank.metrics.overlaps import pair_iou
from alignrank.report.content import (
    Box,
    Crop,
    DetectorFigures,
    Difference,
    DrawnBox,
    MisrankedObject,
    OnlyOne,
    ReportContent,
    SizeGain,
)
from alignrank.terminal.progress import steps, warn

Array = np.ndarray[Any, Any]
# Crops in a report, about 12 kB each: what keeps it below 15 MB whatever the data set.
NUM_MISRANKED, NUM_ONLY_ONE = 160, 40
CROP_SIDE = 220  # px, of the longer side
CURVES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


def report_content(
    diagnoses: dict[str, Diagnosis],
    *,
    title: str,
    images: Sequence[Path | None] | None = None,
    comparison: Comparison | None = None,
    notes: Sequence[str] = (),
) -> ReportContent:
    """What the report of one or two diagnoses (by name) shows.

    images: a path for each image of the inputs, None where there is none; without it no boxes are shown. Images that
    cannot be read are left out with a counted warning.
    """
    first = next(iter(diagnoses.values()))
    inputs = first.inputs
    allowed = f"Detections that count per image and class: {first.max_dets}."
    content: dict[str, Any] = {
        "title": title,
        "num_images": len(inputs.image_ids),
        "num_objects": int((~inputs.gt_crowd).sum()),
        "num_detections": [len(d.inputs.dt_scores) for d in diagnoses.values()],
        "detectors": [detector_figures(name, d) for name, d in diagnoses.items()],
        "notes": [allowed, *notes],
    }
    if comparison is not None:
        content["differences"] = {name: _difference(value) for name, value in comparison.figures.items()}
        content["class_differences"] = {
            category: {name: _difference(value) for name, value in row.items()}
            for category, row in comparison.per_class.items()
        }
        content["detection_errors"] = comparison.detection_errors.to_dict()
        content["gains"] = {
            name: SizeGain(gain.first, gain.second, gain.absolute, gain.relative)
            for name, gain in comparison.gains.items()
        }
    if images is not None:
        content |= _boxes(diagnoses, images)
    return ReportContent(**content)


def detector_figures(name: str, diagnosis: Diagnosis) -> DetectorFigures:
    """Figures and curves of one diagnosis."""
    confidence, quality, counts = diagnosis.calibration.reliability()
    edges, matched, unmatched = score_densities(diagnosis.matching, diagnosis.matched)
    grid, share = unmatched_overlap(diagnosis.overlaps, diagnosis.matching, diagnosis.matched)
    metrics = diagnosis.metrics.to_dict()
    return DetectorFigures(
        name=name,
        metrics=metrics,
        scores=diagnosis.fits.scores,
        ious=diagnosis.fits.ious,
        recalls=RECALLS,
        precision={iou: mean_over_classes(diagnosis.average_precision.curve(iou)) for iou in CURVES},
        confidence=confidence,
        quality=quality,
        counts=counts,
        density_edges=edges,
        matched_density=matched,
        unmatched_density=unmatched,
        unmatched_iou=grid,
        unmatched_share=share,
        errors=metrics["errors"],
        operating=metrics["operating_points"],
    )


def _difference(interval: Interval) -> Difference:
    return Difference(interval.difference, interval.low, interval.high)


@dataclass(slots=True)
class _Wanted:
    """A crop to make: the image, the boxes on it (xyxy, role, tag), and what becomes of it."""

    image: int
    category: int
    boxes: list[tuple[Array, str, str]]
    finish: Callable[[Crop], Any]
    made: Any = field(default=None)


def _boxes(diagnoses: dict[str, Diagnosis], images: Sequence[Path | None]) -> dict[str, Any]:
    """The crops of both browsers, each image decoded once."""
    misranked = {name: _misranked(d) for name, d in diagnoses.items()}
    cap = NUM_MISRANKED // len(diagnoses)
    wanted: dict[str, list[_Wanted]] = {
        name: _wanted_misranked(d, misranked[name][:cap]) for name, d in diagnoses.items()
    }
    only: list[_Wanted] = []
    num_only = 0
    if len(diagnoses) == 2:
        first, second = diagnoses.values()
        for role, one, other in (("first", first, second), ("second", second, first)):
            found = only_first(one, other)
            num_only += len(found.dt)
            for correct in (True, False):
                rows = np.flatnonzero((found.gt >= 0) == correct)[: NUM_ONLY_ONE // 2]
                only += [_wanted_only(one, role, int(found.dt[i]), int(found.gt[i])) for i in rows]
    _make([*(crop for crops in wanted.values() for crop in crops), *only], diagnoses, images)
    return {
        "misranked": {name: [w.made for w in crops if w.made is not None] for name, crops in wanted.items()},
        "num_misranked": {name: len(objects) for name, objects in misranked.items()},
        "only_one": [w.made for w in only if w.made is not None],
        "num_only_one": num_only,
    }


def _misranked(diagnosis: Diagnosis) -> Array:
    """Objects whose best-scored candidate fits worse than another, most IoU lost first."""
    of = diagnosis.candidates
    inputs, overlaps = diagnosis.inputs, diagnosis.overlaps
    chosen_iou = np.where(of.num > 0, overlaps.best_iou[of.chosen_dt], 0.0) if len(overlaps.best_iou) else of.best_iou
    lost = np.where((of.missed > 0) & ~inputs.gt_crowd, of.best_iou - chosen_iou, 0.0)
    order = np.lexsort((np.arange(len(lost)), -lost))
    result: Array = order[lost[order] > 0]
    return result


def _wanted_misranked(diagnosis: Diagnosis, objects: Array) -> list[_Wanted]:
    inputs, of, iou = diagnosis.inputs, diagnosis.candidates, diagnosis.overlaps.best_iou
    wanted = []
    for g in objects.tolist():
        chosen, best = int(of.chosen_dt[g]), int(of.best_dt[g])
        figures = (
            float(inputs.dt_scores[chosen]), float(iou[chosen]), float(inputs.dt_scores[best]), float(iou[best]),
        )  # fmt: skip
        boxes = [
            (_xyxy(inputs.gt_boxes[g]), "object", ""),
            (_xyxy(inputs.dt_boxes[chosen]), "chosen", f"{figures[0]:.2f}"),
            (_xyxy(inputs.dt_boxes[best]), "better", f"{figures[2]:.2f}"),
        ]

        def finish(crop: Crop, figures: tuple[float, float, float, float] = figures) -> MisrankedObject:
            return MisrankedObject(crop, *figures)

        wanted.append(_Wanted(int(inputs.gt_image[g]), int(inputs.gt_category[g]), boxes, finish))
    return wanted


def _wanted_only(diagnosis: Diagnosis, role: str, dt: int, gt: int) -> _Wanted:
    inputs = diagnosis.inputs
    score = float(inputs.dt_scores[dt])
    boxes = [(_xyxy(inputs.dt_boxes[dt]), role, f"{score:.2f}")]
    iou = float(diagnosis.overlaps.best_iou[dt])
    if gt >= 0:
        boxes.insert(0, (_xyxy(inputs.gt_boxes[gt]), "object", ""))
        iou = float(pair_iou(inputs.dt_boxes[[dt]], inputs.gt_boxes[[gt]])[0])

    def finish(crop: Crop) -> OnlyOne:
        return OnlyOne(crop, role, gt >= 0, score, iou)

    return _Wanted(int(inputs.dt_image[dt]), int(inputs.dt_category[dt]), boxes, finish)


def _make(wanted: list[_Wanted], diagnoses: dict[str, Diagnosis], images: Sequence[Path | None]) -> None:
    inputs = next(iter(diagnoses.values())).inputs
    by_image: dict[int, list[_Wanted]] = {}
    for item in wanted:
        by_image.setdefault(item.image, []).append(item)
    failed: list[str] = []
    with steps("cutting out pictures", len(by_image)) as advance:
        for image, items in by_image.items():
            advance()
            path = images[image]
            if path is None:
                failed.append(f"image {inputs.image_ids[image]} has no file in the folder")
                continue
            try:
                pixels = decode(path)
            except InputError as error:
                failed.append(str(error))
                continue
            for item in items:
                item.made = item.finish(_crop(pixels, item, inputs.names[item.category], path.name))
    if failed:
        warn(f"skipped pictures of {len(failed)} image{'s' if len(failed) > 1 else ''}, the first: {failed[0]}")


def _crop(pixels: Array, item: _Wanted, class_name: str, image: str) -> Crop:
    """The boxes' surroundings, at most CROP_SIDE px long, as JPEG."""
    height, width = pixels.shape[:2]
    corners = np.stack([box for box, _, _ in item.boxes])
    x0, y0 = corners[:, :2].min(0)
    x1, y1 = corners[:, 2:].max(0)
    margin = max(0.25 * max(x1 - x0, y1 - y0), 12)
    left, right = (int(np.clip(v, 0, width)) for v in (np.floor(x0 - margin), np.ceil(x1 + margin)))
    top, bottom = (int(np.clip(v, 0, height)) for v in (np.floor(y0 - margin), np.ceil(y1 + margin)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    left, top = min(left, width - 1), min(top, height - 1)
    piece = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    scale = CROP_SIDE / max(piece.size)
    size = (max(round(piece.width * scale), 1), max(round(piece.height * scale), 1))
    stream = io.BytesIO()
    piece.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=80)
    boxes = []
    for box, role, text in item.boxes:
        placed: Box = tuple(((box - (left, top, left, top)) * scale).tolist())
        boxes.append(DrawnBox(placed, role, text))
    return Crop(stream.getvalue(), size[0], size[1], boxes, class_name, image)


def _xyxy(box: Array) -> Array:
    """[4] left, top, width, height -> corners."""
    return np.concatenate([box[:2], box[:2] + box[2:]])
