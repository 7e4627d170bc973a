"""A recipe: one architecture's configuration with how to train it, from a short YAML file and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from alignrank.config import Config, apply_overrides, read_yaml
from alignrank.contracts import Built
from alignrank.data.augment import AugmentConfig
from alignrank.detectors import DETECTORS
from alignrank.engine.sides import MAX_SIDE, SIDE_STEP
from alignrank.errors import InputError, nearest


class TrainConfig(Config):
    """How to train. `batch` is per process; lr falls to final_lr * lr; `freeze` names modules (e.g. backbone).

    schedule `step`: a tenth of the rate after each of the epochs `milestones`. bias_lr: rate of biases other than
    norms', in parts of lr.
    save_every: keep the averaged weights of each so many epochs, too, as epoch_NNNN.safetensors; 0: not.
    """

    epochs: int = Field(default=100, ge=1, le=100_000)
    batch: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = 16
    imgsz: int = Field(default=640, ge=SIDE_STEP, le=MAX_SIDE, multiple_of=SIDE_STEP)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=0.0015, gt=0, le=10, allow_inf_nan=False)
    final_lr: float = Field(default=0.01, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant", "step"] = "linear"
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    warmup_epochs: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0005, ge=0, le=1)
    backbone_lr: float = Field(default=1.0, gt=0, le=1)
    bias_lr: float = Field(default=1.0, gt=0, le=10)
    clip_norm: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    ema_decay: float = Field(default=0.9998, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patience: int = Field(default=0, ge=0, le=100_000)
    freeze: list[str] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0, lt=2**32)
    val_every: int = Field(default=1, ge=1, le=100_000)
    save_every: int = Field(default=0, ge=0, le=100_000)
    cache: Literal["auto", "ram", "off"] = "auto"

    @field_validator("cache", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads the word so


@dataclass(frozen=True, slots=True)
class Recipe:
    """name: recipe or file it came from; architecture: the detector's own configuration."""

    name: str
    detector: str
    architecture: Config
    train: TrainConfig
    augment: AugmentConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `Recipe.parse` reads back."""
        return {
            "name": self.name,
            "detector": self.detector,
            **self.architecture.model_dump(),
            "train": self.train.model_dump(),
            "augment": self.augment.model_dump(),
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
        architecture = DETECTORS[detector].config.parse(rest, where=where)
        return cls(name, detector, architecture, train, augment)

    def for_classes(self, num_classes: int) -> Recipe:
        """The same recipe for another number of classes."""
        values = self.architecture.model_dump() | {"num_classes": num_classes}
        return replace(self, architecture=type(self.architecture).parse(values, where="num_classes"))

    def without_pretrained(self) -> Recipe:
        """The recipe that does not ask for backbone weights: where a checkpoint brings them."""
        values = self.to_dict()
        if values.get("model", {}).get("pretrained"):
            values["model"] |= {"pretrained": ""}
        return Recipe.parse(values, where=self.name)

    def build(self) -> Built:
        """Fresh network, criterion and postprocess."""
        return DETECTORS[self.detector].build(self.architecture)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def load_recipe(
    name: str, *, num_classes: int = 80, overrides: Mapping[str, Any] | None = None, where: str = "build_detector"
) -> Recipe:
    """A shipped recipe, or a YAML file of the same form, with `section.field` overrides applied."""
    if name.endswith((".yaml", ".yml")):
        values, where = read_yaml(Path(name)), name
    elif name in recipe_names():
        with resources.as_file(_folder() / f"{name}.yaml") as path:
            values = read_yaml(path)
    else:
        raise InputError(f"{where}: model: unknown recipe {name!r}; {nearest(name, recipe_names())}")
    values = apply_overrides({"train": {}, "augment": {}, **values}, overrides or {}, where=where)
    return Recipe.parse({"name": Path(name).stem, **values, "num_classes": num_classes}, where=where)


def build_detector(name: str, num_classes: int, **overrides: Any) -> Built:
    """Network, criterion and postprocess of a recipe: `build_detector("yolov8-n", 3, **{"head.dual": True})`.

    Raises InputError for unknown recipes and fields.
    """
    return load_recipe(name, num_classes=num_classes, overrides=overrides).build()


def _folder() -> Any:
    return resources.files("alignrank") / "recipes"
