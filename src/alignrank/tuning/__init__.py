"""Searching a recipe's options for the best figure on the validation split."""

from alignrank.tuning.study import tune

__all__ = ["tune"]
