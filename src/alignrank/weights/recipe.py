"""A recipe: one architecture's configuration with how to train it, from a short YAML file and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from alignrank.config import Config, apply_overrides, read_yaml
from alignrank.contracts import Built
from alignrank.detectors import DETECTORS
from alignrank.errors import InputError, nearest
from alignrank.input_size import InputSize
from alignrank.plug.published import Published
from alignrank.weights.catalog import check_recipe, is_recipe_file, recipe_folder
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """name: recipe or file it came from; architecture: the detector's own configuration."""

    name: str
    detector: str
    architecture: Config
    train: TrainConfig
    augment: AugmentConfig
    data: DataConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `Recipe.parse` reads back."""
        return {
            "name": self.name,
            "detector": self.detector,
            **self.architecture.model_dump(),
            "train": self.train.model_dump(),
            "augment": self.augment.model_dump(),
            "data": self.data.model_dump(),
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Recipe:
        """Validate a resolved recipe. Raises InputError naming `where` and the field."""
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: must be a mapping of options, got {values!r}")
        rest = dict(values)
        name = str(rest.pop("name", where))
        detector = rest.pop("detector", None)
        if not isinstance(detector, str) or detector not in DETECTORS:
            raise InputError(
                f"{where}: detector: unknown architecture {detector!r}; {nearest(str(detector), DETECTORS)}"
            )
        train = TrainConfig.parse(rest.pop("train", {}), where=f"{where}: train")
        augment = AugmentConfig.parse(rest.pop("augment", {}), where=f"{where}: augment")
        data = DataConfig.parse(rest.pop("data", {}), where=f"{where}: data")
        architecture = DETECTORS[detector].config.parse(rest, where=where)
        return cls(name, detector, architecture, train, augment, data)

    def for_classes(self, num_classes: int) -> Recipe:
        """The same recipe for another number of classes; channels beside those of a published checkpoint are gone."""
        values = self.architecture.model_dump() | {"num_classes": num_classes}
        if num_classes != getattr(self.architecture, "num_classes", None) and "unnamed" in values.get("model", {}):
            values["model"] |= {"unnamed": []}
        return replace(self, architecture=type(self.architecture).parse(values, where="num_classes"))

    def as_published(self, overrides: Mapping[str, Any]) -> tuple[Recipe, Published | None]:
        """Where `model.pretrained` asks for a whole detector of another library: the recipe with that one's
        architecture and input, but for what `overrides` say, and what its files say. Else the recipe, and None.
        """
        published = DETECTORS[self.detector].published
        architecture: Any = self.architecture
        if published is None or not architecture.model.pretrained:
            return self, None
        found = published(architecture, overrides)
        said = {option: value for option, value in found.sections.items() if option not in overrides}
        sections = {"train": self.train.model_dump(), "data": self.data.model_dump()}
        sections = apply_overrides(sections, said, where="model.pretrained")
        train = TrainConfig.parse(sections["train"], where="model.pretrained: train")
        data = DataConfig.parse(sections["data"], where="model.pretrained: data")
        return replace(self, architecture=found.config, train=train, data=data), found

    def without_pretrained(self) -> Recipe:
        """The recipe that does not ask for published weights, of a backbone or all: where a checkpoint brings them."""
        values = self.to_dict()
        for field in ("pretrained", "backbone_weights"):
            if values.get("model", {}).get(field):
                values["model"] |= {field: ""}
        return Recipe.parse(values, where=self.name)

    @property
    def size_in_training(self) -> InputSize:
        """How training pictures are fitted into the network's input."""
        return InputSize.of(self.train.imgsz, rect=self.data.rect_in_training, fit=self.data.fitting)

    @property
    def size_in_use(self) -> InputSize:
        """How images are fitted in evaluation and prediction, where nothing else is asked for."""
        return InputSize.of(self.train.imgsz, rect=self.data.rect_in_use, fit=self.data.fitting)

    def build(self) -> Built:
        """Fresh network, criterion and postprocess."""
        return DETECTORS[self.detector].build(self.architecture)

    def network(self) -> Any:
        """A network whose weights come from elsewhere, all random until then: no pretrained backbone is fetched."""
        return DETECTORS[self.detector].model(self.without_pretrained().architecture)

    def meta_network(self) -> Any:
        """That network without memory: names and shapes alone, even of a recipe that asks for more than there is."""
        with torch.device("meta"):
            return self.network()


def load_recipe(
    name: str, *, num_classes: int = 80, overrides: Mapping[str, Any] | None = None, where: str = "build_detector"
) -> Recipe:
    """A shipped recipe, or a YAML file of the same form, with `section.field` overrides applied."""
    check_recipe(name, where)
    if is_recipe_file(name):
        values, where = read_yaml(Path(name)), name
    else:
        with resources.as_file(recipe_folder() / f"{name}.yaml") as path:
            values = read_yaml(path)
    values = apply_overrides({"train": {}, "augment": {}, "data": {}, **values}, overrides or {}, where=where)
    called = Path(name).stem if is_recipe_file(name) else name
    recipe = Recipe.parse({"name": called, **values, "num_classes": num_classes}, where=where)
    return recipe.as_published(overrides or {})[0]


def build_detector(name: str, num_classes: int, **overrides: Any) -> Built:
    """Network, criterion and postprocess of a recipe: `build_detector("yolov8-n", 3, **{"head.dual": True})`.

    Raises InputError for unknown recipes and fields.
    """
    return load_recipe(name, num_classes=num_classes, overrides=overrides).build()
