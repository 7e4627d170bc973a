"""The record that an evaluation returns: every figure under the name it has in JSON, logs and tables."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from alignrank.metrics.inputs import Id

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures are fractions in 0..1 (correlations -1..1), None where nothing defines them (no object of that size).

    ap: mean over IoU .50:.05:.95; ap50, ap75: at one IoU; ap_*: by the object's area (small below 32^2
    px^2, medium below 96^2, large above). ar1, ar10, ar100: mean recall with at most 1, 10 and
    `max_dets` detections per image and class; ar_*: the last by area.
    lrp: optimal LRP, lower is better; lrp_loc, lrp_fp, lrp_fn: its parts; lrp_*: by area.
    per_class: {category id: {name, ap, ap50, ap75, ap_small, ap_medium, ap_large, ar100, lrp, lrp_loc, lrp_fp, lrp_fn,
    threshold, spearman, kendall, pearson, spearman_true, misranked, best_box_missed, iou_lost}}.
    rank: {spearman, kendall, pearson, spearman_true, spearman_true_class_mean, misranked, best_box_missed, iou_lost,
    misranked_nms65, ap_oracle, ap_lost_ranking, ap_lost_within, ap_lost_between, ap_lost_false, ap_suppressed,
    ap_lost_duplicates, duplicates_70, duplicates_90, laece}; docs/rank-report.md defines each.
    rank_by_size: {small, medium, large: {spearman, kendall, pearson, misranked, best_box_missed, iou_lost}}.
    rank_before_nms: {misranked, best_box_missed, iou_lost, suppressed}, where the candidates were kept, else None.
    errors: {kind: {count, ap_lost, share}} at IoU .5. operating_points: {chosen, best} of {threshold, tp, fp, fn,
    precision, recall, f1}. max_dets: detections that counted per image and class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    lrp: float | None
    lrp_loc: float | None
    lrp_fp: float | None
    lrp_fn: float | None
    lrp_small: float | None
    lrp_medium: float | None
    lrp_large: float | None
    max_dets: int
    rank: Figures
    rank_before_nms: Figures | None = field(repr=False)
    rank_by_size: dict[str, Figures] = field(repr=False)
    errors: dict[str, dict[str, Any]] = field(repr=False)
    operating_points: dict[str, Figures | None] = field(repr=False)
    per_class: dict[Id, dict[str, Any]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and dictionaries, ready for JSON; undefined figures are None."""
        return {f.name: _copied(getattr(self, f.name)) for f in fields(self)}

    def scalars(self) -> Figures:
        """The figures above one another: {ap: ..., lrp: ..., rank.spearman: ...}; what is logged and compared."""
        flat: Figures = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("rank", "rank_before_nms"):
                flat |= {f"{f.name}.{name}": figure for name, figure in (value or {}).items()}
            elif f.name != "max_dets" and not isinstance(value, dict):
                flat[f.name] = value
        return flat


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value
