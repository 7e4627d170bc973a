"""A training run, from options to results."""
