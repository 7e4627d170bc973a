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

from alignrank.detectors import DETECTORS
from alignrank.detectors.postprocess import NonMaximumSuppression
from alignrank.errors import InputError
from alignrank.folders import replacing
from alignrank.version import __version__
from alignrank.weights.catalog import is_exported, weights_file
from alignrank.weights.recipe import Recipe

# Rises when a file of this version cannot be read by older releases.
FORMAT = 1
VERSION_KEY = "format_version"
# What 0.1.0 reads and writes; other libraries write `format: pt` there.
_OLD_VERSION_KEY = "format"
# What a file begins with -> what it is. None of these is opened.
_FOREIGN = {
    b"version https://git-lfs": "is a git-lfs pointer, not the weights; fetch them with `git lfs pull`",
    b"PK\x03\x04": "is a zip archive, as PyTorch writes (.pt, .pth); it may hold code and is not opened",
    b"\x80": "is a Python pickle; it may hold code and is not opened",
    b"\x93NUMPY": "is a NumPy array; arrays of objects may hold code, it is not opened",
    b"\xff\xd8\xff": "is a JPEG image",
    b"\x89PNG": "is a PNG image",
}
_ONLY_OURS = "weights are the .safetensors files that `alignrank train` and `alignrank convert` write"


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

    def with_selection(
        self, *, agnostic: bool = False, consensus: float | None = None, suppressed: bool = False
    ) -> Checkpoint:
        """The same weights with other options of the selection: one class an object, consensus boxes above an overlap.

        False and None leave things as the recipe says. Raises InputError for models without such an option, unless
        what comes out is `suppressed` anyway, with these options.
        """
        if not agnostic and consensus is None:
            return self
        values, name = self.recipe.to_dict(), self.recipe.name
        section = values.get("postprocess", {})
        if agnostic:
            if "agnostic" in section:
                section["agnostic"] = True
            elif not suppressed:
                raise InputError(f"{self.path}: {name} has no suppression; leave out --agnostic")
        if consensus is not None:
            found = DETECTORS[self.recipe.detector].postprocess(self.recipe.without_pretrained().architecture)
            if isinstance(found, NonMaximumSuppression):
                section["consensus"] = consensus
            elif values.get("head", {}).get("sampling") == "topk":
                values["head"]["consensus_iou"] = consensus
            elif not suppressed:
                where = "leave out --consensus" if "nms" not in section else "it takes --nms, too"
                raise InputError(f"{self.path}: --consensus is of suppression, {name} has none here; {where}")
        return replace(self, recipe=Recipe.parse(values, where=str(self.path)))

    def build_model(self) -> Any:
        """The network with these weights, in evaluation mode. Raises InputError where they do not fit."""
        self._check_tensors()
        model = self.recipe.network()
        model.load_state_dict(self.weights)
        return model.eval()

    def _check_tensors(self) -> None:
        """Raises InputError unless names, shapes and numbers are what the file's own recipe asks for.

        The network is built without memory first: a recipe in a damaged file can ask for any size.
        """
        expected = self.recipe.meta_network().state_dict()
        for name, tensor in expected.items():
            if name not in self.weights:
                raise InputError(f"{self.path}: tensor {name} is missing; the file is incomplete")
            if self.weights[name].shape != tensor.shape:
                raise InputError(
                    f"{self.path}: tensor {name} has shape {list(self.weights[name].shape)}, its own metadata "
                    f"(num_classes {len(self.classes)}) asks for {list(tensor.shape)}"
                )
            if not torch.isfinite(self.weights[name]).all():
                raise InputError(f"{self.path}: tensor {name} holds NaN or infinity; these weights are of no use")
        unknown = sorted(set(self.weights) - set(expected))
        if unknown:
            raise InputError(f"{self.path}: tensor {unknown[0]} does not belong to {self.recipe.name}")


def save(
    path: Path, weights: Mapping[str, Tensor], *, recipe: Recipe, classes: Sequence[str], metrics: Mapping[str, Any]
) -> None:
    """Write beside and rename, so that `path` is always whole."""
    tensors = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    metadata = {
        VERSION_KEY: str(FORMAT),
        _OLD_VERSION_KEY: str(FORMAT),
        "alignrank": __version__,
        "recipe": json.dumps(recipe.to_dict()),
        "classes": json.dumps(list(classes)),
        "metrics": json.dumps(dict(metrics)),
        "checksum": checksum(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file(tensors, beside, metadata=metadata)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without shared memory, which the format has no word for: layers may share their heads."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def load(path: str | Path) -> Checkpoint:
    """Read a weights file of ours; nothing in it is executed. Raises InputError naming the file."""
    path = weights_file(path)
    if is_exported(path):
        raise InputError(
            f"{path}: is an exported file: `predict`, `val` and `benchmark` take it, all else needs the .safetensors "
            "file that it was made of"
        )
    try:
        _refuse_foreign(path)
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path}: is not a readable safetensors file ({reason}); {_ONLY_OURS}") from None
    return _parse(path, metadata, weights)


def _parse(path: Path, metadata: Mapping[str, str], weights: dict[str, Tensor]) -> Checkpoint:
    if "alignrank" not in metadata:
        raise InputError(f"{path}: holds tensors but no AlignRank metadata; {_ONLY_OURS}")
    version = metadata.get(VERSION_KEY, metadata.get(_OLD_VERSION_KEY, "none"))
    if version != str(FORMAT):
        raise InputError(
            f"{path}: {VERSION_KEY} is {version[:40]}, this release ({__version__}) reads {FORMAT}; update alignrank"
        )
    try:
        values, classes, metrics = (json.loads(metadata[key]) for key in ("recipe", "classes", "metrics"))
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: metadata is damaged ({type(error).__name__}: {error})") from None
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not (isinstance(values, dict) and named and isinstance(metrics, dict)):
        raise InputError(f"{path}: metadata is damaged (recipe, classes or metrics is of another type)")
    recipe = Recipe.parse(values, where=str(path))
    if values.get("num_classes") != len(classes):
        raise InputError(
            f"{path}: num_classes is {values.get('num_classes')} but {len(classes)} class names are stored"
        )
    loaded = Checkpoint(weights, recipe, tuple(classes), metrics, path)
    if checksum(weights) != metadata.get("checksum"):
        # A tensor of another shape says more than a sum that differs.
        loaded._check_tensors()
        raise InputError(f"{path}: checksum does not match, the file is damaged; copy or download it again")
    return loaded


def _refuse_foreign(path: Path) -> None:
    """Raises InputError for what is recognised as something else by its first bytes."""
    with path.open("rb") as file:
        head = file.read(64)
    for magic, what in _FOREIGN.items():
        # A safetensors file begins with the length of its header, whose eighth byte is 0.
        if head.startswith(magic) and head[7:9] != b"\0{":
            advice = "" if "git-lfs" in what else f"; {_ONLY_OURS}"
            raise InputError(f"{path}: {what}{advice}")


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
