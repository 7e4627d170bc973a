"""Which options of a recipe are searched, and in which ranges: a table by architecture, and a user's YAML on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from alignrank.config import Config, apply_overrides, read_yaml, shown
from alignrank.errors import InputError
from alignrank.weights.recipe import Recipe

Scalar = str | int | float | bool


class Range(Config):
    """Numbers from low to high, both included; whole ones where the recipe's option is whole."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Orders of magnitude are equally likely, not values."""
    step: float | None = None
    """From one value to the next; default: any."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: must be below high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: needs low above 0, and no step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step: must be above 0, got {self.step}")
        return self


Choices = tuple[Scalar, ...]
Space = dict[str, Range | Choices]


@dataclass(frozen=True, slots=True)
class Around:
    """From the recipe's value divided by `factor` to the value times it, log-uniform. A value of 0 stays: it is off."""

    factor: float

    def of(self, value: float) -> Range | None:
        """The range around a value."""
        return Range(low=value / self.factor, high=value * self.factor, log=True) if value > 0 else None


COMMON: dict[str, Around | Range] = {
    "train.lr": Around(5),
    "train.weight_decay": Around(10),
    "augment.saturation": Range(low=0.0, high=0.9),
    "augment.brightness": Range(low=0.0, high=0.7),
}
# What moves a picture on its canvas, which recipes that rescale pictures do not have.
ON_CANVAS: dict[str, Around | Range] = {
    "augment.mosaic": Range(low=0.0, high=1.0),
    "augment.mixup": Range(low=0.0, high=0.3),
    "augment.scale": Range(low=0.0, high=0.9),
    "augment.translate": Range(low=0.0, high=0.3),
}
_YOLO: dict[str, Around | Range] = {"loss.box": Around(3), "loss.cls": Around(3), "loss.dfl": Around(3)}
_DETR: dict[str, Around | Range] = {"loss.cls": Around(3), "loss.l1": Around(3), "loss.giou": Around(3)}
# Weights of the loss by architecture. Hosts of other libraries weigh theirs themselves.
LOSSES: dict[str, dict[str, Around | Range]] = {
    "yolo": _YOLO,
    "alignrank": _YOLO | {"loss.align": Around(4), "loss.rank": Around(4), "loss.consensus": Around(4)},
    "varifocalnet": {"loss.box": Around(3), "loss.refine": Around(3)},
    "reppoints": {"loss.first": Around(3), "loss.box": Around(3)},
    "retinanet": {"loss.box": Around(3)},
    "deformable_detr": _DETR,
    "dino": _DETR,
    "torchvision": {},
    "transformers": {},
}


def space_of(recipe: Recipe, file: Path | None = None) -> Space:
    """What is searched for a recipe: the table's ranges, those of `file` in their place.

    file: YAML of `section.field` to {low, high, log, step}, to a list of choices, or to null, which takes it out.
    Raises InputError naming file and option, also where an end of a range makes no recipe.
    """
    space: Space = {}
    canvas = {} if recipe.augment.rescales else ON_CANVAS
    for option, wanted in (COMMON | canvas | LOSSES[recipe.detector]).items():
        found = wanted.of(float(value_of(recipe, option))) if isinstance(wanted, Around) else wanted
        if found is not None:
            space[option] = found
    if file is not None:
        for option, given in read_yaml(file).items():
            space.pop(option, None)
            if given is not None:
                space[option] = _read(given, f"{file}: {option}")
    where = "space" if file is None else str(file)
    if not space:
        raise InputError(f"{where}: nothing is left to search")
    _check(recipe, space, where)
    return space


def value_of(recipe: Recipe, option: str) -> Any:
    """The recipe's own value of `section.field`, None where there is none."""
    section, _, field = option.partition(".")
    values = recipe.to_dict().get(section)
    return values.get(field) if isinstance(values, Mapping) else None


def with_values(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with `section.field` set. Raises InputError naming `where` and the field."""
    return Recipe.parse(apply_overrides(recipe.to_dict(), values, where=where), where=where)


def is_whole(recipe: Recipe, option: str) -> bool:
    """Whether the option is a whole number."""
    value = value_of(recipe, option)
    return isinstance(value, int) and not isinstance(value, bool)


def ends_of(recipe: Recipe, option: str, wanted: Range | Choices) -> tuple[Scalar, ...]:
    """The values between which, or of which, a trial's is chosen, of the option's own type."""
    if isinstance(wanted, Range):
        return tuple(int(end) if is_whole(recipe, option) else end for end in (wanted.low, wanted.high))
    return wanted


def _read(given: Any, where: str) -> Range | Choices:
    if isinstance(given, Mapping):
        return Range.parse(given, where=where)
    plain = isinstance(given, list) and all(isinstance(item, Scalar) for item in given)
    if not plain or len(given) < 2 or len(set(map(repr, given))) < len(given):
        raise InputError(f"{where}: must be {{low, high}}, a list of two or more choices, or null, got {shown(given)}")
    return tuple(given)


def _check(recipe: Recipe, space: Space, where: str) -> None:
    for option, wanted in space.items():
        if isinstance(wanted, Range) and is_whole(recipe, option):
            odd = [value for value in (wanted.low, wanted.high, wanted.step or 1) if value != int(value)]
            if odd:
                raise InputError(f"{where}: {option}: must be whole numbers, got {odd[0]}")
        for value in ends_of(recipe, option, wanted):
            with_values(recipe, {option: value}, where)
