"""The state that an interrupted run goes on from, checked before it is used."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from alignrank.detectors import DETECTORS
from alignrank.engine.recipe import Recipe
from alignrank.errors import InputError

# What Lightning and our callbacks need; the network's tensors are below `state_dict`, as `model.*`.
_KEYS = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")
_NETWORK = "model."
_ADVICE = "start a new run with --weights and the last.safetensors beside it"


def check_state(path: Path, recipe: Recipe) -> None:
    """Raises InputError naming the file unless it is whole and belongs to a network of this recipe.

    PyTorch reads its zip archives without looking at their checksums, so a flipped bit would go unseen.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path}: is damaged, the checksum of {damaged} does not match; {_ADVICE}")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except Exception as error:  # a parser of damaged bytes raises anything
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise InputError(f"{path}: is not the state of a run ({reason[:200]}); {_ADVICE}") from None
    tensors = state.get("state_dict") if isinstance(state, dict) and all(key in state for key in _KEYS) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path}: is not the state of a run; {_ADVICE}")
    found = {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    with torch.device("meta"):
        expected = DETECTORS[recipe.detector].model(recipe.without_pretrained().architecture).state_dict()
    for name in sorted(expected.keys() | found.keys()):
        if name not in expected or name not in found or expected[name].shape != found[name].shape:
            raise InputError(f"{path}: tensor {name} does not fit the recipe and the data of the run; {_ADVICE}")
