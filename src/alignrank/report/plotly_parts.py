"""What the charts are made of: records, traces, axes.

Colours are names such as "@first" (the first detector's), which the page replaces by those of its light or dark
scheme. Names go into figures escaped, because Plotly takes some HTML in text for markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.report.content import Array


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """color: "first", "second", "ink" or "muted"; dash as in Plotly; filled: a box rather than a line."""

    text: str
    color: str
    dash: str = "solid"
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing. name: the detector it is about, "" where all share it."""

    name: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """plots: one shared by the detectors, or one for each, side by side."""

    key: str
    title: str
    caption: str
    plots: Sequence[Plot]
    legend: Sequence[LegendEntry] = ()
    wide: bool = False


def line_trace(x: Array, y: Array, name: str, line: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": plain_text(name), "x": x, "y": y, "line": line}


def plain_text(name: str) -> str:
    """What Plotly shows as `name`: it reads some tags and the entities of these three characters."""
    return html.escape(name, quote=False)


def step_trace(edges: Array, heights: Array, name: str, line: dict[str, Any]) -> dict[str, Any]:
    """edges [B'+1], heights [B'] as a staircase."""
    trace = line_trace(np.asarray(edges), np.append(heights, np.asarray(heights)[-1:]), name, {**line, "shape": "hv"})
    trace["hovertemplate"] = "score %{x:.2f}<br>density %{y:.2f}"
    return trace


def evenly(length: int, most: int) -> Array:
    """Indices of at most `most` of `length` places, the first and the last among them."""
    if length <= most:
        return np.arange(length)
    return np.linspace(0, length - 1, most).round().astype(np.int64)


def plain_layout(x: str, y: str, x_range: Sequence[float], y_range: Sequence[float] | None) -> dict[str, Any]:
    axis = {
        "gridcolor": "@grid",
        "linecolor": "@grid",
        "tickcolor": "@grid",
        "zeroline": False,
        "automargin": True,
        "showline": True,
    }
    return {
        "autosize": True,
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 46, "r": 14, "t": 8, "b": 42},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "@muted-text", "size": 12},
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@grid", "font": {"color": "@ink"}, "namelength": 40},
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}, "range": list(x_range)},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8}} | ({"range": list(y_range)} if y_range else {}),
    }


def note(text: str) -> dict[str, Any]:
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    return {**place, "text": text, "showarrow": False, "font": {"color": "@muted-text", "size": 14}}
