"""The steps that growth.py measures, one process or many: each a function of no arguments, prepared before.

    step_of("training yolov8-n", "sides", 640)

seconds_of and memory_of say what one costs.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.detectors import predictions_of
from alignrank.weights.recipe import load_recipe

METRIC_ROWS = ("ap", "diagnosis")
# What stays while something else grows: an input that is small, and evaluation as COCO's.
SIDE, CLASSES, OBJECTS, IMAGES, DETECTIONS = 320, 80, 10, 100, 100
OBJECTS_SIDE = 640  # where a thousand objects have room
BATCH, SUPPRESSED, SMALLEST, LARGEST = 2, 10, 16.0, 96.0
# Of a point in a round, so that the clock's own steps do not count.
SECONDS = 0.02
Step = Callable[[], object]


def step_of(row: str, axis: str, point: int) -> Step:
    """What is measured, all that comes before it done."""
    torch.manual_seed(0)
    side = point if axis == "sides" else OBJECTS_SIDE if axis == "objects" else SIDE
    classes = point if axis == "classes" else CLASSES
    objects = point if axis == "objects" else OBJECTS
    kind, _, model = row.partition(" ")
    if kind in METRIC_ROWS:
        images = point if axis == "images" else IMAGES
        crowd = (point, point) if axis == "detections" else (OBJECTS, DETECTIONS)
        return evaluation(kind, *detected(images, *crowd, classes))
    if kind == "loading":
        return loading(point)
    if kind == "decoding":
        return decoding(side)
    if kind == "suppression":
        return suppression(objects)
    if kind == "export":
        return export(model, side)
    batch = scene(side, classes, objects)
    return {"training": training, "loss": loss, "prediction": prediction}[kind](model, batch, classes)


def scene(side: int, classes: int, objects: int) -> Batch:
    """Random pictures with objects of 16 to 96 px, however many there are."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(BATCH):
        sides = SMALLEST + (LARGEST - SMALLEST) * torch.rand(objects, 2, generator=generator)
        corner = torch.rand(objects, 2, generator=generator) * (side - sides)
        labels = torch.randint(classes, (objects,), generator=generator)
        targets.append(Targets(torch.cat([corner, corner + sides], 1), labels))
    images = torch.rand(BATCH, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    return Batch(images, targets, [Frame("", (side, side))] * BATCH)


def built(model: str, classes: int) -> Any:
    """A recipe with random weights, as the training has it in memory."""
    found = load_recipe(model, num_classes=classes).build()
    found.model.to(memory_format=torch.channels_last)
    return found


def training(model: str, batch: Batch, classes: int) -> Step:
    """A step on the whole batch."""
    own = built(model, classes)
    own.model.train()
    optimizer = torch.optim.AdamW(own.model.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        own.criterion(predictions_of(own.model, batch.images, batch), batch.targets).total.backward()
        optimizer.step()

    return run


def loss(model: str, batch: Batch, classes: int) -> Step:
    """The loss and its gradients with respect to the predictions."""
    own = built(model, classes)
    with torch.no_grad():
        predictions = predictions_of(own.model.train(), batch.images, batch)

    def run() -> None:
        own.criterion(leaves(predictions), batch.targets).total.backward()

    return run


def leaves(predictions: Predictions) -> Predictions:
    """The same numbers, each field the end of its gradients' way."""
    found: dict[str, Any] = {}
    for field in fields(predictions):
        value = getattr(predictions, field.name)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found[field.name] = value.detach().requires_grad_()
        elif isinstance(value, dict):
            found[field.name] = {k: leaves(v) if is_dataclass(v) else v for k, v in value.items()}
    return replace(predictions, **found)


def prediction(model: str, batch: Batch, classes: int) -> Step:
    """From the network's input to detections, at the thresholds of `val`."""
    own = built(model, classes)
    network = own.model.eval().deploy()
    images = batch.images[:1]

    @torch.inference_mode()
    def run() -> None:
        own.postprocess(network(images), conf=0.001, iou=0.7, max_dets=300)

    return run


def export(model: str, side: int) -> Step:
    """An ONNX file, with its comparison on random images."""
    from alignrank.export import onnx

    onnx.BOX_TOLERANCE, onnx.SCORE_TOLERANCE = 0.1, 0.01  # networks that have learned nothing amplify rounding
    own, path = built(model, CLASSES), Path(os.devnull)
    onnx._write = lambda path, content: None  # type: ignore[assignment]
    names = [str(label) for label in range(CLASSES)]
    return lambda: onnx.export_onnx(own.model.eval(), own.postprocess, path, imgsz=side, names=names)


def suppression(objects: int) -> Step:
    """NMS with consensus boxes, ten boxes near each object; all score above the threshold."""
    from alignrank.detectors.postprocess import NonMaximumSuppression

    truth = scene(OBJECTS_SIDE, CLASSES, objects).targets[0]
    boxes = truth.boxes.repeat_interleave(SUPPRESSED, 0)
    boxes = boxes + 3 * torch.randn(boxes.shape)
    logits = torch.full((len(boxes), CLASSES), -20.0)
    logits[torch.arange(len(boxes)), truth.labels.repeat_interleave(SUPPRESSED)] = torch.randn(len(boxes))
    predictions, select = Predictions(logits[None], boxes[None]), NonMaximumSuppression(consensus=0.7)
    return lambda: select(predictions, conf=0.001, iou=0.7, max_dets=1000)


def decoding(side: int) -> Step:
    """A JPEG of 4 by 3, as wide as the input."""
    from alignrank.data.decode import decode
    from alignrank.data.letterbox import letterbox
    from alignrank.input_size import InputSize

    file, size = jpeg(side * 3 // 4, side), InputSize(side, rect=False)
    return lambda: letterbox(torch.from_numpy(decode(file)).permute(2, 0, 1), size)


def jpeg(height: int, width: int) -> bytes:
    """A drawn scene."""
    from PIL import Image

    from alignrank.inference.drawn_scenes import drawn_scene

    file = io.BytesIO()
    Image.fromarray(drawn_scene(np.random.default_rng(0), height, width)).save(file, "JPEG", quality=90)
    return file.getvalue()


def loading(images: int) -> Step:
    """A folder with a COCO JSON, checked as a training does it: each image's header is read, none is decoded."""
    folder = TemporaryDirectory(prefix="alignrank-growth-")
    root = Path(folder.name)
    for name in ("images", "annotations"):
        (root / name).mkdir()
    first = root / "images" / "0.jpg"
    first.write_bytes(jpeg(640, 640))
    for i in range(1, images):
        os.link(first, root / "images" / f"{i}.jpg")  # a file of its own for the reader, and no room on the disk
    (root / "annotations" / "train.json").write_text(json.dumps(detected(images, OBJECTS, 1, CLASSES)[0]))
    return partial(_loaded, folder)


def _loaded(folder: TemporaryDirectory[str]) -> None:
    """The folder stays as long as the step does."""
    from alignrank.data.source import read

    read(folder.name)


def detected(images: int, objects: int, detections: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results as COCO has them: the first detections lie near objects, the rest anywhere."""
    rng = np.random.default_rng(0)
    corner = rng.random((images, objects, 2)) * 540
    sides = rng.uniform(SMALLEST, LARGEST, (images, objects, 2))
    labels = rng.integers(1, classes + 1, (images, objects))
    of = rng.integers(0, max(2 * objects, 1), (images, detections))  # half of them of no object
    found = np.concatenate([rng.random((images, detections, 2)) * 540, rng.uniform(16, 96, (images, detections, 2))], 2)
    kinds = rng.integers(1, classes + 1, (images, detections))
    near, place = of < objects, np.minimum(of, objects - 1)
    rows = np.arange(images)[:, None]
    moved = np.concatenate([corner, sides], 2)[rows, place] + rng.normal(0, 4, (images, detections, 4))
    found = np.where(near[..., None], moved, found).clip(1)
    kinds = np.where(near, labels[rows, place], kinds)
    scores = rng.random((images, detections))
    annotations = [
        {
            "id": i + 1,
            "image_id": i // objects,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (box, label) in enumerate(
            zip(np.concatenate([corner, sides], 2).reshape(-1, 4).tolist(), labels.ravel().tolist(), strict=True)
        )
    ]
    results = [
        {"image_id": i // detections, "category_id": label, "bbox": box, "score": score}
        for i, (box, label, score) in enumerate(
            zip(found.reshape(-1, 4).tolist(), kinds.ravel().tolist(), scores.ravel().tolist(), strict=True)
        )
    ]
    frames = [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(images)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)]
    return {"images": frames, "annotations": annotations, "categories": categories}, results


def evaluation(row: str, truth: dict[str, Any], results: list[dict[str, Any]]) -> Step:
    """From lists of dictionaries to the figures."""
    from alignrank.metrics import average_precision, evaluate, read_inputs

    if row == "diagnosis":
        return lambda: evaluate(truth, results)
    return lambda: average_precision(read_inputs(truth, results)).figures()


def seconds_of(step: Step, least: float = SECONDS) -> float:
    """Of the processor, in one run: the mean of as many as take `least` seconds."""
    count, start = 0, time.process_time()
    while not count or time.process_time() - start < least:
        step()
        count += 1
    return (time.process_time() - start) / count


def memory_of(row: str, axis: str, point: int) -> float:
    """MB by which this process, a fresh one, grows at most (Linux)."""
    torch.set_num_threads(1)
    step = step_of(row, axis, point)
    Path("/proc/self/clear_refs").write_text("5")  # what the preparation took for a moment is forgotten
    before = _status("VmRSS")
    step()
    step()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1e3
