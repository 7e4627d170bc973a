"""Which predictions are responsible for which objects."""

from alignrank.assign.atss import atss
from alignrank.assign.fcos import fcos
from alignrank.assign.max_iou import max_iou
from alignrank.assign.nearest_point import nearest_point
from alignrank.assign.task_aligned import Assignment, task_aligned

__all__ = ["Assignment", "atss", "fcos", "max_iou", "nearest_point", "task_aligned"]
