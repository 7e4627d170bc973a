"""The report's charts as Plotly figures, in plain dictionaries that the page draws itself.

Only SVG traces: WebGL is absent from many phones and from browsers without a screen. Legends are HTML, so that long
names wrap on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignrank.report.content import DetectorFigures
from alignrank.report.figures import plain_number
from alignrank.report.plotly_parts import (
    Chart,
    LegendEntry,
    Plot,
    evenly,
    line_trace,
    note,
    plain_layout,
    plain_text,
    step_trace,
)

MAX_POINTS = 2000  # matched detections drawn as points; the shading behind them counts all
MAX_STEPS = 600  # places of a curve, more than a screen has pixels for
MOST_DENSITY = 12  # where the axis ends: a spike of worthless boxes at score 0 would press everything else flat

COLORS = ("first", "second")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
KINDS = {
    "classification": "wrong class",
    "localization": "loose box",
    "both": "both",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed",
}


def charts(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> list[Chart]:
    """Every chart that there is something to draw for; names: the detectors' as shown."""
    drawers: tuple[Callable[[Sequence[DetectorFigures], Sequence[str]], Chart | None], ...] = (
        _alignment,
        _precision_recall,
        _reliability,
        _densities,
        _unmatched,
        _errors,
    )
    drawn = (draw(detectors, names) for draw in drawers)
    return [chart for chart in drawn if chart is not None]


def _alignment(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    """IoU over score: shading by count, points, and the mean IoU of each tenth by score."""
    if not any(len(detector.scores) for detector in detectors):
        return None
    lowest = min(float(np.min(detector.ious)) for detector in detectors if len(detector.ious))
    bottom = min(0.5, float(np.floor(lowest * 10)) / 10)
    # Scores should lie in 0..1, but a file of results may hold others.
    left = min(float(np.min(detector.scores, initial=0)) for detector in detectors)
    right = max(float(np.max(detector.scores, initial=1)) for detector in detectors)
    x_range = [left - 0.01 * (right - left), right + 0.01 * (right - left)]
    plots = []
    for detector, name, color in zip(detectors, names, COLORS, strict=False):
        layout = plain_layout("score", "IoU with its object", x_range, [bottom - 0.005, 1.005])
        plots.append(_alignment_plot(detector, name, color, layout, (left, right, bottom)))
    most = max(len(detector.scores) for detector in detectors)
    sampled = (
        f" Of all these, {MAX_POINTS:,} are drawn as points, evenly sampled by score." if most > MAX_POINTS else ""
    )
    caption = (
        "Each point is a box on an object (IoU 0.5 or more); shading counts all. Where scores rank boxes by fit, "
        "the cloud and the line (mean IoU of each tenth of the detections, by score) climb to the right; a flat line "
        f"means that a high score promises no better box.{sampled}"
    )
    legend = [
        LegendEntry("detections, stronger where more", "muted", filled=True),
        LegendEntry("mean IoU of each tenth by score", "ink"),
    ]
    return Chart("alignment", "Score and fit of boxes on objects", caption, plots, legend, wide=len(plots) > 1)


def _alignment_plot(
    detector: DetectorFigures, name: str, color: str, layout: dict[str, Any], limits: tuple[float, float, float]
) -> Plot:
    """limits: the lowest and highest score, and the lowest IoU."""
    scores, ious = np.asarray(detector.scores, float), np.asarray(detector.ious, float)
    if not len(scores):
        return Plot(name, [], {**layout, "annotations": [note("no matched detections")]})
    edges = np.linspace(limits[0], limits[1], 41), np.linspace(limits[2], 1, 26)
    counts = np.histogram2d(scores, ious, edges)[0].T
    order = np.argsort(scores, kind="stable")
    drawn = order[evenly(len(order), MAX_POINTS)]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": (edges[0][:-1] + edges[0][1:]) / 2,
            "y": (edges[1][:-1] + edges[1][1:]) / 2,
            "z": np.where(counts > 0, np.log10(counts + 1), np.nan),  # few crowded cells would hide the rest
            "zmin": 0,
            "colorscale": [[0, f"@{color}-faint"], [1, f"@{color}"]],
            "showscale": False,
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": scores[drawn],
            "y": ious[drawn],
            "marker": {"size": 3, "color": "@ink", "opacity": 0.28},
            "hovertemplate": "score %{x:.3f}<br>IoU %{y:.3f}<extra></extra>",
        },
    ]
    if len(order) >= 20:
        tenths = np.array_split(order, 10)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": np.array([scores[tenth].mean() for tenth in tenths]),
                "y": np.array([ious[tenth].mean() for tenth in tenths]),
                "line": {"color": "@ink", "width": 2.5},
                "marker": {"size": 6, "color": "@ink"},
                "hovertemplate": "mean score %{x:.3f}<br>mean IoU %{y:.3f}<extra></extra>",
            }
        )
    return Plot(name, data, layout)


