"""What a picture's way through a detector takes, engine by engine."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from alignrank.drawing import color
from alignrank.report.plot_parts import new_figure, outside_legend, saved, styled


def plot_latency(result: Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Milliseconds by part, and images a second by batch, of each engine. result: of `benchmark.run.benchmark`."""
    engines: Mapping[str, Any] = result["engines"]
    figure, (times, speeds) = new_figure(2, 2, width=6.4, height=1.6 + 0.4 * len(engines))
    names, left = list(engines), [0.0] * len(engines)
    for i, part in enumerate(engines[names[0]]["parts_ms"]):
        widths = [row["parts_ms"][part] for row in engines.values()]
        times.barh(names, widths, left=left, color=color(i), label=part, height=0.6)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    styled(times, "latency, lower is better", "ms, from decoded pixels to detections", "")
    outside_legend(times, "part")
    for i, batch in enumerate(result["rounds"]):
        values = [row["images_per_second"][batch] for row in engines.values()]
        speeds.plot(values, names, marker="o", linestyle="none", color=color(i), label=batch)
    styled(speeds, "throughput, higher is better", "images per second", "")
    speeds.set_xlim(left=0)
    outside_legend(speeds, "batch")
    for axis in (times, speeds):
        axis.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    return saved(figure, path, [result["recipe"]])
