"""A training run, from options to results."""

from alignrank.extras import require

require("train", "lightning", "defusedxml", "scipy", "matplotlib", "plotly")
