"""Which predictions are responsible for which objects."""

from alignrank.assign.atss import atss
from alignrank.assign.fcos import fcos
from alignrank.assign.hungarian import detr_cost, high_order_cost, match, match_all
from alignrank.assign.max_iou import max_iou
from alignrank.assign.nearest_point import nearest_point
from alignrank.assign.task_aligned import AlignedPairs, Assignment, aligned_pairs, task_aligned

__all__ = [
    "AlignedPairs",
    "Assignment",
    "aligned_pairs",
    "atss",
    "detr_cost",
    "fcos",
    "high_order_cost",
    "match",
    "match_all",
    "max_iou",
    "nearest_point",
    "task_aligned",
]
