"""What can be named: recipes that ship, with their sizes, and weights files. No PyTorch: a slip is told at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from alignrank.errors import InputError, nearest

# {name: {parameters, flops}}, written by `python -m alignrank.weights.models`.
SIZES = "sizes.json"
# {name: {weights, licence}} of recipes for other libraries' models: where their published weights come from.
HOSTS = "hosts.json"
# How addresses on the hub begin.
ADDRESS = "hf:/"
# The weights in a run's folder, and in one that holds the files of a repository of the hub.
BEST, OF_HUB = "best.safetensors", "model.safetensors"
# Suffixes of the files that `export` writes; what they are run by is in `export.formats`.
EXPORTED = (".onnx", ".xml", ".pt2", ".torchscript", ".tflite", ".mlpackage")


def is_exported(path: Path) -> bool:
    """Whether it is an exported file, by its name."""
    return path.suffix in EXPORTED and not is_address(path)


def is_address(path: str | Path) -> bool:
    """Whether it is an address on the hub, `hf://OWNER/NAME`; as a path it has one slash only."""
    return str(path).startswith(ADDRESS)


def is_fetched(path: Path) -> bool:
    """Whether it lies in the cache of the hub's client, where nothing else belongs."""
    return "snapshots" in path.parts and any(part.startswith("models--") for part in path.parts)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package; those of other libraries' models are LIBRARY/NAME."""
    return sorted(_names(recipe_folder(), ""))


def _names(folder: Any, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml")


def check_recipe(name: str, where: str) -> None:
    """Raises InputError naming `where` unless it is a recipe that ships, or a YAML file."""
    if not is_recipe_file(name) and name not in recipe_names():
        raise InputError(f"{where}: model: unknown recipe {name!r}; {nearest(name, recipe_names())}")


def is_recipe_file(name: str) -> bool:
    """Whether it names a file, not a recipe that ships."""
    return name.endswith((".yaml", ".yml"))


def is_recipe(path: Path) -> bool:
    """Whether it is a recipe that is named where weights are wanted."""
    return (path.as_posix() in recipe_names() and not path.exists()) or is_recipe_file(str(path))


def recipe_folder() -> Any:
    """Where the recipes are, a folder of the package."""
    return resources.files("alignrank") / "recipes"


def weights_file(path: str | Path) -> Path:
    """The file itself; of a run's folder, its best weights; of an address on the hub, the file in its client's cache.

    Raises InputError if there is none.
    """
    if is_address(path):
        from alignrank.weights.hub import fetched

        return fetched(str(path))
    path = Path(path)
    if path.is_dir() and not is_exported(path):
        downloaded = (path / OF_HUB).is_file() and not (path / BEST).exists()
        path /= OF_HUB if downloaded else BEST
    if not path.is_file() and not (is_exported(path) and path.is_dir()):
        raise InputError(f"weights: no file {path}")
    return path


def model_rows() -> list[dict[str, Any]]:
    """One dictionary a recipe: {name, parameters, flops, weights, licence}. weights: where published ones come from;
    licence: theirs. Nothing is fetched, and no library imported.
    """
    sizes, hosts = (json.loads((recipe_folder() / name).read_text(encoding="utf-8")) for name in (SIZES, HOSTS))
    none = {"weights": "none ship", "licence": None}
    return [{"name": name, **sizes[name], **hosts.get(name, none)} for name in recipe_names()]


def say_table(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    from rich.table import Table

    from alignrank.terminal.progress import console

    table = Table("model", "parameters, M", "GFLOPs at 640", "pretrained weights")
    for row in rows:
        weights = f"{row['weights']} ({row['licence']})" if row["licence"] else row["weights"]
        table.add_row(row["name"], f"{row['parameters'] / 1e6:.2f}", f"{row['flops'] / 1e9:.1f}", weights)
    console().print(table)
