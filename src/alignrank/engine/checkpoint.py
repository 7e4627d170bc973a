"""Weights as safetensors with metadata: what they are, how they were made, and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import alignrank
from alignrank.detectors import DETECTORS
from alignrank.engine.folders import replacing
from alignrank.engine.recipe import Recipe
from alignrank.errors import InputError

# Rises when a file of this version cannot be read by older releases.
FORMAT = 1
LFS_POINTER = b"version https://git-lfs"


@dataclass(slots=True)
class Checkpoint:
    """weights by name; recipe they fit; class names by label; metrics at the time; where they came from."""

    weights: dict[str, Tensor]
    recipe: Recipe
    classes: tuple[str, ...]
    metrics: dict[str, Any]
    path: Path

    def with_nms(self) -> Checkpoint:
        """The same weights, read with the one-to-many output and NMS. Raises InputError for models without NMS."""
        values = self.recipe.to_dict()
        if "nms" not in values.get("postprocess", {}):
            raise InputError(f"{self.path}: {self.recipe.name} has no output for NMS; leave out --nms")
        values["postprocess"] = values["postprocess"] | {"nms": True}
        return replace(self, recipe=Recipe.parse(values, where=str(self.path)))

    def build_model(self) -> Any:
        """The network with these weights, in evaluation mode. Raises InputError where they do not fit."""
        model = DETECTORS[self.recipe.detector].model(self.recipe.without_pretrained().architecture)
        expected = model.state_dict()
        for name, tensor in expected.items():
            if name not in self.weights:
                raise InputError(f"{self.path}: tensor {name} is missing; the file is incomplete")
            if self.weights[name].shape != tensor.shape:
                raise InputError(
                    f"{self.path}: tensor {name} has shape {list(self.weights[name].shape)}, its own metadata "
                    f"(num_classes {len(self.classes)}) asks for {list(tensor.shape)}"
                )
        unknown = sorted(set(self.weights) - set(expected))
        if unknown:
            raise InputError(f"{self.path}: tensor {unknown[0]} does not belong to {self.recipe.name}")
        model.load_state_dict(self.weights)
        return model.eval()


def save(
    path: Path, weights: Mapping[str, Tensor], *, recipe: Recipe, classes: Sequence[str], metrics: Mapping[str, Any]
) -> None:
    """Write beside and rename, so that `path` is always whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    metadata = {
        "format": str(FORMAT),
        "alignrank": alignrank.__version__,
        "recipe": json.dumps(recipe.to_dict()),
        "classes": json.dumps(list(classes)),
        "metrics": json.dumps(dict(metrics)),
        "checksum": checksum(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file(tensors, beside, metadata=metadata)


def weights_file(path: Path) -> Path:
    """The file itself; of a run's folder, its best weights."""
    return path / "best.safetensors" if path.is_dir() else path


def load(path: str | Path) -> Checkpoint:
    """Read a weights file of ours; nothing in it is executed. Raises InputError naming the file."""
    path = weights_file(Path(path))
    if not path.is_file():
        raise InputError(f"weights: no file {path}")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{path}: is a git-lfs pointer, not the weights; fetch them with `git lfs pull`")
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from None
    return _parse(path, metadata, weights)


def _parse(path: Path, metadata: Mapping[str, str], weights: dict[str, Tensor]) -> Checkpoint:
    if "format" not in metadata:
        raise InputError(
            f"{path}: holds tensors but no AlignRank metadata; only files that AlignRank wrote can be used"
        )
    if metadata["format"] != str(FORMAT):
        raise InputError(
            f"{path}: has format {metadata['format']}, this release ({alignrank.__version__}) reads {FORMAT}; "
            "update alignrank"
        )
    try:
        values, classes, metrics = (json.loads(metadata[key]) for key in ("recipe", "classes", "metrics"))
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: metadata is damaged ({error})") from None
    if not (isinstance(values, dict) and isinstance(classes, list) and isinstance(metrics, dict)):
        raise InputError(f"{path}: metadata is damaged (recipe, classes or metrics is of another type)")
    if checksum(weights) != metadata.get("checksum"):
        raise InputError(f"{path}: checksum does not match, the file is damaged")
    recipe = Recipe.parse(values, where=str(path))
    if values.get("num_classes") != len(classes):
        raise InputError(
            f"{path}: num_classes is {values.get('num_classes')} but {len(classes)} class names are stored"
        )
    return Checkpoint(weights, recipe, tuple(classes), metrics, path)


def checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def transfer(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load what fits by name and shape; names that were loaded, and names of the model that were not."""
    own = model.state_dict()
    fitting = {
        name: weights[name] for name, tensor in own.items() if name in weights and weights[name].shape == tensor.shape
    }
    model.load_state_dict(own | fitting)
    return list(fitting), [name for name in own if name not in fitting]
