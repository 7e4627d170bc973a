"""The picture of docs/alignrank.md: AP75 of each detector against its latency, from two tables that are there.

    python benchmarks/ap75_latency.py

AP75 is the mean over the three sets of `sets_and_seeds.json`, and over the seeds of each; a row that lacks a set is
left out. Latency is that of `latency.json`: ONNX Runtime, 640 px, batch 1. What stands behind the network, as NMS, is
not in it: NMS-free outputs have it inside.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import sets_and_seeds
from matplotlib.figure import Figure
from paired import ROOT
from sets_and_seeds import NEW, NMS, NMS_FREE, REFINED, SETS

LATENCIES = ROOT / "benchmarks" / "results" / "latency.json"
IMAGE = ROOT / "docs" / "images" / "ap75_latency.png"
# (row, output, row of the latencies, what the picture calls it)
SHOWN = (
    (NEW, f"{NMS_FREE}, consensus", "alignrank-n", "alignrank-n"),
    (REFINED, f"{NMS_FREE}, consensus", "alignrank-n-refined", "with refinement"),
    ("yolov8-n", NMS, "yolov8-n", "yolov8-n, NMS"),
    ("yolov10-n", NMS_FREE, "yolov10-n", "yolov10-n"),
    ("Ultralytics yolov8n", NMS, "yolov8n", "Ultralytics YOLOv8n, NMS"),
    ("Ultralytics yolo26n", NMS_FREE, "yolo26n", "Ultralytics YOLO26n"),
    ("Ultralytics yolo26n", NMS, "yolo26n-raw", "Ultralytics YOLO26n, NMS"),
)


def mean_over_sets(rows: dict[str, Any], row: str, output: str) -> float | None:
    """AP75; None where a set is missing."""
    by_set = [rows.get(f"{data}/{row}", {}).values() for data in SETS]
    if not all(by_set):
        return None
    return float(np.mean([np.mean([entry["outputs"][output]["ap75"] for entry in entries]) for entries in by_set]))


def main() -> None:
    rows = json.loads(sets_and_seeds.RESULTS.read_text())["rows"]
    latencies = json.loads(LATENCIES.read_text())["n"]["runtimes"]["ort"]["rows"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for row, output, model, name in SHOWN:
        ap75 = mean_over_sets(rows, row, output)
        if ap75 is None:
            print(f"left out: {name}")
            continue
        place = latencies[model]["median_ms"], ap75
        axis.plot(*place, "s" if name.startswith("Ultralytics") else "o", ms=8)
        axis.annotate(name, place, xytext=(8, -4), textcoords="offset points")
    axis.margins(0.1, 0.2)
    left, right = axis.get_xlim()
    axis.set_xlim(left, right + 0.4 * (right - left))  # names stand to the right of their points
    axis.grid(alpha=0.3)
    axis.set(xlabel="ONNX Runtime on two cores, 640 px, ms (NMS not counted)", ylabel="AP75, mean over three sets")
    figure.savefig(IMAGE, dpi=110)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
