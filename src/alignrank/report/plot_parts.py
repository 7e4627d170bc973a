"""What all plots share: a figure of panels, their look, a legend beside them, and the way into a file.

matplotlib is imported inside the functions (it costs a third of a second) and used through `Figure`
objects alone: no pyplot, no global state, no display, safe in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from alignrank.report.plot_fonts import use_fonts

INK, FAINT = "#1e293b", "#cbd5e1"


def new_figure(panels: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of `panels` axes, each width x height inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = -(-panels // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width * columns, height * rows), layout=layout, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    return figure, axes[:panels]


def styled(axis: Any, title: str, x: str, y: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.grid(color="#e2e8f0", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=INK, length=0)
    titled(axis, title, x, y)


def titled(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)


def outside_legend(axis: Any, title: str, *, absent: str = "no ground truth") -> None:
    """To the right of the axes; in their middle what is absent, where they have no lines."""
    if axis.get_legend_handles_labels()[0]:
        legend = axis.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
        legend.get_title().set(fontsize=8, color=INK)
    else:
        axis.text(0.5, 0.5, absent, ha="center", color=INK, transform=axis.transAxes)


def saved(figure: Any, path: str | PathLike[str], names: Sequence[str] = ()) -> Path:
    use_fonts(figure, names)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
