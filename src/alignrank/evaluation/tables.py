"""The figures of an evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from alignrank.evaluation.gain_tables import detection_errors_table, gains_table
from alignrank.metrics import Comparison, Metrics
from alignrank.terminal.progress import console, say

# What the terminal shows of each figure: its name there, and how to read it.
SHOWN = {
    "ap": ("AP", "mean over IoU .50 to .95"),
    "ap50": ("AP50", ""),
    "ap75": ("AP75", ""),
    "lrp": ("oLRP", "lower is better; its parts:"),
    "lrp_loc": ("  localization", "mean 1 - IoU of true boxes"),
    "lrp_fp": ("  false boxes", "share of boxes"),
    "lrp_fn": ("  missed objects", "share of objects"),
    "rank.spearman": ("score-IoU Spearman", "1: the score orders boxes by fit"),
    "rank.kendall": ("score-IoU Kendall", ""),
    "rank.pearson": ("score-IoU Pearson", ""),
    "rank.spearman_true": ("Spearman, true boxes", "one box for each object found"),
    "rank.spearman_true_class_mean": ("  mean over classes", "no constant a class moves it"),
    "rank.misranked": ("mis-ranked pairs", "of boxes of one object; .5 is chance"),
    "rank.misranked_nms65": ("  after NMS at .65", "the same for every detector"),
    "rank.best_box_missed": ("best box not chosen", "share of objects"),
    "rank.iou_lost": ("IoU lost by it", "mean over objects"),
    "rank_before_nms.misranked": ("mis-ranked before NMS", ""),
    "rank_before_nms.iou_lost": ("IoU lost before NMS", ""),
    "rank_before_nms.best_box_missed": ("best box not chosen before NMS", ""),
    "rank_before_nms.suppressed": ("best box suppressed", "by NMS, for a worse one: share of objects"),
    "rank.ap_lost_ranking": ("AP lost to ranking", "to AP with IoU as score"),
    "rank.ap_lost_within": ("  within objects", "to the order of one object's boxes"),
    "rank.ap_lost_between": ("  between objects", "to the order of objects' first boxes"),
    "rank.ap_lost_false": ("  false boxes", "the rest: false boxes above true ones"),
    "rank.ap_lost_duplicates": ("AP lost to duplicates", "to AP with one box per object"),
    "rank.duplicates_70": ("duplicates, IoU > .7", "share of boxes above the threshold"),
    "rank.duplicates_90": ("duplicates, IoU > .9", ""),
    "rank.laece": ("LaECE", "score against IoU; 0 is calibrated"),
}


_PLACES = ("first", "second")
_CLASS_HEADINGS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "lrp": "oLRP", "spearman_true": "true"}
_CLASS_HEADINGS |= {"misranked": "mis-ranked"}


def shown(value: float | None) -> str:
    """A figure of merit as people read it."""
    return "-" if value is None else f"{value:.3f}"


def say_figures(metrics: Mapping[str, Metrics], comparison: Comparison | None = None) -> None:
    """Tables of the figures, the kinds of error and the classes of one or two detectors, by name."""
    if comparison is not None:
        for place, name in zip(_PLACES, metrics, strict=True):
            say(f"{place}: {name}")
        metrics = dict(zip(_PLACES, metrics.values(), strict=True))
    tables = [
        _figures(metrics, comparison),
        _errors({name: values.errors for name, values in metrics.items()}),
        _classes({name: values.per_class for name, values in metrics.items()}),
    ]
    if comparison is not None:
        tables += [detection_errors_table(comparison.detection_errors), gains_table(comparison.gains)]
    for table in tables:
        console().print(table)
        console().print()
    for name, values in metrics.items():
        for line in _lines(values):
            say(line if len(metrics) == 1 else f"{name}: {line}")


def say_layers(result: Mapping[str, Any]) -> None:
    """What `layers` found: a row for each decoder layer, and the cost of the network."""
    table = Table("layer", "AP", "AP50", "AP75", "oLRP", "Spearman", "boxes", box=None)
    for row in result["layers"]:
        of = row["metrics"]
        figures = (of["ap"], of["ap50"], of["ap75"], of["lrp"], of["rank"]["spearman"])
        table.add_row(str(row["layer"]), *map(shown, figures), f"{row['detections']:,}")
    console().print(table)
    console().print()
    for line in _cost_lines(result["cost"]):
        say(line)


def _cost_lines(cost: Mapping[str, Any]) -> list[str]:
    height, width = cost["input"]
    in_training, in_use = (cost["parameters"][form] / 1e6 for form in ("training", "deployed"))
    lines = [
        f"parameters  {in_training:.2f} M in training, {in_use:.2f} M as deployed",
        f"GFLOPs      {cost['gflops']:.2f} at {width} x {height}, two for each multiply-add of convolutions and linear "
        "layers",
        f"speed       {cost['images_per_second']:.1f} images a second, one at a time, on {cost['device']}",
    ]
    if "minutes_per_epoch" in cost:
        lines.append(f"training    {cost['minutes_per_epoch']:.1f} minutes an epoch")
    return lines


def _lines(metrics: Metrics) -> list[str]:
    """COCO's figures that the table leaves out, and the operating points."""
    values = metrics.to_dict()
    rest = ("ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
    lines = ["  ".join(f"{name.upper().replace('_', ' ')} {shown(values[name])}" for name in rest)]
    for name, point in metrics.operating_points.items():
        if point is not None:
            figures = "  ".join(f"{key} {shown(point[key])}" for key in ("precision", "recall", "f1"))
            counts = "  ".join(f"{key.upper()} {point[key]:,}" for key in ("tp", "fp", "fn"))
            title = "at score" if name == "chosen" else "best F1, at score"
            lines.append(f"{title} {shown(point['threshold'])}: {counts}  {figures}")
    return lines


def _figures(metrics: Mapping[str, Metrics], comparison: Comparison | None) -> Table:
    scalars = [values.scalars() for values in metrics.values()]
    # Beside an interval there is no room for explanations on a terminal of 80 columns.
    last = "" if comparison is None else "second - first, 95 % interval"
    table = Table("figure", *(metrics if comparison else ["value"]), last, box=None)
    for name, (label, meaning) in SHOWN.items():
        if any(name in values for values in scalars):
            cells = [shown(values.get(name)) for values in scalars]
            table.add_row(label, *cells, meaning if comparison is None else _shown_difference(comparison, name))
    return table


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [f"{name} " for name in errors] if len(errors) > 1 else [""]
    table = Table("AP50 lost to", *(f"{name}{what}" for name in names for what in ("AP50", "count")), box=None)
    for kind in next(iter(errors.values())):
        rows = [of[kind] for of in errors.values()]
        table.add_row(kind, *(cell for row in rows for cell in (shown(row["ap_lost"]), f"{row['count']:,}")))
    return table


def _classes(per_class: Mapping[str, Mapping[Any, Any]]) -> Table:
    several = len(per_class) > 1
    names = [f"{name} " for name in per_class] if several else [""]
    keys: tuple[str, ...] = ("ap", "lrp", "threshold")
    if not several:
        keys = ("ap", "ap50", "ap75", "lrp", "threshold", "spearman", "spearman_true", "misranked")
    table = Table("class", *(f"{name}{_CLASS_HEADINGS.get(key, key)}" for name in names for key in keys), box=None)
    for category, first in next(iter(per_class.values())).items():
        cells = [shown(of[category][key]) for of in per_class.values() for key in keys]
        table.add_row(str(first["name"]), *cells)
    return table


def _shown_difference(comparison: Comparison, name: str) -> str:
    interval = comparison.figures.get(name)
    if interval is None or interval.difference is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.difference:+.3f}"
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
