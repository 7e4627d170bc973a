"""Detectors that other libraries have published as weights of ours, with their own classes or those of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.recipe import Recipe, load_recipe

# Names of COCO's classes that Pascal VOC and darknet call otherwise, without spaces.
OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def published(
    recipe: Recipe, overrides: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> Checkpoint | None:
    """The detector that the recipe's `model.pretrained` names; None where it names none, or a backbone only.

    overrides: those that the recipe was made with. classes: in place of its own; heads are kept where they are the
    same, else they are random. Raises InputError where it cannot be had.
    """
    found, names = recipe.as_published(overrides or {})
    if not names:
        return None
    wanted = tuple(classes or names)
    found = _kept(found.for_classes(len(wanted)), names, wanted)
    model = DETECTORS[found.detector].model(found.architecture)
    return Checkpoint(model.state_dict(), found.without_pretrained(), wanted, {}, Path(recipe.name))


def published_model(name: str, where: str = "--model") -> Checkpoint:
    """The detector that a recipe's authors have published, from the hub. Raises InputError for recipes without one."""
    overrides = {"model.pretrained": "hub"}
    recipe = load_recipe(name, where=where)
    if DETECTORS[recipe.detector].published is None:
        raise InputError(f"{where}: {name} has no published weights; train it, then give --weights")
    found = published(load_recipe(name, overrides=overrides, where=where), overrides)
    assert found is not None
    return found


def for_data(recipe: Recipe, classes: Sequence[str]) -> Recipe:
    """The recipe for a data set's classes: heads of a published detector are kept where its classes are these."""
    names = recipe.as_published({})[1]
    return _kept(recipe.for_classes(len(classes)), names, classes)


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether these are the same classes in the same order, however they are written."""
    return [_plain(name) for name in first] == [_plain(name) for name in second]


def _plain(name: str) -> str:
    plain = name.casefold().replace(" ", "").replace("_", "").replace("-", "")
    return OTHER_NAMES.get(plain, plain)


def _kept(recipe: Recipe, names: Sequence[str], classes: Sequence[str]) -> Recipe:
    if not names or len(names) != len(classes) or same_classes(names, classes):
        return recipe
    values = recipe.architecture.model_dump()
    values["model"]["keep_classes"] = False
    return replace(recipe, architecture=type(recipe.architecture).parse(values, where="model.keep_classes"))
