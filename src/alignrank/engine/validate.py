"""Evaluate a network on a split: detections of every image, then the metrics of those arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignrank.boxes import xyxy_to_xywh
from alignrank.contracts import Batch, Criterion, Postprocess
from alignrank.data.samples import Split
from alignrank.metrics import CocoInputs, Metrics, evaluate, read_inputs

# COCO's practice: low enough that recall is complete, high enough that NMS stays cheap.
CONF, IOU, MAX_DETS = 0.001, 0.7, 300


@dataclass(slots=True)
class Validation:
    """metrics, and the arrays they are of; detections as COCO results; mean loss parts (empty without a criterion)."""

    metrics: Metrics
    inputs: CocoInputs
    results: list[dict[str, Any]]
    losses: dict[str, float]


def network_input(batch: Batch) -> Tensor:
    """uint8 0..255 -> float 0..1, channels last (a fifth faster in convolutions on CPU and GPU)."""
    return batch.images.contiguous(memory_format=torch.channels_last).float().div_(255)


@torch.inference_mode()
def validate(
    model: Any,
    postprocess: Postprocess,
    batches: Iterable[Batch],
    split: Split,
    *,
    device: torch.device,
    criterion: Criterion | None = None,
    conf: float = CONF,
    iou: float = IOU,
    max_dets: int = MAX_DETS,
    coco_max_dets: int = 100,
    advance: Callable[[], object] = lambda: None,
) -> Validation:
    """Run `model` (as it is: fold or not, EMA or not) over `batches` of `split` in evaluation mode."""
    was_training = model.training
    model.eval()
    results: list[dict[str, Any]] = []
    sums: dict[str, float] = defaultdict(float)
    count = 0
    for batch in batches:
        batch = batch.to(device)
        predictions = model(network_input(batch))
        if criterion is not None:
            terms = criterion(predictions, batch.targets, alone=True)
            for name, value in terms.parts.items():
                sums[name] += float(value) * len(batch.frames)
        count += len(batch.frames)
        selections = postprocess(predictions, conf=conf, iou=iou, max_dets=max_dets)
        for selection, frame in zip(selections, batch.frames, strict=True):
            boxes = xyxy_to_xywh(frame.to_original(selection.boxes)).tolist()
            for box, score, label in zip(boxes, selection.scores.tolist(), selection.labels.tolist(), strict=True):
                category = split.category_ids[label]
                results.append({"image_id": frame.image_id, "category_id": category, "bbox": box, "score": score})
        advance()
    model.train(was_training)
    inputs = read_inputs(split.to_coco(), results)
    metrics = evaluate(inputs, max_dets=coco_max_dets)
    return Validation(metrics, inputs, results, {name: total / max(count, 1) for name, total in sums.items()})
