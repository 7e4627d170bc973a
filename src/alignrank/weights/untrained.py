"""Random weights in place of trained ones: to export, run and measure a network before there is anything to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignrank.terminal.progress import warn
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.recipe import Recipe, load_recipe

# Where nobody names classes: as many as parameters and FLOPs are counted with.
NUMBERED_CLASSES = tuple(str(label) for label in range(80))


def random_model(recipe: Recipe) -> Any:
    """The network of a recipe in evaluation mode, all of it random: no pretrained backbone is fetched."""
    return recipe.network().eval()


def untrained(recipe: Recipe, classes: Sequence[str], model: Any = None) -> Checkpoint:
    """Random weights (or those of `model`) as if they had been loaded; its path is the recipe's name."""
    weights = (model or random_model(recipe)).state_dict()
    return Checkpoint(weights, recipe, tuple(classes), {}, Path(recipe.name))


def of_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Checkpoint:
    """Random weights of a recipe, for 80 numbered classes, with a warning. overrides: values by `section.field`."""
    recipe = load_recipe(name, num_classes=len(NUMBERED_CLASSES), overrides=overrides, where="weights")
    warn_of_random_weights()
    return untrained(recipe, NUMBERED_CLASSES)


def warn_of_random_weights() -> None:
    """Whatever comes out of them."""
    warn("random weights: figures and detections mean nothing until the detector is trained")
