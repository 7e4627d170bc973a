"""The picture of docs/results.md: AP75 of every row of sets_and_seeds.json against its latency.

    python benchmarks/sets_and_seeds_figure.py     # after sets_and_seeds.py and latency.py

One panel for each data set, means over the seeds. Latency is that of the network in ONNX Runtime (latency.json: 640 px,
two threads); what runs behind it, such as NMS, is not in it. Rows that learn otherwise, but run the same network, share
its latency. Ultralytics' YOLOv8n is the network of our yolov8-n. Writes docs/images/ap75_latency.png.
"""

from __future__ import annotations

import json
import sys
from statistics import mean
from typing import Any

from paired import ROOT
from sets_and_seeds import NMS_FREE, RESULTS, ROWS, SETS

LATENCY = ROOT / "benchmarks" / "results" / "latency.json"
PICTURE = ROOT / "docs" / "images" / "ap75_latency.png"
# Those whose network is not that of a recipe: row -> row of latency.json.
NETWORKS = {
    "Ultralytics yolov8n": "yolov8-n",
    "alignrank-n, quality": "alignrank-n-quality",
    "alignrank-n, no fusion": "alignrank-n-sampling",
    "alignrank-n, no refinement": "alignrank-n-suppression",
}
COLORS = {"alignrank-n": "tab:red", "yolov8-n": "tab:blue", "yolov10-n": "tab:green", "Ultralytics": "tab:gray"}


def network(row: str, output: str) -> str:
    """The row of latency.json of an output: NMS is of the one-to-many head, whose network is the base."""
    name = NETWORKS.get(row, row.partition(",")[0] if not row.startswith("Ultralytics") else row.split()[-1])
    if not name.startswith("alignrank-n"):
        return f"{name}-raw" if name == "yolo26n" and not output.startswith(NMS_FREE) else name
    if not output.startswith(NMS_FREE):
        return "alignrank-n-fusion" if "no fusion" not in row else "alignrank-n-base"
    return "alignrank-n-alone" if "consensus" not in output and name == "alignrank-n" else name


def points(rows: dict[str, Any], data: str) -> list[tuple[str, str, float]]:
    """Row, output and mean AP75 over the seeds."""
    found = []
    for row in ROWS:
        entries = list(rows.get(f"{data}/{row}", {}).values())
        for output in entries[0]["outputs"] if entries else ():
            found.append((row, output, mean(entry["outputs"][output]["ap75"] for entry in entries)))
    return found


def spread(wanted: list[float], gap: float) -> list[float]:
    """Rising heights -> heights at least `gap` apart, near them: for labels of points that lie close together."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    shift = mean(a - b for a, b in zip(placed, wanted, strict=True))
    return [height - shift for height in placed]


def main() -> None:
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is not there: run sets_and_seeds.py")
    import matplotlib.pyplot as plt

    rows = json.loads(RESULTS.read_text())["rows"]
    times = json.loads(LATENCY.read_text())["n"]["runtimes"]["ort"]["rows"]
    found = {data: points(rows, data) for data in SETS if points(rows, data)}
    named = {network(row, output) for entries in found.values() for row, output, _ in entries}
    for name in sorted(named - times.keys()):
        print(f"{name}: not in {LATENCY.name}, not shown", file=sys.stderr)
    figure, panels = plt.subplots(1, len(found), figsize=(8 * len(found), 9), squeeze=False, layout="constrained")
    for panel, (data, entries) in zip(panels[0], found.items(), strict=True):
        timed = [(times[name]["median_ms"], y, *at) for *at, y in entries if (name := network(*at)) in times]
        heights = [y for _, y, *_ in timed]
        label_gap = max(max(heights) - min(heights), 0.02) / 38
        for x in sorted({x for x, *_ in timed}):
            column = sorted((y, row, output) for at, y, row, output in timed if at == x)
            for (y, row, output), height in zip(column, spread([y for y, *_ in column], label_gap), strict=True):
                color = next(value for key, value in COLORS.items() if row.startswith(key))
                filled = output.startswith(NMS_FREE)
                panel.scatter(x, y, c=color if filled else "white", edgecolors=color, s=30, zorder=3)
                panel.annotate(
                    f"{row}, {output}", (x, y), (x + 0.6, height), fontsize=6, va="center", color=color,
                    arrowprops={"arrowstyle": "-", "color": color, "lw": 0.4, "shrinkA": 0, "shrinkB": 3},
                )  # fmt: skip
        panel.set(title=data, xlabel="latency of the network, ms", ylabel="AP75")
        panel.margins(x=0.2)
        panel.grid(alpha=0.3)
    figure.suptitle("AP75 against latency; filled: without NMS")
    figure.savefig(PICTURE, dpi=110)
    print(PICTURE)


if __name__ == "__main__":
    main()
