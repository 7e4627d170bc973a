"""All rows of `sets_and_seeds.json` on one page: the table of docs/results.md, and the picture of docs/alignrank.md.

    python benchmarks/sets_and_seeds_shown.py      # prints the table, draws AP75 against latency

Figures are means over the seeds that a row has; the picture's of those whose draws are kept, which leaves out the first
machine's, and over the sets that single changes are made on, of rows that have these and a latency. Latency is over
that of YOLO26n in the same run, of `latency_boxes.json` where the row is in it, of `latency.json` where not: ONNX
Runtime, 640 px, batch 1, an Intel machine. What stands behind the network, as NMS, is not in it: NMS-free outputs have
it inside.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from paired import ROOT, Rows, figure, mean
from sets_and_seeds import BOXES, FIRST, NEW, NMS, NMS_FREE, PLAIN, RATE, REFINED, RESULTS, SETS, SINGLE_CHANGES

LATENCIES = RESULTS.with_name("latency.json"), RESULTS.with_name("latency_boxes.json")
IMAGE = ROOT / "docs" / "images" / "ap75_latency.png"
CONSENSUS = f"{NMS_FREE}, consensus"


class Shown(NamedTuple):
    """An output of a row, what it is called here, and its row of the latencies; short: in the picture, if it is."""

    row: str
    output: str
    name: str
    latency: str = ""
    short: str = ""


SHOWN = (
    Shown(BOXES, CONSENSUS, "**alignrank-n**", "alignrank-n", "alignrank-n"),
    Shown(BOXES, NMS_FREE, "the same"),
    Shown(BOXES, f"{NMS}, consensus", "the same"),
    Shown(f"{RATE}, separable boxes for fusion", CONSENSUS, "separable box branches, 64 wide"),
    Shown(RATE, CONSENSUS, "with fusion, as it was before", "alignrank-n-fused", "with fusion, as it was before"),
    Shown(NEW, CONSENSUS, "that at a rate of .0015"),
    Shown(REFINED, CONSENSUS, "that with refinement", "alignrank-n-refined"),
    Shown(FIRST, NMS_FREE, "as it was at first, at .003"),
    Shown("alignrank-n", NMS_FREE, "as it was at first, at .0015"),
    Shown("alignrank-n, pairs across", NMS_FREE, "that with pairs across objects"),
    Shown("alignrank-n, quality", NMS_FREE, "that with a second factor of scores"),
    Shown("alignrank-n, consensus loss", NMS_FREE, "that with consensus in the loss"),
    Shown("alignrank-n, consensus and pairs across", NMS_FREE, "that with both losses"),
    Shown(PLAIN, NMS, "**yolov8-n**", "yolov8-n", "yolov8-n, NMS"),
    Shown(PLAIN, f"{NMS}, consensus", "the same"),
    Shown("yolov8-n", NMS, "yolov8-n at a rate of .0015"),
    Shown("yolov8-n", f"{NMS}, consensus", "the same"),
    Shown("yolov10-n", NMS_FREE, "yolov10-n", "yolov10-n", "yolov10-n"),
    Shown("yolov10-n", f"{NMS}, consensus", "the same"),
    Shown("Ultralytics yolov8n", NMS, "YOLOv8n of Ultralytics", "yolov8n", "Ultralytics YOLOv8n, NMS"),
    Shown("Ultralytics yolo26n", NMS_FREE, "YOLO26n of Ultralytics", "yolo26n", "Ultralytics YOLO26n"),
    Shown("Ultralytics yolo26n", NMS, "the same", "yolo26n-raw", "Ultralytics YOLO26n, NMS"),
)
COLUMNS = {"ap": "AP", "ap75": "AP75"}


def entries(rows: dict[str, Any], shown: Shown, data: str) -> dict[str, Any]:
    """{seed: figures} of a set."""
    of_seeds = rows.get(f"{data}/{shown.row}", {}).items()
    return {
        seed: entry["outputs"][shown.output] for seed, entry in sorted(of_seeds) if shown.output in entry["outputs"]
    }


def table(rows: dict[str, Any], latencies: dict[str, float]) -> list[str]:
    """Markdown: a line for each that is there."""
    headings = [f"{data} {column}" for data in SETS for column in ("seeds", *COLUMNS.values())]
    lines = ["| row | output | " + " | ".join(headings) + " | time |", "|---" * (len(headings) + 3) + "|"]
    for shown in SHOWN:
        cells: list[str] = []
        for found in (entries(rows, shown, data) for data in SETS):
            cells += [", ".join(found), *(mean([figure(each, name) for each in found.values()]) for name in COLUMNS)]
        if any(cells):
            time = f"{latencies[shown.latency]:.2f}" if shown.latency else ""
            lines.append(f"| {shown.name} | {shown.output} | " + " | ".join(cells) + f" | {time} |")
    return lines


def with_draws(recorded: Rows, shown: Shown, data: str) -> list[dict[str, Any]]:
    """Figures of the seeds of a set whose draws are kept."""
    found = entries(recorded.read()["rows"], shown, data)
    name = f"{data}/{shown.row}/{shown.output}"
    return [each for seed, each in found.items() if recorded.place_of_draws(name, int(seed)).exists()]


def picture(recorded: Rows, latencies: dict[str, float]) -> None:
    """AP75 against latency, of what has a short name."""
    canvas = Figure(figsize=(7, 4), layout="constrained")
    axis = canvas.subplots()
    for number, shown in enumerate(each for each in SHOWN if each.short):
        of_sets = [with_draws(recorded, shown, data) for data in SINGLE_CHANGES]
        if not all(of_sets):
            print(f"not in the picture, for want of a set: {shown.short}")
            continue
        ap75 = np.mean([np.mean([each["ap75"] for each in found]) for found in of_sets])
        place = latencies[shown.latency], float(ap75)
        axis.plot(*place, "s" if shown.short.startswith("Ultralytics") else "o", ms=8)
        above = 6 if number % 2 else -14  # neighbours are often close to each other
        axis.annotate(shown.short, place, xytext=(8, above), textcoords="offset points")
    axis.margins(0.1, 0.2)
    left, right = axis.get_xlim()
    axis.set_xlim(left, right + 0.4 * (right - left))  # names stand to the right of their points
    axis.grid(alpha=0.3)
    axis.set(
        xlabel="time over YOLO26n's, ONNX Runtime on two cores, 640 px (NMS not counted)",
        ylabel="AP75, mean of bloodcells and aerialcars",
    )
    canvas.savefig(IMAGE, dpi=110)
    print(f"wrote {IMAGE}")


def main() -> None:
    recorded = Rows(RESULTS)
    latencies = {
        model: measured["ratio_to_yolo26n"]
        for path in LATENCIES
        for model, measured in json.loads(path.read_text())["n"]["runtimes"]["ort"]["rows"].items()
    }
    print("\n".join(table(recorded.read()["rows"], latencies)))
    picture(recorded, latencies)


if __name__ == "__main__":
    main()
