"""Overrides that make a recipe of each architecture small: for tests that need a network, not the network."""

from __future__ import annotations

from typing import Any

from alignrank.weights.recipe import load_recipe

_CSP = {"model.backbone": "csp", "model.freeze": 0, "model.norm": "learn", "neck.width": 32}
_FORMS: dict[str, dict[str, Any]] = {
    "reppoints": _CSP | {"head.groups": 8},
    "retinanet": _CSP,
    "varifocalnet": _CSP | {"head.groups": 8},
}


def tiny_form(name: str) -> dict[str, Any]:
    """Of a recipe."""
    return {"model.size": "t"} | _FORMS.get(load_recipe(name).detector, {})