def _precision_recall(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    data: list[dict[str, Any]] = []
    thresholds = sorted({float(iou) for detector in detectors for iou in detector.precision})
    for detector, name, color in zip(detectors, names, COLORS, strict=False):
        for iou, precision in sorted((float(iou), values) for iou, values in detector.precision.items()):
            if not len(precision) or np.isnan(np.asarray(precision, float)).all():
                continue
            dash = _DASHES[thresholds.index(iou) % len(_DASHES)]
            kept = evenly(len(precision), MAX_STEPS)
            line = {"color": f"@{color}", "width": 2, "dash": dash}
            trace = line_trace(np.asarray(detector.recalls)[kept], np.asarray(precision)[kept], name, line)
            trace["hovertemplate"] = f"IoU {iou:.2f}<br>recall %{{x:.2f}}<br>precision %{{y:.3f}}"
            data.append(trace)
    if not data:
        return None
    legend = _detectors_legend(names)
    for i, iou in enumerate(thresholds):
        legend.append(LegendEntry(f"IoU {iou:.2f}", "ink" if len(names) > 1 else COLORS[0], _DASHES[i % len(_DASHES)]))
    layout = plain_layout("recall (share of objects found)", "precision (share of true boxes)", [0, 1.005], [0, 1.02])
    caption = (
        "Going down in score, more objects are found and more boxes are false; the area below a curve is the average "
        "precision at that IoU. Curves fall with rising IoU: a wide gap between them means many loose boxes."
    )
    return Chart("precision-recall", "Precision and recall", caption, [Plot("", data, layout)], legend)


def _reliability(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    data: list[dict[str, Any]] = []
    for detector, name, color in zip(detectors, names, COLORS, strict=False):
        confidence, quality = np.asarray(detector.confidence, float), np.asarray(detector.quality, float)
        counts = np.asarray(detector.counts, float)
        filled = np.flatnonzero(np.isfinite(confidence) & np.isfinite(quality) & (counts > 0))
        if not len(filled):
            continue
        size = 5 + 17 * np.sqrt(counts[filled] / counts[filled].max())
        trace = line_trace(confidence[filled], quality[filled], name, {"color": f"@{color}", "width": 1.5})
        trace |= {
            "mode": "lines+markers",
            "marker": {"size": size, "color": f"@{color}", "opacity": 0.75, "line": {"width": 1, "color": "@surface"}},
            "customdata": counts[filled].astype(np.int64),
            "hovertemplate": "mean score %{x:.3f}<br>mean IoU %{y:.3f}<br>%{customdata:,} detections",
        }
        data.append(trace)
    if not data:
        return None
    ends = np.array([0.0, 1.0])
    diagonal = line_trace(ends, ends, "", {"color": "@muted", "width": 1.5, "dash": "dot"})
    data.insert(0, {**diagonal, "hoverinfo": "skip"})
    legend = [*_detectors_legend(names), LegendEntry("score = mean IoU", "muted", "dot")]
    layout = plain_layout("mean score of the bin", "mean IoU (false boxes count 0)", [-0.02, 1.03], [-0.02, 1.03])
    caption = (
        "Detections in bins of score; a marker's area grows with their number. On the dotted line, a score tells how "
        "well a box fits; below the line scores promise too much, above it too little."
    )
    return Chart("reliability", "Reliability of scores", caption, [Plot("", data, layout)], legend)


def _densities(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    known = [
        len(d.density_edges) > 1 and bool(np.any(d.matched_density) or np.any(d.unmatched_density)) for d in detectors
    ]
    if not any(known):
        return None
    heights = [
        float(np.max(density, initial=0))
        for d, drawn in zip(detectors, known, strict=True)
        if drawn
        for density in (d.matched_density, d.unmatched_density)
    ]
    top = min(max(heights), MOST_DENSITY) * 1.05
    plots = []
    for detector, name, color, drawn in zip(detectors, names, COLORS, known, strict=False):
        ends = [0.0, 1.0] if len(detector.density_edges) < 2 else [float(detector.density_edges[i]) for i in (0, -1)]
        layout = plain_layout("score", "density", ends, [0, top])
        if not drawn:
            plots.append(Plot(name, [], {**layout, "annotations": [note("no detections")]}))
            continue
        matched, unmatched = detector.matched_density, detector.unmatched_density
        filled = {"fill": "tozeroy", "fillcolor": f"@{color}-wash"}
        data = [
            {**step_trace(detector.density_edges, matched, "matched", {"color": f"@{color}", "width": 2}), **filled},
            step_trace(detector.density_edges, unmatched, "unmatched", {"color": "@muted", "width": 2, "dash": "dash"}),
        ]
        plots.append(Plot(name, data, layout))
    legend = [LegendEntry("matched", color, filled=True) for color in COLORS[: len(plots)]]
    if len(plots) > 1:
        legend = [LegendEntry(f"matched, {n}", c, filled=True) for n, c in zip(names, COLORS, strict=False)]
    legend.append(LegendEntry("unmatched", "muted", "dash"))
    cut = f" The axis ends at {MOST_DENSITY}; higher peaks are cut." if max(heights) > MOST_DENSITY else ""
    caption = (
        "Scores of the boxes that found an object and of those that found none; each area is 1. The less the two "
        f"overlap, the better one threshold tells true boxes from false ones.{cut}"
    )
    return Chart("densities", "Scores of matched and unmatched boxes", caption, plots, legend, wide=len(plots) > 1)


def _unmatched(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    data: list[dict[str, Any]] = []
    for detector, name, color in zip(detectors, names, COLORS, strict=False):
        if not len(detector.unmatched_iou):
            continue
        kept = evenly(len(detector.unmatched_iou), MAX_STEPS)
        x, y = np.asarray(detector.unmatched_iou)[kept], np.asarray(detector.unmatched_share)[kept]
        trace = line_trace(x, y, name, {"color": f"@{color}", "width": 2, "shape": "hv"})
        trace["hovertemplate"] = "best IoU at most %{x:.2f}:<br>%{y:.1%} of unmatched boxes"
        data.append(trace)
    if not data:
        return None
    layout = plain_layout("best IoU with an object of the class", "share of unmatched boxes", [0, 1], [0, 1.02])
    caption = (
        "How near unmatched boxes come to an object of their class. A rise at 0 is boxes on background or of a wrong "
        "class, one in the middle is loose boxes, and above 0.5 are duplicates, on objects that another box has found."
    )
    return Chart("unmatched", "Where unmatched boxes lie", caption, [Plot("", data, layout)], _detectors_legend(names))


def _errors(detectors: Sequence[DetectorFigures], names: Sequence[str]) -> Chart | None:
    kinds = [kind for kind in KINDS if any(kind in detector.errors for detector in detectors)]
    kinds += [kind for d in detectors for kind in d.errors if kind not in KINDS and kind not in kinds]
    kinds = list(dict.fromkeys(kinds))
    if not kinds:
        return None
    data, most, least = [], 0.0, 0.0
    for detector, name, color in zip(detectors, names, COLORS, strict=False):
        rows = [detector.errors.get(kind, {}) for kind in kinds]
        lost = [plain_number(row.get("ap_lost")) for row in rows]
        counts = [int(plain_number(row.get("count")) or 0) for row in rows]
        shown = [0.0 if value is None else value for value in lost]
        most, least = max([most, *shown]), min([least, *shown])
        text = [f"{n:,}" if v is None else f"{v:.3f} ({n:,})" for v, n in zip(lost, counts, strict=True)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain_text(name),
                "x": shown,
                "y": [plain_text(KINDS.get(kind, kind)) for kind in kinds],
                "text": text,
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": f"@{color}"},
                "hovertemplate": "%{y}: %{text}",
            }
        )
    layout = plain_layout("AP50 lost", "", [least * 1.2, max(most * 1.65, 0.01)], None)
    layout |= {"barmode": "group", "bargap": 0.28, "bargroupgap": 0.05}
    layout["xaxis"] |= {"nticks": 5, "tickangle": 0}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "type": "category"}
    caption = (
        "AP at IoU 0.50 that would be gained if all errors of one kind were put right; in brackets, how many they are. "
        "Each gain is computed alone, so they do not add up. Both is a loose box of the wrong class."
    )
    return Chart("errors", "AP50 lost by kind of error", caption, [Plot("", data, layout)], _detectors_legend(names))


def _detectors_legend(names: Sequence[str]) -> list[LegendEntry]:
    """Whose colour is whose; with one detector there is nothing to tell apart."""
    if len(names) < 2:
        return []
    return [LegendEntry(name, color, filled=True) for name, color in zip(names, COLORS, strict=True)]
