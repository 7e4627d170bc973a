"""Searching a recipe's options for the best figure on the validation split."""

from alignrank.extras import require

# Before a training is imported, which would name the extra train.
require("tune", "optuna", "lightning", "defusedxml", "scipy", "matplotlib", "plotly")

from alignrank.tuning.study import tune  # noqa: E402

__all__ = ["tune"]
