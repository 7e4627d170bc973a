"""What each figure is called, means, and which way it should go; how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignrank.report.content import Difference, ReportContent

DASH = "–"
MINUS = "−"

# key: (name, one sentence on what the value means and what is good)
FIGURES: Mapping[str, tuple[str, str]] = {
    "ap": ("AP", "Average precision over IoU 0.50 to 0.95 and all classes: 1 is perfect, higher is better."),
    "ap50": ("AP50", "Average precision where IoU 0.50 is enough: loose boxes pass; higher is better."),
    "ap75": ("AP75", "Average precision where a box must reach IoU 0.75: higher means more well-fitting boxes."),
    "ap_small": ("AP, small", "AP of objects below 32² pixels; higher is better."),
    "ap_medium": ("AP, medium", "AP of objects from 32² to 96² pixels; higher is better."),
    "ap_large": ("AP, large", "AP of objects above 96² pixels; higher is better."),
    "ar1": ("AR1", "Mean recall with one detection per image and class; higher is better."),
    "ar10": ("AR10", "Mean recall with ten detections per image and class; higher is better."),
    "ar100": ("AR100", "Mean recall with all detections that count; higher is better."),
    "ar_small": ("AR, small", "Mean recall of objects below 32² pixels; higher is better."),
    "ar_medium": ("AR, medium", "Mean recall of objects from 32² to 96² pixels; higher is better."),
    "ar_large": ("AR, large", "Mean recall of objects above 96² pixels; higher is better."),
    "lrp": (
        "oLRP",
        "Loose boxes, false boxes and misses in one error, at the best threshold: 0 is perfect, lower is better.",
    ),
    "lrp_loc": ("oLRP, localization", "Mean of 1 − IoU over the true boxes at that threshold; lower is better."),
    "lrp_fp": ("oLRP, false boxes", "Share of boxes at that threshold that are false; lower is better."),
    "lrp_fn": ("oLRP, misses", "Share of objects missed at that threshold; lower is better."),
    "lrp_small": ("oLRP, small", "oLRP of objects below 32² pixels; lower is better."),
    "lrp_medium": ("oLRP, medium", "oLRP of objects from 32² to 96² pixels; lower is better."),
    "lrp_large": ("oLRP, large", "oLRP of objects above 96² pixels; lower is better."),
    "rank.spearman": (
        "Score–IoU correlation",
        "Rank correlation of score and IoU of boxes on objects: 1 if the best-scored fit best, 0 if by chance.",
    ),
    "rank.spearman_true": (
        "The same, true boxes",
        "Rank correlation of score and IoU over the true boxes alone, one for each object found; 1 is best.",
    ),
    "rank.spearman_true_class_mean": (
        "The same, mean over classes",
        "Mean of each class's rank correlation over true boxes: classes scored higher as a whole do not move it.",
    ),
    "rank.kendall": (
        "Kendall's tau",
        "Share of pairs of boxes on objects in the right order minus that in the wrong one: 1 is best, 0 is chance.",
    ),
    "rank.pearson": ("Pearson's correlation", "Linear correlation of score and IoU of boxes on objects; 1 is best."),
    "rank.misranked": (
        "Mis-ranked pairs",
        "Of two boxes on one object, how often the worse one scores higher: 0 is best, 0.5 is chance.",
    ),
    "rank.misranked_nms65": (
        "Mis-ranked after NMS at 0.65",
        "The same once every detector's boxes are suppressed at IoU 0.65, so that duplicates do not count: 0 is best.",
    ),
    "rank.best_box_missed": (
        "Best box not chosen",
        "Share of objects whose best-scored box is not the best-fitting one on them: lower is better.",
    ),
    "rank.iou_lost": (
        "IoU lost by it",
        "Mean over objects of the best box's IoU minus the chosen one's; lower is better.",
    ),
    "rank.ap_oracle": ("AP with ideal ranking", "AP if the same boxes were scored by their IoU; higher is better."),
    "rank.ap_lost_ranking": (
        "AP lost to ranking",
        "AP that the same boxes would gain if they were scored by their IoU: lower is better.",
    ),
    "rank.ap_lost_within": (
        "AP lost within objects",
        "The part of it that the order of one object's boxes would bring: lower is better.",
    ),
    "rank.ap_lost_between": (
        "AP lost between objects",
        "The part that the order of different objects' first boxes would bring after that: lower is better.",
    ),
    "rank.ap_lost_false": (
        "AP lost to false boxes",
        "The rest: false boxes above true ones, less the duplicates that an order by IoU lifts; can be negative.",
    ),
    "rank.ap_suppressed": ("AP without duplicates", "AP if each object found kept one box alone; higher is better."),
    "rank.ap_lost_duplicates": (
        "AP lost to duplicates",
        "AP that would be gained if each object found kept one box alone: lower is better.",
    ),
    "rank.duplicates_70": (
        "Duplicates",
        "Share of boxes (above each class's best threshold) on a better-scored one, IoU above 0.70: lower is better.",
    ),
    "rank.duplicates_90": (
        "Duplicates at 0.90",
        "The same for almost equal boxes, of IoU above 0.90; lower is better.",
    ),
    "rank.laece": (
        "Calibration error (LaECE)",
        "Mean gap between score and IoU (0 for false boxes): lower is better, at 0 a score tells how well a box fits.",
    ),
    "rank_before_nms.misranked": ("Mis-ranked pairs", "The same among all boxes that NMS was given; lower is better."),
    "rank_before_nms.best_box_missed": ("Best box not chosen", "The same among all boxes that NMS was given."),
    "rank_before_nms.iou_lost": ("IoU lost by it", "The same among all boxes that NMS was given; lower is better."),
    "rank_before_nms.suppressed": (
        "Best box suppressed",
        "Share of objects whose best box NMS dropped for a worse one; lower is better.",
    ),
}
HEADLINES = (
    "ap",
    "ap75",
    "lrp",
    "rank.spearman",
    "rank.misranked",
    "rank.best_box_missed",
    "rank.ap_lost_ranking",
    "rank.ap_lost_duplicates",
    "rank.laece",
    "rank.duplicates_70",
)
_LOWER = ("lrp", "misranked", "best_box_missed", "iou_lost", "ap_lost_", "duplicates_", "laece", "suppressed")
_NESTED = ("rank", "rank_before_nms")
_OPTIONS = ("max_dets",)  # numbers beside the figures, but none themselves


def name_of(key: str) -> str:
    return FIGURES[key][0] if key in FIGURES else key.rpartition(".")[2].replace("_", " ")


def meaning_of(key: str) -> str:
    return FIGURES[key][1] if key in FIGURES else ""


def lower_is_better(key: str) -> bool:
    return key.rpartition(".")[2].startswith(_LOWER)


def value_of(metrics: Mapping[str, Any], key: str) -> float | None:
    """The figure `key` ("ap", "rank.spearman") as a plain number, None where absent or undefined."""
    family, _, name = key.rpartition(".")
    part = metrics.get(family) if family else metrics
    return plain_number(part.get(name)) if isinstance(part, Mapping) else None


def plain_number(value: Any) -> float | None:
    """None for None, NaN, infinities and what is no number; numpy's numbers become plain ones."""
    if value is None or isinstance(value, str | bytes | Mapping | list | tuple):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def keys_of(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every scalar figure that some of the dictionaries names, the known ones first and in their order."""
    found: dict[str, None] = {}
    for figures in metrics:
        for key, value in figures.items():
            if key in _NESTED:
                found |= dict.fromkeys(f"{key}.{name}" for name in value or ())
            elif key not in _OPTIONS and not isinstance(value, str | bytes | Mapping | list | tuple):
                found[key] = None
    return [key for key in FIGURES if key in found] + [key for key in found if key not in FIGURES]


def written(value: Any, *, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash where undefined."""
    number = plain_number(value)
    if number is None:
        return DASH
    text = f"{number:.3f}"
    if float(text) == 0:
        text = "0.000"
    return ("+" if signed and float(text) > 0 else "") + text.replace("-", MINUS)


def counted(number: Any, noun: str) -> str:
    """`1,204 boxes`; the noun is given in the singular and takes an s."""
    plural = {"box": "boxes", "class": "classes"}.get(noun, f"{noun}s")
    return f"{int(number):,} {noun if int(number) == 1 else plural}"


def difference_of(content: ReportContent, key: str) -> Difference | None:
    """The given difference; else the plain one without an interval; None with one detector or undefined figures."""
    if len(content.detectors) < 2:
        return None
    given = content.differences.get(key)
    if given is not None and plain_number(given.difference) is not None:
        return given
    first, second = (value_of(detector.metrics, key) for detector in content.detectors)
    return None if first is None or second is None else Difference(second - first, None, None)


def interval(difference: Difference | None) -> str:
    """`−0.010 to +0.020`, or a dash."""
    if difference is None or plain_number(difference.low) is None or plain_number(difference.high) is None:
        return DASH
    return f"{written(difference.low, signed=True)} to {written(difference.high, signed=True)}"


def verdict(difference: Difference | None, key: str) -> str:
    """ "better", "worse" or "no clear difference" (the interval holds 0); "" where no interval tells."""
    if difference is None:
        return ""
    low, high = plain_number(difference.low), plain_number(difference.high)
    if low is None or high is None:
        return ""
    if low <= 0 <= high:
        return "no clear difference"
    return "better" if (high < 0) == lower_is_better(key) else "worse"


def labels_of(content: ReportContent) -> tuple[str, ...]:
    """The detectors' names, told apart where they are the same."""
    names = [detector.name for detector in content.detectors]
    if len(set(names)) < len(names):
        return tuple(f"{name} ({place})" for name, place in zip(names, ("first", "second"), strict=True))
    return tuple(names)
