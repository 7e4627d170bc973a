"""Plots of what the decoder layers of a detection transformer say: Pu et al., Rank-DETR, figures 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.report.charts import MOST_DENSITY
from alignrank.report.content import DetectorFigures
from alignrank.report.plot_parts import new_figure, outside_legend, saved, styled

# The part of matplotlib's map of colours that can be seen on white.
RAMP = (0.12, 0.95)


def plot_densities(layers: Sequence[DetectorFigures], path: str | PathLike[str]) -> Path:
    """Scores of matched and of unmatched boxes, a curve for each layer, first to last."""
    figure, axes = new_figure(2, 2, width=5.6, height=4.2)
    for axis, which in zip(axes, ("matched", "unmatched"), strict=True):
        of_layers = [getattr(layer, f"{which}_density") for layer in layers]
        for layer, density, look in zip(layers, of_layers, _looks(len(layers)), strict=True):
            if density.any():
                axis.stairs(density, layer.density_edges, label=layer.name, **look)
        top = max(float(density.max(initial=0)) for density in of_layers)
        cut = f", cut at {MOST_DENSITY}" if top > MOST_DENSITY else ""
        styled(axis, f"Scores of {which} boxes", "score", f"density{cut}")
        edges = layers[0].density_edges
        axis.set(xlim=(edges[0], edges[-1]), ylim=(0, min(top, MOST_DENSITY) * 1.05 or 1))
        outside_legend(axis, which, absent=f"no {which} boxes")
    return saved(figure, path)


def plot_unmatched(layers: Sequence[DetectorFigures], path: str | PathLike[str]) -> Path:
    """The share of unmatched boxes whose best IoU with an object of their class is at most so much, by layer."""
    figure, (axis,) = new_figure(1, 1, width=7.4, height=4.6)
    for layer, look in zip(layers, _looks(len(layers)), strict=True):
        if len(layer.unmatched_iou):
            axis.plot(layer.unmatched_iou, layer.unmatched_share, label=layer.name, drawstyle="steps-post", **look)
    styled(axis, "Where unmatched boxes lie", "best IoU with an object of the class", "share of unmatched boxes")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    outside_legend(axis, "unmatched", absent="no unmatched boxes")
    return saved(figure, path)


def plot_precision_recall(layer: DetectorFigures, path: str | PathLike[str]) -> Path:
    """Mean precision over the classes, a curve for each IoU threshold."""
    figure, (axis,) = new_figure(1, 1, width=7.4, height=4.6)
    thresholds = sorted(layer.precision)
    for iou, look in zip(thresholds, _looks(len(thresholds), last=1.5), strict=True):
        precision = layer.precision[iou]
        if not np.isnan(precision).all():
            axis.plot(layer.recalls, precision, label=f"{iou:.2f}  {precision.mean():.3f}", **look)
    styled(axis, f"Precision and recall of {layer.name}", "recall (fraction of objects)", "precision (fraction)")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    outside_legend(axis, "IoU, and AP at it")
    return saved(figure, path)


def _looks(count: int, last: float = 2.6) -> list[dict[str, Any]]:
    """Colours of one ramp, from light to dark; `last`: how thick the last line is."""
    from matplotlib import colormaps

    colors = colormaps["viridis_r"](np.linspace(*RAMP, count))
    return [{"color": color, "linewidth": last if i == count - 1 else 1.5} for i, color in enumerate(colors)]
