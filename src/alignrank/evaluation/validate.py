"""The loop of every evaluation: detections of every image of a split, then the metrics of those arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from alignrank.boxes import xyxy_to_xywh
from alignrank.contracts import Batch, Criterion, Frame, Postprocess, Predictions, Selection, Targets, Thresholds
from alignrank.data.samples import Array, Split
from alignrank.detectors import predictions_of
from alignrank.evaluation.options import ValOptions
from alignrank.metrics import CocoInputs, Diagnosis, Metrics, read_inputs

# COCO's practice: low enough that recall is complete, high enough that NMS stays cheap.
THRESHOLDS = Thresholds(conf=0.001, iou=0.7, max_dets=300)


@dataclass(slots=True)
class Validation:
    """What was measured; detections as COCO results; mean loss parts (empty without a criterion)."""

    diagnosis: Diagnosis
    results: list[dict[str, Any]]
    losses: dict[str, float]

    @property
    def metrics(self) -> Metrics:
        """All figures."""
        return self.diagnosis.metrics


@torch.inference_mode()
def validate(
    model: Any,
    postprocess: Postprocess,
    batches: Iterable[Batch],
    split: Split,
    options: ValOptions,
    *,
    criterion: Criterion | None = None,
    correct: Callable[[Predictions, Sequence[Targets]], Predictions] | None = None,
) -> Validation:
    """Run `model` (as it is: fold or not, EMA or not) over `batches` of `split`, on its device, in evaluation mode.

    Thresholds that are not given are the detector's own, else THRESHOLDS. criterion: for losses. correct: what to do
    with predictions before the selection (see `oracle`).
    """
    limits = limits_of(postprocess, options)
    was_training = model.training
    model.eval()
    results: list[dict[str, Any]] = []
    kept = Gathered()
    sums: dict[str, float] = defaultdict(float)
    count = 0
    for batch in batches:
        predictions = predictions_of(model, batch.network_input(), batch)
        if criterion is not None:
            terms = criterion(predictions, batch.targets, alone=True)
            for name, value in terms.parts.items():
                sums[name] += float(value) * len(batch.frames)
        count += len(batch.frames)
        if correct is not None:
            predictions = correct(predictions, batch.targets)
        selections = postprocess(predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets)
        for selection, frame in zip(selections, batch.frames, strict=True):
            boxes = xyxy_to_xywh(frame.to_original(selection.boxes)).tolist()
            for box, score, label in zip(boxes, selection.scores.tolist(), selection.labels.tolist(), strict=True):
                category = split.category_ids[label]
                results.append({"image_id": frame.image_id, "category_id": category, "bbox": box, "score": score})
        if options.before_nms:
            candidates = postprocess.candidates(predictions, conf=limits.conf)
            kept.add(candidates, batch.frames)
    model.train(was_training)
    inputs = read_inputs(split.to_coco(), results)
    before_nms = kept.inputs(inputs, split) if options.before_nms else None
    diagnosis = Diagnosis(inputs, max_dets=options.coco_max_dets, before_nms=before_nms)
    return Validation(diagnosis, results, {name: total / max(count, 1) for name, total in sums.items()})


def limits_of(postprocess: Postprocess, options: ValOptions) -> Thresholds:
    """What a selection keeps: thresholds that are not given are the detector's own, else THRESHOLDS; and as many
    detections as count in COCO's figures.
    """
    limits = options.thresholds.over(postprocess.thresholds or THRESHOLDS)
    return replace(limits, max_dets=max(limits.max_dets, options.coco_max_dets))


class Gathered:
    """Detections of every image as flat arrays: dictionaries as in COCO results would take ten times the memory."""

    def __init__(self) -> None:
        self.image_ids: list[int] = []
        self.boxes: list[Array] = []
        self.scores: list[Array] = []
        self.labels: list[Array] = []

    def add(self, selections: Sequence[Selection], frames: Sequence[Frame]) -> None:
        """Of a batch."""
        for selection, frame in zip(selections, frames, strict=True):
            self.image_ids.append(frame.image_id)
            self.boxes.append(xyxy_to_xywh(frame.to_original(selection.boxes)).cpu().numpy())
            self.scores.append(selection.scores.cpu().numpy())
            self.labels.append(selection.labels.cpu().numpy())

    def inputs(self, truth: CocoInputs, split: Split) -> CocoInputs:
        """The ground truth of `truth` with these detections."""
        image_index = {image_id: i for i, image_id in enumerate(truth.image_ids)}
        category_index = {category: k for k, category in enumerate(truth.category_ids)}
        kind_of_label = np.array([category_index[category] for category in split.category_ids], dtype=np.int64)
        images = np.array([image_index[image_id] for image_id in self.image_ids], dtype=np.int64)
        return replace(
            truth,
            dt_image=np.repeat(images, [len(scores) for scores in self.scores]),
            dt_category=kind_of_label[np.concatenate([np.zeros(0, dtype=np.int64), *self.labels])],
            dt_boxes=np.concatenate([np.zeros((0, 4)), *self.boxes]).astype(np.float64),
            dt_scores=np.concatenate([np.zeros(0), *self.scores]).astype(np.float64),
        )
