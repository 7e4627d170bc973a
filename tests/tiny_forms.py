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
_TRANSFORMER: dict[str, Any] = {
    "model.backbone": "csp",
    "model.freeze": 0,
    "model.norm": "learn",
    "model.drop_path": 0.0,
    "model.checkpointing": False,
    "transformer.width": 32,
    "transformer.heads": 4,
    "transformer.points": 2,
    "transformer.encoder": 1,
    "transformer.decoder": 3,
    "transformer.hidden": 64,
    "transformer.checkpointing": False,
    "queries.one_to_one": 20,
    "train.imgsz": 64,
    "train.batch": 4,
}
_FORMS: dict[str, dict[str, Any]] = {
    "deformable_detr": _TRANSFORMER,
    "dino": _TRANSFORMER | {"denoising.queries": 10},
    "reppoints": _CSP | {"head.groups": 8},
    "retinanet": _CSP,
    "varifocalnet": _CSP | {"head.groups": 8},
}


FINE = "+fine"


def tiny_form(name: str) -> dict[str, Any]:
    """Of a recipe; of one with FINE in its neck where the name ends so."""
    recipe = load_recipe(recipe_of(name))
    form = {"model.size": "t"} | _FORMS.get(recipe.detector, {}) | ({"neck.fine": True} if name.endswith(FINE) else {})
    many = getattr(getattr(recipe.architecture, "queries", None), "one_to_many", 0)
    return form | ({"queries.one_to_many": 30} if many else {})


def recipe_of(name: str) -> str:
    """Its name without FINE."""
    return name.removesuffix(FINE)


def fine_hosts() -> list[str]:
    """The names of the distinct recipes whose necks have FINE, with it."""
    return [f"{name}{FINE}" for name in distinct_recipes() if hasattr(load_recipe(name).architecture, "neck")]


def distinct_recipes() -> list[str]:
    """One recipe of each tiny architecture: some differ only in what a tiny form leaves out (schedules, depth)."""
    forms = {str(load_recipe(name, overrides=tiny_form(name)).architecture): name for name in recipe_names()[::-1]}
    return sorted(forms.values())
