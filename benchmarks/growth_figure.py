"""The picture of growth.json: time and memory of every row against what grows, one column an axis.

    python benchmarks/growth.py --plot

Both scales are logarithmic. A dashed line rises as the work does: what is less steep grows more slowly than the work,
what is steeper faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paired import ROOT

PICTURE = ROOT / "docs" / "images" / "growth.png"
COLORS = {"alignrank-n": "tab:red", "yolov8-n": "tab:blue"}
OTHERS = {
    "ap": "tab:green", "diagnosis": "tab:purple", "decoding": "tab:brown", "suppression": "tab:olive",
    "loading": "tab:cyan",
}  # fmt: skip
STYLES = {"training": "-", "loss": "--", "prediction": ":", "export": "-."}
MEASURES = {"seconds": "seconds of one thread", "megabytes": "MB"}


def draw(axes: dict[str, Any]) -> Path:
    """Writes docs/images/growth.png; the path."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(MEASURES), len(axes), figsize=(4.4 * len(axes), 9), squeeze=False, layout="constrained"
    )
    for column, axis in enumerate(axes.values()):
        work = [point ** axis["power"] for point in axis["points"]]
        for panel, (key, unit) in zip(panels[:, column], MEASURES.items(), strict=True):
            for row, curve in axis["rows"].items():
                kind, _, model = row.partition(" ")
                panel.plot(
                    work, [max(value, 1e-6) for value in curve[key]], STYLES.get(kind, "-"), marker="o", markersize=4,
                    color=COLORS.get(model) or OTHERS[kind], label=row, lw=1.6,
                )  # fmt: skip
            panel.set(xscale="log", yscale="log", ylabel=unit)
            panel.set_xticks(work, [f"{point:,}" for point in axis["points"]])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            _guide(panel, work)
        panels[0, column].legend(fontsize=8)
        panels[-1, column].set_xlabel(axis["what"])
    figure.suptitle("Cost as work grows; dashed grey: in proportion to it")
    figure.savefig(PICTURE, dpi=90)
    return PICTURE


def _guide(panel: Any, work: list[float]) -> None:
    """A line of slope 1 through the middle of the panel, which stays as high as it is."""
    low, high = panel.get_ylim()
    middle = (low * high) ** 0.5 / (work[0] * work[-1]) ** 0.5
    panel.plot(work, [middle * x for x in work], "--", color="grey", lw=1, zorder=0)
    panel.set_ylim(low, high)
