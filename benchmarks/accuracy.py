"""Accuracy on real data from random (or given) weights: rows of this table are runs of `alignrank train`.

    python benchmarks/accuracy.py                      # seed 0 of every row, then what --seeds asks for
    python benchmarks/accuracy.py --rows yolov8-n --seeds 0 1

Finished (row, seed) pairs are kept, interrupted ones resumed. Figures are pycocotools', of the best epoch's
weights as deployed. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from machine import processor
from paired import BEFORE

from alignrank.metrics import evaluate

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared"))
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
RUNS = ROOT / "runs" / "accuracy"
NEAR = Path(os.path.relpath(SHARED, ROOT))  # runs start in ROOT, so that recorded commands read the same everywhere
BLOODCELLS = ["--data", str(NEAR / "data" / "bloodcells"), "--imgsz", "320", "--batch", "16"]
AERIALCARS = ["--data", str(NEAR / "data" / "aerialcars"), "--imgsz", "320", "--batch", "16"]
MOBILENET = ["model.backbone=timm:mobilenetv2_100"]
RATE = "train.lr=0.0015"  # of the recipes when the rows were run
ROWS = {
    "yolov8-n": ["--model", "yolov8-n", *BLOODCELLS, "--epochs", "60", RATE],
    "yolov10-n": ["--model", "yolov10-n", *BLOODCELLS, "--epochs", "60"],
    "yolov8-n-mobilenetv2-pretrained": [
        "--model", "yolov8-n", *BLOODCELLS, "--epochs", "20", *MOBILENET, "model.frozen_norm=true", RATE,
        f"model.pretrained={NEAR / 'weights' / 'mobilenetv2_100.safetensors'}",
    ],
    "yolov8-n-mobilenetv2-random": ["--model", "yolov8-n", *BLOODCELLS, "--epochs", "20", *MOBILENET, RATE],
    "alignrank-n-aerialcars": [
        "--model", "alignrank-n", *AERIALCARS, "--epochs", "60", *BEFORE,
    ],
}  # fmt: skip


def pycocotools_figures(gt: Path, detections: Path) -> dict[str, float]:
    """AP, AP50 and AP75 by the reference implementation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(gt))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, evaluation.stats[:3]), strict=True))


def folder(row: str, seed: int) -> Path:
    """Where the run is."""
    return RUNS / f"{row}-seed{seed}"


def ranking_figures(gt: Path, detections: Path) -> dict[str, object]:
    """oLRP, and how the scores rank the boxes."""
    metrics = evaluate(gt, detections)
    return {"lrp": metrics.lrp, "rank": metrics.rank}


def truth_of(row: str) -> Path:
    """The annotations that a row is evaluated on."""
    words = ROWS[row]
    return ROOT / words[words.index("--data") + 1] / "annotations" / "val.json"


def run(row: str, seed: int) -> dict[str, object]:
    """Train (or resume) one row and seed; its entry of the table."""
    gt, out = truth_of(row), folder(row, seed)
    shown = str(out.relative_to(ROOT))
    alignrank = [sys.executable, "-m", "alignrank"]
    if (out / "run.json").exists():
        command = ["train", "--resume", shown]
    else:
        command = ["train", *ROWS[row], "--seed", str(seed), "--out", shown]
    if not (out / "results.json").exists():
        subprocess.run([*alignrank, *command], check=True, cwd=ROOT)
    results = json.loads((out / "results.json").read_text())
    history = json.loads((out / "history.json").read_text())
    return {
        **pycocotools_figures(gt, out / "detections.json"),
        **ranking_figures(gt, out / "detections.json"),
        "ap_by_epoch": [round(epoch["val/ap"], 4) for epoch in history],
        "minutes": round(results["seconds"] / 60, 1),
        "command": results["command"],
        "commit": results["commit"],
        "device": results["device"],
        "processor": processor(),
        "precision": results["precision"],
        "torch": results["torch"],
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    arguments = parser.parse_args()
    for row in arguments.rows:
        if not truth_of(row).exists():
            sys.exit(f"{truth_of(row)} is not there: set ALIGNRANK_SHARED")
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for seed in arguments.seeds:
        for row in arguments.rows:
            if str(seed) not in table.get(row, {}):
                table.setdefault(row, {})[str(seed)] = run(row, seed)
            entry = table[row][str(seed)]
            if "rank" not in entry:  # measured before these figures were
                entry |= ranking_figures(truth_of(row), folder(row, seed) / "detections.json")
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(table, indent=1) + "\n")
            figures = {name: entry[name] for name in ("ap", "ap50", "ap75", "lrp")} | entry["rank"]
            print(f"{row} seed {seed}: " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
