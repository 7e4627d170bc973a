"""Overrides that make a recipe of each architecture small: for tests that need a network, not the network."""

from __future__ import annotations

from typing import Any

from alignrank.weights.catalog import recipe_names
from alignrank.weights.recipe import load_recipe

# Towers of two convolutions: with `dcn` the last one is deformable, the other is not.
_CSP = {
    "model.backbone": "csp",
    "model.freeze": 0,
    "model.norm": "learn",
    "neck.width": 32,
    "head.convs": 2,
    "train.imgsz": 64,
}
_FORMS: dict[str, dict[str, Any]] = {
    "reppoints": _CSP | {"head.groups": 8},
    "retinanet": _CSP,
    "varifocalnet": _CSP | {"head.groups": 8},
}


def tiny_form(name: str) -> dict[str, Any]:
    """Of a recipe."""
    return {"model.size": "t"} | _FORMS.get(load_recipe(name).detector, {})


def distinct_recipes() -> list[str]:
    """One recipe of each tiny architecture: some differ only in what a tiny form leaves out (schedules, depth)."""
    forms = {str(load_recipe(name, overrides=tiny_form(name)).architecture): name for name in recipe_names()[::-1]}
    return sorted(forms.values())
