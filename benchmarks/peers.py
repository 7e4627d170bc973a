"""Ultralytics' detectors on our data at our budget: 60 epochs, 320 px, batch 16, from random weights, fp32.

    python benchmarks/peers.py                                     # yolov8n and yolov10n on bloodcells, seed 0
    python benchmarks/peers.py --data aerialcars --models yolo26n --threads 1

Models with two heads are measured with both outputs. Version 8.4.190 sets `end2end` to false for YOLOv10 and YOLO26, so
that `val` reports the one-to-many head after NMS unless it is asked for the other; the rows say which it is. Finished
trainings are kept, results are in results/peers.json. Ultralytics is AGPL-3.0: it runs as a program of its own, in the
environment of training_speed.py, and is never imported here. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from training_speed import CACHE, ROOT, SHARED, ULTRALYTICS, ultralytics_python

from alignrank.data.convert import convert
from alignrank.data.source import read
from alignrank.metrics import evaluate

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
RUNS = ROOT / "runs" / "peers"
OUTPUTS = {"one_to_many": False, "nms_free": True}
EPOCHS, SIDE, BATCH = 60, 320, 16

# Run by the other environment's Python.
RUNNER = """
import json, os, sys, torch
from ultralytics import YOLO, settings
spec = json.loads(sys.argv[1])
if spec["threads"]: torch.set_num_threads(spec["threads"])
settings.update({"sync": False})
same = {"data": spec["data"], "imgsz": spec["imgsz"], "batch": spec["batch"], "device": "cpu", "workers": 0,
        "project": spec["project"], "plots": False, "exist_ok": True}
weights = f"{spec['project']}/train/weights"
if spec["train"] and os.path.exists(f"{weights}/last.pt"):
    YOLO(f"{weights}/last.pt").train(resume=True)
elif spec["train"]:
    YOLO(spec["model"] + ".yaml").train(epochs=spec["epochs"], pretrained=False, seed=spec["seed"], cache="ram",
                                        name="train", amp=False, **same)
best = f"{weights}/best.pt"
dual = hasattr(YOLO(best).model.model[-1], "one2one_cv2")
for name, end2end in spec["outputs"].items():
    if dual or not end2end:
        choice = {"end2end": end2end} if dual else {}
        YOLO(best).val(save_json=True, name=name, **choice, **same)
"""


def train(model: str, data: str, seed: int, threads: int, *, epochs: int = EPOCHS, runs: Path = RUNS) -> Path:
    """Train or go on (unless that is done) and predict with every output; the folder of the results."""
    python, out = ultralytics_python(), runs / f"{model}-{data}-seed{seed}"
    converted = CACHE / f"{data}-yolo"  # training_speed.py uses the same
    if not converted.exists():
        convert(read(SHARED / "data" / data), converted, "yolo")
    out.mkdir(parents=True, exist_ok=True)
    spec = {
        "model": model, "data": str(converted / "data.yaml"), "project": str(out), "seed": seed, "threads": threads,
        "epochs": epochs, "imgsz": SIDE, "batch": BATCH, "outputs": OUTPUTS, "train": not (out / "trained").exists(),
    }  # fmt: skip
    environment = os.environ | {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(out)}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    # Ultralytics takes data.yaml's `path: .` from the working directory.
    with (out / "log.txt").open("w") as log:
        command = [str(python), "-c", RUNNER, json.dumps(spec)]
        ended = subprocess.run(command, env=environment, cwd=converted, stdout=log, stderr=log, check=False)
    if ended.returncode:
        sys.exit(f"{model}: failed, see {out / 'log.txt'}")
    (out / "trained").touch()
    if "NMS time limit" in (out / "log.txt").read_text():
        sys.exit(f"{model}: its suppression ran out of time and left boxes out, see {out / 'log.txt'}")
    return out


def coco_results(predictions: Path, truth: dict[str, Any], out: Path) -> Path:
    """Ultralytics' results with the image ids and class ids of our data."""
    ids = {Path(image["file_name"]).stem: image["id"] for image in truth["images"]}
    categories = sorted(category["id"] for category in truth["categories"])
    results = json.loads(predictions.read_text())
    for result in results:  # names of images are their ids, classes begin at 1
        result["image_id"] = ids[Path(result.pop("file_name")).stem]
        result["category_id"] = categories[result["category_id"] - 1]
    out.write_text(json.dumps(results))
    return out


def measure(model: str, data: str, seed: int, threads: int) -> dict[str, Any]:
    """Figures of all outputs of one training."""
    gt = SHARED / "data" / data / "annotations" / "val.json"
    out = train(model, data, seed, threads)
    truth = json.loads(gt.read_text())
    row: dict[str, Any] = {"seed": seed, "epochs": EPOCHS, "device": "cpu", "ultralytics": ULTRALYTICS}
    for name in OUTPUTS:
        predictions = out / name / "predictions.json"
        if predictions.exists():
            metrics = evaluate(gt, coco_results(predictions, truth, out / f"{name}.json"))
            figures = {"ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75, "lrp": metrics.lrp}
            row[name] = figures | {"rank": metrics.rank}
            shown = {key: round(value, 3) for key, value in (figures | metrics.rank).items() if value is not None}
            print(f"{model} {data} {name}: {shown}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["yolov8n", "yolov10n"])
    parser.add_argument("--data", default="bloodcells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: what Ultralytics sets")
    arguments = parser.parse_args()
    if not (SHARED / "data" / arguments.data).exists():
        sys.exit(f"{SHARED / 'data' / arguments.data} is not there: set ALIGNRANK_SHARED")
    for model in arguments.models:
        row = measure(model, arguments.data, arguments.seed, arguments.threads)
        table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"command": "python benchmarks/peers.py"}
        table.setdefault(arguments.data, {}).setdefault(model, {})[str(arguments.seed)] = row
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
