"""The picture of docs/alignrank.md: AP75 of each detector against its latency, from two tables that are there.

    python benchmarks/ap75_latency.py

AP75 is the mean over the sets of `sets_and_seeds.json` that single changes are made on, and over the seeds of each that
have draws; a row that lacks a set is left out. Latency is over that of YOLO26n in the same run, of `latency_boxes.json`
where the row is in it, of `latency.json` where not: ONNX Runtime, 640 px, batch 1, an Intel machine. What stands behind
the network, as NMS, is not in it: NMS-free outputs have it inside.
"""

from __future__ import annotations

import json

import numpy as np
import sets_and_seeds
from matplotlib.figure import Figure
from paired import ROOT, Rows
from sets_and_seeds import BOXES, NMS, NMS_FREE, PLAIN, RATE, SINGLE_CHANGES

LATENCIES = tuple(ROOT / "benchmarks" / "results" / name for name in ("latency.json", "latency_boxes.json"))
IMAGE = ROOT / "docs" / "images" / "ap75_latency.png"
# (row, output, row of the latencies, what the picture calls it)
SHOWN = (
    (BOXES, f"{NMS_FREE}, consensus", "alignrank-n", "alignrank-n"),
    (RATE, f"{NMS_FREE}, consensus", "alignrank-n-fused", "with fusion, as it was before"),
    (PLAIN, NMS, "yolov8-n", "yolov8-n, NMS"),
    ("yolov10-n", NMS_FREE, "yolov10-n", "yolov10-n"),
    ("Ultralytics yolov8n", NMS, "yolov8n", "Ultralytics YOLOv8n, NMS"),
    ("Ultralytics yolo26n", NMS_FREE, "yolo26n", "Ultralytics YOLO26n"),
    ("Ultralytics yolo26n", NMS, "yolo26n-raw", "Ultralytics YOLO26n, NMS"),
)


def mean_over_sets(table: Rows, row: str, output: str) -> float | None:
    """AP75; None where a set is missing."""
    rows, means = table.read()["rows"], []
    for data in SINGLE_CHANGES:
        name = f"{data}/{row}"
        of_seeds = [
            entry["outputs"][output]["ap75"]
            for seed, entry in rows.get(name, {}).items()
            if table.place_of_draws(f"{name}/{output}", int(seed)).exists()
        ]
        if not of_seeds:
            return None
        means.append(np.mean(of_seeds))
    return float(np.mean(means))


def main() -> None:
    table = Rows(sets_and_seeds.RESULTS)
    latencies = {
        model: measured["ratio_to_yolo26n"]
        for path in LATENCIES
        for model, measured in json.loads(path.read_text())["n"]["runtimes"]["ort"]["rows"].items()
    }
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, (row, output, model, name) in enumerate(SHOWN):
        ap75 = mean_over_sets(table, row, output)
        if ap75 is None:
            print(f"left out: {name}")
            continue
        place = latencies[model], ap75
        axis.plot(*place, "s" if name.startswith("Ultralytics") else "o", ms=8)
        above = 6 if number % 2 else -14  # neighbours are often close to each other
        axis.annotate(name, place, xytext=(8, above), textcoords="offset points")
    axis.margins(0.1, 0.2)
    left, right = axis.get_xlim()
    axis.set_xlim(left, right + 0.4 * (right - left))  # names stand to the right of their points
    axis.grid(alpha=0.3)
    axis.set(
        xlabel="time over YOLO26n's, ONNX Runtime on two cores, 640 px (NMS not counted)",
        ylabel="AP75, mean of bloodcells and aerialcars",
    )
    figure.savefig(IMAGE, dpi=110)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
