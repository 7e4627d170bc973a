"""Cost as work grows: time and memory against the input's side, classes, objects, detections and images.

    python benchmarks/growth.py                        # all axes, about 30 minutes of one core; what is known stays
    python benchmarks/growth.py --only sides objects   # these alone, anew
    python benchmarks/growth.py --plot                 # the picture alone

alignrank-n and yolov8-n with random weights; along an axis one quantity grows and the others stay (AXES). Seconds are
those of the processor, of one thread: others on the machine slow them down, and do not count. Of a point: the median
over rounds, in each of which all points of a row run in turn; `ratio` to the axis' first point is of the same round.
`slope` is between neighbours: 1 where twice the work takes twice as long. Memory is that by which a process of its own
grows while it runs the step twice. Each row is written when it is measured.

    training, loss    forward, loss, backward and the optimizer's step on two images; the loss and its gradients alone
    prediction        the network as deployed and the selection, one image; export: to ONNX, its comparison included
    suppression       NMS, and consensus boxes, of ten boxes for each object
    decoding          a JPEG file to the input's pixels, letterboxed
    loading           a data set in COCO form, opened and checked as for a training; no image is decoded
    ap, diagnosis     average precision alone, and every figure of `diagnose`, of made-up detections in memory
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from growth_figure import draw
from growth_steps import METRIC_ROWS, memory_of, seconds_of, step_of
from machine import processor
from paired import ROOT, commit
from training_speed import Clock

RESULTS = ROOT / "benchmarks" / "results" / "growth.json"
MODELS = ("alignrank-n", "yolov8-n")
NETWORK_ROWS = tuple(f"{kind} {model}" for kind in ("training", "loss", "prediction") for model in MODELS)
NOTE = "seconds of the processor, or of a clock where `clock` says so; `others`: share of the machine that others took"
EXPORT_ROW = "export yolov8-n"
# Seconds of the processor after which a row begins no other round.
ENOUGH = 30.0


@dataclass(frozen=True, slots=True)
class Axis:
    """points: values of what grows, named in `what`; power: of it, to which work is proportional."""

    what: str
    points: tuple[int, ...]
    rows: tuple[str, ...]
    power: int = 1


AXES = {
    "sides": Axis("side of the input, px", (320, 448, 640, 896, 1280), (*NETWORK_ROWS, "decoding", EXPORT_ROW), 2),
    "classes": Axis("classes", (1, 10, 80, 365), (*NETWORK_ROWS, *METRIC_ROWS)),
    "objects": Axis(
        "objects an image", (10, 32, 100, 320, 1000),
        (*(row for row in NETWORK_ROWS if "prediction" not in row), "suppression"),
    ),
    "detections": Axis("detections and objects an image", (10, 32, 100, 320, 1000), METRIC_ROWS),
    "images": Axis("images", (1, 10, 100, 1000, 10_000), ("loading", *METRIC_ROWS)),
}  # fmt: skip


def measured(name: str, row: str, rounds: int) -> dict[str, Any]:
    """A row of an axis, all points in turn."""
    axis, clock, about = AXES[name], Clock({}), surroundings()
    steps = [step_of(row, name, point) for point in axis.points]
    for step in steps[:1] if row == EXPORT_ROW else steps[:-1]:
        step()  # a first run is not counted, for what it loads and reserves; the last point is large enough
    since = clock.load()
    times: list[list[float]] = []
    while len(times) < rounds and sum(map(sum, times)) < ENOUGH:
        times.append([seconds_of(step) for step in steps])
    wall, busy, own = (after - before for after, before in zip(clock.load(), since, strict=True))
    del steps
    about["others"] = round(max((busy - own) / os.sysconf("SC_CLK_TCK") / (wall * (os.cpu_count() or 1)), 0.0), 2)
    found = curve(axis, times, [memory(row, name, point) for point in axis.points])
    print(f"{name:10} {row:22} {found['seconds']} s, {found['megabytes']} MB", flush=True)
    return found | about


def memory(row: str, axis: str, point: int) -> float:
    """Of a process of its own, forked from one that has imported what all need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["alignrank.detectors", "alignrank.weights.recipe", "alignrank.metrics"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(memory_of, row, axis, point).result()


def surroundings() -> dict[str, Any]:
    """Where and of what something is measured, before it is."""
    sources = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "src", ":(glob)benchmarks/*.py"]
    changed = subprocess.run(sources, check=False).returncode
    return {
        "commit": commit() + ("-dirty" if changed else ""),
        "device": f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "processor": processor(), "torch": torch.__version__, "numpy": np.__version__,
    }  # fmt: skip


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


def record(name: str, row: str, found: dict[str, Any]) -> None:
    """Set a row of the file; others may write other rows meanwhile."""
    with FileLock(RESULTS.with_suffix(".lock")):
        known = written()
        rows = known.get(name, {}).get("rows", {}) | {row: found}
        axis = AXES[name]
        entry = {"what": axis.what, "power": axis.power, "points": axis.points}
        known[name] = entry | {"rows": {row: rows[row] for row in axis.rows if row in rows}}
        table = {
            "command": "python benchmarks/growth.py",
            "note": NOTE,
            "axes": {axis: known[axis] for axis in AXES if axis in known},
        }
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


def written() -> dict[str, Any]:
    """The axes of the file."""
    axes: dict[str, Any] = json.loads(RESULTS.read_text())["axes"] if RESULTS.exists() else {}
    return axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=AXES, help="axes to measure anew")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", action="store_true", help="the picture alone, of what has been measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.plot else options.only or AXES:
        for row in AXES[name].rows:
            if options.only or row not in written().get(name, {}).get("rows", {}):
                record(name, row, measured(name, row, options.rounds))
    print(draw(written()))


if __name__ == "__main__":
    main()
