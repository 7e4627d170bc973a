"""Options of a training run, from a file, the command line and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from alignrank.config import Config, apply_overrides, read_yaml
from alignrank.engine import checkpoint
from alignrank.engine.recipe import Recipe, load_recipe
from alignrank.errors import InputError, nearest

# Options that are fields of the recipe's train section under the same name.
TRAIN_OPTIONS = ("epochs", "batch", "imgsz", "lr", "seed")
DEFAULT_MODEL = "yolov8-n"


class RunOptions(Config):
    """Options of a run that are not part of the recipe. Without `model`, that of `weights`, else yolov8-n."""

    model: str | None = None
    data: str
    val: str | None = None
    weights: str | None = None
    workers: int | None = Field(default=None, ge=0, le=256)
    device: str = "auto"
    devices: int = Field(default=1, ge=1, le=1024)
    out: str | None = None

    def located(self) -> RunOptions:
        """The same with absolute paths, so that the run can be resumed from another folder."""
        paths = {key: getattr(self, key) for key in ("data", "val", "weights")}
        absolute = {key: str(Path(path).absolute()) for key, path in paths.items() if path and Path(path).exists()}
        return self.model_copy(update=absolute)


def read_options(
    config: Path | None, given: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[RunOptions, Recipe]:
    """Options from a YAML file, then the command line, then `section.field` overrides; later ones win.

    Raises InputError naming the file (or the command line) and the field.
    """
    where = str(config) if config is not None else "command line"
    values: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in (read_yaml(config) if config is not None else {}).items():
        if isinstance(value, Mapping):
            sections |= {f"{key}.{name}": field for name, field in value.items()}
        elif "." in key:
            sections[key] = value
        else:
            values[key] = value
    if "model.name" in sections:
        values["model"] = sections.pop("model.name")
    values |= {key: value for key, value in given.items() if value is not None}
    sections |= {f"train.{key}": values.pop(key) for key in TRAIN_OPTIONS if key in values} | dict(overrides)
    if values.get("data") is None:
        raise InputError(f"{where}: data: must be given, a folder or file of a data set, or digits")
    _check_names(values, where)
    options = RunOptions.parse(values, where=where)
    if options.model is not None or options.weights is None:
        recipe = load_recipe(options.model or DEFAULT_MODEL, overrides=sections, where=where)
    else:
        values = checkpoint.load(options.weights).recipe.without_pretrained().to_dict()
        recipe = Recipe.parse(apply_overrides(values, sections, where=where), where=where)
    return options, recipe


def _check_names(values: Mapping[str, Any], where: str) -> None:
    known = [*RunOptions.model_fields, *TRAIN_OPTIONS]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown option {key!r}; {nearest(key, known)}")
