"""Cost as work grows: time and memory against the input's side, classes, objects, detections and images.

    python benchmarks/growth.py                        # all axes, about 40 minutes of one core
    python benchmarks/growth.py --only sides objects   # these alone; the others stay as they were measured
    python benchmarks/growth.py --plot                 # the picture alone

alignrank-n and yolov8-n with random weights; along an axis one quantity grows and the others stay (AXES). Of a point:
the median over rounds, in each of which all points of the axis run in turn, one after another; `ratio` to the axis'
first point is of the same round, and so is hardly disturbed by others. `slope` is between neighbours: 1 where twice
the work takes twice as long. Memory is that by which a process of its own grows while it runs the step twice.

    training, loss    forward, loss, backward and the optimizer's step on two images; the loss and its gradients alone
    prediction        the network as deployed and the selection, one image; export: to ONNX, its comparison included
    suppression       NMS, and consensus boxes, of ten boxes for each object
    decoding          a JPEG file to the input's pixels, letterboxed
    ap, diagnosis     average precision alone, and every figure of `diagnose`, of made-up detections in memory
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from growth_figure import draw
from paired import ROOT, commit
from training_speed import Clock

from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.detectors import predictions_of
from alignrank.weights.recipe import load_recipe

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
MODELS = ("alignrank-n", "yolov8-n")
NETWORK_ROWS = tuple(f"{kind} {model}" for kind in ("training", "loss", "prediction") for model in MODELS)
METRIC_ROWS = ("ap", "diagnosis")
# What stays while something else grows: an input that is small, and evaluation as COCO's.
SIDE, CLASSES, OBJECTS, IMAGES, DETECTIONS = 320, 80, 10, 100, 100
OBJECTS_SIDE = 640  # where a thousand objects have room
BATCH, SUPPRESSED, SMALLEST, LARGEST = 2, 10, 16.0, 96.0
# Of a point in a round, so that the clock's own steps do not count.
SECONDS = 0.02
Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Axis:
    """points: values of what grows, named in `what`; power: of it, to which work is proportional."""

    what: str
    points: tuple[int, ...]
    rows: tuple[str, ...]
    rounds: int
    power: int = 1


AXES = {
    "sides": Axis(
        "side of the input, px", (320, 448, 640, 896, 1280), (*NETWORK_ROWS, "decoding", "export yolov8-n"), 5, power=2
    ),
    "classes": Axis("classes", (1, 10, 80, 365), (*NETWORK_ROWS, *METRIC_ROWS), 7),
    "objects": Axis(
        "objects an image", (10, 32, 100, 320, 1000), (*(row for row in NETWORK_ROWS if "pred" not in row),
        "suppression",), 7,
    ),
    "detections": Axis("detections and objects an image", (10, 32, 100, 320, 1000), METRIC_ROWS, 5),
    "images": Axis("images", (1, 10, 100, 1000, 10_000), METRIC_ROWS, 3),
}  # fmt: skip


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
    from PIL import Image

    from alignrank.data.decode import decode
    from alignrank.data.letterbox import letterbox
    from alignrank.inference.drawn_scenes import drawn_scene
    from alignrank.input_size import InputSize

    file, size = io.BytesIO(), InputSize(side, rect=False)
    Image.fromarray(drawn_scene(np.random.default_rng(0), side * 3 // 4, side)).save(file, "JPEG", quality=90)
    return lambda: letterbox(torch.from_numpy(decode(file.getvalue())).permute(2, 0, 1), size)


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
    """Of one run: the mean of as many as take `least` seconds."""
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < least:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def memory_of(row: str, axis: str, point: int) -> float:
    """MB by which this process, a fresh one, grows at most (Linux)."""
    step = step_of(row, axis, point)
    Path("/proc/self/clear_refs").write_text("5")  # what the preparation took for a moment is forgotten
    before = _status("VmRSS")
    step()
    step()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1e3


def measured(name: str, rounds: int | None) -> dict[str, Any]:
    """All rows of an axis, all points of a row in turn."""
    axis, clock = AXES[name], Clock({})
    since, times = clock.load(), {}
    for row in axis.rows:
        steps = [step_of(row, name, point) for point in axis.points]
        for step in steps:
            step()  # the first run of each is not counted
        times[row] = [[seconds_of(step) for step in steps] for _ in range(rounds or axis.rounds)]
        del steps
        print(f"{name:10} {row:22} {[round(median(t), 5) for t in zip(*times[row], strict=True)]}", flush=True)
    wall, busy, own = (after - before for after, before in zip(clock.load(), since, strict=True))
    others = (busy - own) / os.sysconf("SC_CLK_TCK") / (wall * (os.cpu_count() or 1))
    about = {
        "commit": commit(), "device": f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "processor": platform.processor() or platform.machine(), "torch": torch.__version__, "numpy": np.__version__,
        "others": round(max(others, 0.0), 2),
    }  # fmt: skip
    table = {row: curve(axis, times[row], [memory(row, name, point) for point in axis.points]) for row in axis.rows}
    return {"what": axis.what, "power": axis.power, "points": axis.points, **about, "rows": table}


def memory(row: str, axis: str, point: int) -> float:
    """Of a process of its own."""
    command = [sys.executable, __file__, "--memory", row, axis, str(point)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{row} at {axis} {point} failed:\n{ended.stderr[-4000:]}")
    return float(ended.stdout.splitlines()[-1])


def curve(axis: Axis, rounds: Sequence[Sequence[float]], megabytes: Sequence[float]) -> dict[str, Any]:
    """Figures of a row: seconds of each point in each of the rounds -> medians, ratios and slopes."""
    ratios = [median(r[i] / r[0] for r in rounds) for i in range(len(axis.points))]
    work = [float(point) ** axis.power for point in axis.points]
    return {
        "seconds": [round(median(column), 6) for column in zip(*rounds, strict=True)],
        "ratio": [round(ratio, 3) for ratio in ratios],
        "slope": slopes(work, ratios),
        "megabytes": [round(value, 1) for value in megabytes],
        "megabytes_slope": slopes(work, [max(value, 0.1) for value in megabytes]),
        "rounds": len(rounds),
    }


def slopes(work: Sequence[float], cost: Sequence[float]) -> list[float]:
    """Between neighbours, of logarithms."""
    steps = zip(cost, cost[1:], work, work[1:], strict=False)
    return [round(math.log(b / a) / math.log(y / x), 2) for a, b, x, y in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES), help="axes to measure")
    parser.add_argument("--rounds", type=int, help="of every axis")
    parser.add_argument("--plot", action="store_true", help="the picture alone, of what has been measured")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        row, axis, point = options.memory
        print(memory_of(row, axis, int(point)))
        return
    for name in [] if options.plot else options.only:
        made = measured(name, options.rounds)
        table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"axes": {}}
        table["command"] = "python benchmarks/growth.py"
        table["axes"] = {
            axis: made if axis == name else table["axes"][axis] for axis in AXES if axis in {name, *table["axes"]}
        }
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    print(draw(json.loads(RESULTS.read_text())["axes"]))


if __name__ == "__main__":
    main()
