"""Detectors that other libraries have published as weights of ours, with their own classes or those of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.plug.published import HUB, Published
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.coco_names import COCO_IDS, COCO_NAMES
from alignrank.weights.recipe import Recipe, load_recipe

# Names of COCO's classes that Pascal VOC and darknet call otherwise, without spaces.
OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
}
# How channels are called that are no class, plain.
NO_CLASS = ("n/a", "")
_NUMBERED = re.compile(r"LABEL_\d+")  # the library's own names, where nobody has given others


def published(
    recipe: Recipe, overrides: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
) -> Checkpoint | None:
    """The detector that the recipe's `model.pretrained` names; None where it names none, or a backbone only.

    overrides: those that the recipe was made with. classes: in place of its own; heads are kept where they are the
    same, else they are random. Raises InputError where it cannot be had.
    """
    found, said = recipe.as_published(overrides or {})
    if said is None:
        return None
    wanted = tuple(classes or class_channels(said.channels)[0])
    found = _for_classes(found, said, wanted)
    model = DETECTORS[found.detector].model(found.architecture)
    return Checkpoint(model.state_dict(), found.without_pretrained(), wanted, {}, Path(recipe.name))


def published_model(name: str, pretrained: str | None = None, where: str = "--model") -> Checkpoint:
    """The detector that a recipe's authors have published. pretrained: `hub`, or what is read in its place, as in the
    recipe; None: what the recipe says, else the hub. Raises InputError for recipes without one.
    """
    recipe = load_recipe(name, where=where)
    if DETECTORS[recipe.detector].published is None:
        raise InputError(f"{where}: {name} has no published weights; train it, then give --weights")
    architecture: Any = recipe.architecture
    overrides = {"model.pretrained": pretrained or architecture.model.pretrained or HUB}
    found = published(load_recipe(name, overrides=overrides, where=where), overrides)
    assert found is not None
    return found


def for_data(recipe: Recipe, classes: Sequence[str]) -> Recipe:
    """The recipe for a data set's classes: heads of a published detector are kept where its classes are these."""
    return _for_classes(recipe, recipe.as_published({})[1], classes)


def class_channels(channels: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the channels of published class heads -> names of the classes, and the channels that are none.

    Those called N/A are none. Where there is a channel for each of COCO's numbers, 0 to 90, the classes are COCO's 80,
    also where channels have no names, or the gaps have those of classes that COCO has dropped.
    """
    if len(channels) == COCO_IDS[-1] + 1:
        used, numbered = [channels[i] for i in COCO_IDS], all(_NUMBERED.fullmatch(name) for name in channels)
        if numbered or same_classes(used, COCO_NAMES):
            gaps = tuple(sorted(set(range(len(channels))) - set(COCO_IDS)))
            return COCO_NAMES if numbered else tuple(used), gaps
    unnamed = tuple(i for i, name in enumerate(channels) if _plain(name) in NO_CLASS)
    if len(unnamed) == len(channels):
        raise InputError("model.pretrained: config.json: id2label names no class")
    return tuple(name for i, name in enumerate(channels) if i not in unnamed), unnamed


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether these are the same classes in the same order, however they are written."""
    return [_plain(name) for name in first] == [_plain(name) for name in second]


def _plain(name: str) -> str:
    plain = name.casefold().replace(" ", "").replace("_", "").replace("-", "")
    return OTHER_NAMES.get(plain, plain)


def _for_classes(recipe: Recipe, said: Published | None, classes: Sequence[str]) -> Recipe:
    recipe = recipe.for_classes(len(classes))
    if said is None:
        return recipe
    names, unnamed = class_channels(said.channels)
    values = recipe.architecture.model_dump()
    values["model"] |= {"unnamed": list(unnamed)} if same_classes(names, classes) else {"keep_classes": False}
    return replace(recipe, architecture=type(recipe.architecture).parse(values, where="model.keep_classes"))
