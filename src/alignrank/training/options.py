"""Options of a training run, from a file, the command line and overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from alignrank.config import Config, apply_overrides, read_yaml, shown
from alignrank.device import choose_device, choose_precision, free_memory
from alignrank.errors import InputError, first_line, nearest
from alignrank.training.optimizer import frozen_modules
from alignrank.weights import checkpoint
from alignrank.weights.catalog import is_address
from alignrank.weights.recipe import Recipe, load_recipe
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig

# Options that are fields of the recipe's train section under the same name.
TRAIN_OPTIONS = ("epochs", "batch", "imgsz", "lr", "seed")
DEFAULT_MODEL = "yolov8-n"
COMMAND_LINE = "command line"
_SECTIONS: dict[str, type[Config]] = {"train": TrainConfig, "augment": AugmentConfig, "data": DataConfig}


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
    config: Path | None, given: Mapping[str, Any], overrides: Mapping[str, Any], *, caller: str = COMMAND_LINE
) -> tuple[RunOptions, Recipe]:
    """Options from a YAML file, then those given, then `section.field` overrides; later ones win.

    caller: who gives them. Raises InputError naming the file or the caller, and the field.
    """
    where = str(config) if config is not None else caller
    values, sections = _from_file(config) if config is not None else ({}, {})
    typed, typed_sections = _split({key: value for key, value in given.items() if value is not None})
    _check_dotted(overrides, caller)
    typed_sections |= overrides
    _check_training(sections, where)
    _check_training(typed_sections, caller)
    _check_names(typed, caller)
    values |= typed
    sections |= typed_sections
    if values.get("data") in (None, ""):
        raise InputError(f"{where}: data: must be given, a folder or file of a data set, or digits")
    options = RunOptions.parse(values, where=where)
    places = {key: caller if key in typed else where for key in values}
    if options.weights is not None and not is_address(options.weights):
        _check_exists("weights", options.weights, places["weights"])
    loaded = None if options.weights is None else checkpoint.load(options.weights)
    if options.model is not None or loaded is None:
        recipe = load_recipe(options.model or DEFAULT_MODEL, overrides=sections, where=where)
    else:
        values = loaded.recipe.without_pretrained().to_dict()
        recipe = Recipe.parse(apply_overrides(values, sections, where=where), where=where)
    _check_network(recipe, _check_run(options, places), where)
    return options, recipe


def _from_file(config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the run, and `section.field` of the recipe."""
    values: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for key, value in read_yaml(config).items():
        if isinstance(value, Mapping):
            sections |= {f"{key}.{name}": field for name, field in value.items()}
        elif "." in key:
            sections[key] = value
        else:
            values[key] = value
    if "model.name" in sections:
        values["model"] = sections.pop("model.name")
    _check_names(values, str(config))
    values, trained = _split(values)
    return values, sections | trained


def _check_names(values: Mapping[str, Any], where: str) -> None:
    known = [*RunOptions.model_fields, *TRAIN_OPTIONS]
    for key in values:
        if key in _SECTIONS and key not in RunOptions.model_fields:  # `data` is both
            raise InputError(f"{where}: {key}: must be a mapping of options, got {shown(values[key])}")
        if key not in known:
            sections = _sections_with(key)
            hint = f"it is {' or '.join(sections)}" if sections else nearest(key, known)
            raise InputError(f"{where}: unknown option {key!r}; {hint}")


def _check_dotted(overrides: Mapping[str, Any], where: str) -> None:
    """Raises InputError for `epochs=3` and `mosaic=0`, which name no section; says how they are written."""
    for key, value in overrides.items():
        if "." in key:
            continue
        if key in RunOptions.model_fields or key in TRAIN_OPTIONS:
            raise InputError(f"{where}: {key}={value}: is not section.field; write --{key} {value}")
        sections = _sections_with(key)
        hint = (
            f"write {' or '.join(f'{name}={value}' for name in sections)}" if sections else "write section.field=value"
        )
        raise InputError(f"{where}: {key!r} is not section.field; {hint}")


def _sections_with(key: str) -> list[str]:
    """`section.field` of every section that has such a field."""
    return [f"{name}.{key}" for name, kind in _SECTIONS.items() if key in kind.model_fields]


def _check_run(options: RunOptions, where: Mapping[str, str]) -> torch.device:
    """The device; what is named must be there. where: each option's file, or the command line."""
    for key, path in (("data", options.data), ("val", options.val)):
        if path is not None and path != "digits":
            _check_exists(key, path, where[key])
    try:
        return choose_device(options.device)
    except InputError as error:
        raise InputError(f"{where.get('device', COMMAND_LINE)}: {error}") from None


def _check_exists(key: str, path: str, where: str) -> None:
    if not os.path.exists(path):
        raise InputError(f"{where}: {key}: there is no file or folder {path!r}")


def _check_network(recipe: Recipe, device: torch.device, where: str) -> None:
    """Raises InputError where the recipe makes no network, or one that does not fit into memory."""
    try:
        choose_precision(recipe.train.precision, device)
        network = recipe.meta_network()
        frozen_modules(network, recipe.train.freeze)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (ValueError, RuntimeError) as error:  # PyTorch's own, of numbers that do not go together
        raise InputError(f"{where}: these options make no network ({first_line(error)})") from None
    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > free_memory():
        raise InputError(f"{where}: the network's weights take {num_bytes / 1e9:.0f} GB, more than the free memory")


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the run, and those that are fields of the recipe's train section."""
    own = {key: value for key, value in values.items() if key not in TRAIN_OPTIONS}
    return own, {f"train.{key}": values[key] for key in TRAIN_OPTIONS if key in values}


def _check_training(sections: Mapping[str, Any], where: str) -> None:
    """Of the sections that mean the same for every model; apart for file and command line, to name the right one."""
    for name, kind in _SECTIONS.items():
        fields = {key.removeprefix(f"{name}."): value for key, value in sections.items() if key.startswith(f"{name}.")}
        kind.parse(fields, where=f"{where}: {name}")
