"""Which predictions are responsible for which objects."""

from alignrank.assign.task_aligned import Assignment, task_aligned

__all__ = ["Assignment", "task_aligned"]
