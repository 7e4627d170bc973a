"""Plots of a training and of an evaluation, as PNG files.

Shape letters: K classes, X confidence thresholds, R recalls.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.drawing import color, readable
from alignrank.report.plot_parts import FAINT, INK, new_figure, outside_legend, saved, styled, titled

Array = np.ndarray[Any, Any]
Log = Mapping[str, Any]

_MEAN = "#0f172a"
_FIGURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
# Panels of further figures, and what a line in them is called.
_GROUPS = {
    "oLRP, lower is better": {"lrp": "oLRP"},
    "score-IoU correlation": {
        "spearman": "Spearman",
        "spearman_true": "Spearman, true boxes",
        "spearman_true_class_mean": "the same, mean of classes",
    },
    "wrong order, share": {"misranked": "mis-ranked pairs", "best_box_missed": "best box not chosen"},
    "AP lost to": {
        "ap_lost_ranking": "ranking, in all",
        "ap_lost_within": "order within objects",
        "ap_lost_between": "order between objects",
        "ap_lost_false": "false boxes",
        "ap_lost_duplicates": "duplicates",
    },
    "boxes, lower is better": {"duplicates_70": "duplicates, IoU > .7", "laece": "LaECE"},
}
_MANY = 10  # classes, above which lines are no longer told apart by colour


def plot_training(log: str | PathLike[str] | Iterable[Log], path: str | PathLike[str]) -> Path:
    """Losses, AP figures and learning rate over the epochs; the epoch of best AP is marked.

    log: path of a CSV, or rows {epoch, train/<loss>, val/<loss>, val/ap, val/ap50, val/ap75, lr...}.
    Rows of one epoch are merged, blank and absent values left out. One panel for each loss name, one
    for the AP figures, some for the ranking figures, one for each other `val/` name and for the learning rates.
    Raises ValueError if no row carries an epoch.
    """
    series = _series(log)
    if not series:
        raise ValueError("the training log holds no figures by epoch: nothing to plot")
    panels = _panels(series)
    ap = series.get("val/ap", {})
    best = max(ap, key=lambda epoch: (ap[epoch], -epoch)) if ap else None
    columns = min(3, len(panels))
    figure, axes = new_figure(len(panels), columns, width=4.3, height=2.9)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(names):
            epochs = sorted(series[name])
            values = [series[name][e] for e in epochs]
            marker = "o" if len(epochs) == 1 else None
            axis.plot(epochs, values, color=color(i), linewidth=1.8, label=_label(name), marker=marker)
        styled(axis, title, "epoch", _unit(title))
        if title == "average precision":
            axis.set_ylim(0, 1)
        if title == "learning rate":
            axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if best is not None:
            axis.axvline(best, color=INK, linewidth=1, linestyle=(0, (2, 2)), alpha=0.6)
        if title == "average precision" and best is not None:
            axis.plot([best], [ap[best]], "o", color=INK, markersize=5, zorder=5)
            axis.plot([], [], " ", label=f"best: {ap[best]:.3f} at epoch {best}")
        if len(names) > 1 or title == "average precision":
            axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    return saved(figure, path)


def plot_precision_recall(
    recalls: Array, precision: Array, names: Sequence[str], path: str | PathLike[str], *, iou: float = 0.5
) -> Path:
    """Precision [K,R] at `recalls` [R] for each class and their mean; the legend tells AP at that IoU.

    Rows of NaN (classes without ground truth) are left out. Above ten classes, the lines are grey and
    only the best and the worst three are named.
    """
    names = readable(names)
    figure, (axis,) = new_figure(1, 1, width=7.4, height=4.6)
    shown = np.flatnonzero(~np.isnan(precision).any(1))
    _class_lines(axis, recalls, precision, names, shown, scores=precision.mean(1))
    if len(shown):
        mean = precision[shown].mean(0)
        axis.plot(recalls, mean, color=_MEAN, linewidth=2.8, label=f"mean of {len(shown)}  {mean.mean():.3f}", zorder=4)
    styled(axis, f"Precision and recall at IoU {iou:.2f}", "recall (fraction of objects)", "precision (fraction)")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    outside_legend(axis, f"AP at IoU {iou:.2f}")
    return saved(figure, path, names)


def plot_f1(
    thresholds: Array, precision: Array, recall: Array, f1: Array, names: Sequence[str], path: str | PathLike[str]
) -> Path:
    """What a confidence threshold gives: F1 by class, and mean precision, recall and F1.

    thresholds [X]; precision, recall, f1 [K,X], NaN where undefined. The best mean F1 is marked.
    """
    names = readable(names)
    figure, (mean_axis, class_axis) = new_figure(2, 2, width=6.0, height=4.2)
    means = {"precision": _mean(precision), "recall": _mean(recall), "F1": _mean(f1)}
    for i, (name, values) in enumerate(means.items()):
        style = {"color": _MEAN, "linewidth": 2.8} if name == "F1" else {"color": color(i), "linewidth": 1.6}
        mean_axis.plot(thresholds, values, label=name, **style)
    styled(mean_axis, "Mean over classes", "confidence threshold", "fraction")
    styled(class_axis, "F1 by class", "confidence threshold", "F1")
    shown = np.flatnonzero(~np.isnan(f1).any(1))
    best = np.where(np.isnan(f1), -1, f1).max(1, initial=-1)
    _class_lines(class_axis, thresholds, f1, names, shown, scores=best)
    if len(shown):
        ties = np.flatnonzero(means["F1"] >= means["F1"].max() - 1e-12)
        top = ties[len(ties) // 2]
        label = f"best F1 {means['F1'][top]:.3f} at {thresholds[top]:.3f}"
        mean_axis.plot(thresholds[top], means["F1"][top], "o", color=INK, markersize=6, label=label, zorder=5)
        for axis in (mean_axis, class_axis):
            axis.axvline(thresholds[top], color=INK, linewidth=1, linestyle=(0, (2, 2)), alpha=0.6)
    mean_axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    for axis in (mean_axis, class_axis):
        axis.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.02))
    outside_legend(class_axis, "best F1 of the class")
    return saved(figure, path, names)


def plot_confusion(matrix: Array, names: Sequence[str], path: str | PathLike[str]) -> Path:
    """matrix [K+1,K+1] counts, row true, column predicted, background last; shaded by the row's share.

    The counts are written into the cells up to 30 classes. Raises ValueError if the shape is another.
    """
    kinds = len(names)
    if matrix.shape != (kinds + 1, kinds + 1):
        raise ValueError(f"matrix has shape {matrix.shape}, expected {(kinds + 1, kinds + 1)} for {kinds} classes")
    names = readable(names)
    cell = float(np.clip(13 / (kinds + 1), 0.16, 0.62))  # inches
    side = float(np.clip(cell * (kinds + 1), 3, 40))
    figure, (axis,) = new_figure(1, 1, width=side + 2.6, height=side + 1.4)
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    font = min(9.0, 72 * cell * 0.6)  # points
    labels = [*map(_cut, names), "background"]
    ticks = range(kinds + 1)
    axis.set_xticks(ticks, labels, rotation=90 if kinds > 6 else 30, ha="center" if kinds > 6 else "right")
    axis.set_yticks(ticks, labels)
    axis.tick_params(labelsize=font, length=0, colors=INK)
    if kinds <= 30:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                ink = "white" if share[row, column] > 0.55 else INK
                axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=font, color=ink)
    axis.set_xticks(np.arange(kinds + 2) - 0.5, minor=True)
    axis.set_yticks(np.arange(kinds + 2) - 0.5, minor=True)
    axis.grid(which="minor", color="#e2e8f0", linewidth=1.0 if kinds <= 20 else 0.5)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    titled(axis, "Confusion matrix", "predicted class", "true class")
    bar = figure.colorbar(image, ax=axis, shrink=min(1.0, 5 / side), aspect=24, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("share of the row", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    return saved(figure, path, names)


def _series(log: str | PathLike[str] | Iterable[Log]) -> dict[str, dict[int, float]]:
    """{name: {epoch: value}} of all numbers in the log."""
    if isinstance(log, str | PathLike):
        with Path(log).open(newline="", encoding="utf-8") as file:
            rows: list[Log] = list(csv.DictReader(file))
    else:
        rows = list(log)
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        epoch = _number(row.get("epoch"))
        for name, text in row.items() if epoch is not None else ():
            value = _number(text)
            if value is not None and name not in ("epoch", "step"):
                series.setdefault(name, {})[round(epoch or 0)] = value
    return series


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _panels(series: Mapping[str, Any]) -> dict[str, list[str]]:
    """{title: names}: total loss first, further losses, AP, ranking, what else was validated, learning rate."""
    rates = [n for n in series if n.split("/")[-1].split("-")[0] in ("lr", "learning_rate") or n.startswith("lr")]
    parts = sorted(n for n in series if n.startswith("train/") and n not in rates)
    losses = sorted((n.removeprefix("train/") for n in parts), key=lambda n: (n not in ("loss", "total"), n))
    panels = {f"{n.removesuffix('_loss')} loss": [f"train/{n}", f"val/{n}"] for n in losses}
    panels["loss"] = panels.pop("loss loss", [])
    panels = {"loss": panels.pop("loss"), **panels}
    panels["average precision"] = [f"val/{n}" for n in _FIGURES]
    panels |= {title: [f"val/{n}" for n in names] for title, names in _GROUPS.items()}
    grouped = {name for names in panels.values() for name in names}
    panels |= {n.removeprefix("val/"): [n] for n in series if n.startswith("val/") and n not in grouped | set(rates)}
    panels["learning rate"] = rates
    present = {title: [n for n in names if n in series] for title, names in panels.items()}
    return {title: names for title, names in present.items() if names}


def _unit(title: str) -> str:
    if title == "average precision" or title in _GROUPS:
        return "fraction of 1"
    return "loss" if title.endswith("loss") else title


def _label(name: str) -> str:
    part, _, rest = name.partition("/")
    named = _FIGURES | {name: label for group in _GROUPS.values() for name, label in group.items()}
    return named.get(rest, {"train": "training", "val": "validation"}.get(part, name))


def _class_lines(axis: Any, x: Array, y: Array, names: Sequence[str], shown: Array, *, scores: Array) -> None:
    """Lines of the classes `shown`; each named with its score where there are few."""
    order = shown[np.argsort(-scores[shown], kind="stable")]
    few = len(order) <= _MANY
    named = set(order.tolist()) if few else {*order[:3].tolist(), *order[-3:].tolist()}
    for rank, k in enumerate(order.tolist()):
        label = f"{_cut(names[k])}  {scores[k]:.3f}" if k in named else None
        highlight = color(k if few else rank if rank < 3 else max(0, rank - len(order) + 6))
        line = {"color": highlight, "linewidth": 1.6} if k in named else {"color": FAINT, "linewidth": 0.7}
        axis.plot(x, y[k], label=label, zorder=3 if k in named else 2, **line)


def _mean(curves: Array) -> Array:
    """[K,X] -> [X] over the defined rows; NaN where none is."""
    result: Array = np.ma.masked_invalid(curves).mean(0).filled(np.nan)
    return result


def _cut(name: str, length: int = 22) -> str:
    # A dollar sign would start matplotlib's mathematics, a leading underscore hides a legend entry.
    name = name.replace("$", r"\$")
    name = f" {name}" if name.startswith("_") else name
    return name if len(name) <= length else f"{name[: length - 1]}…"
