"""The state of a training run on disk: the last two, each named by how far it got and by its checksum.

A name with the checksum in it makes writing one rename, and a cut or changed file is known without a second file that
might belong to another state.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alignrank.errors import InputError
from alignrank.terminal.progress import warn
from alignrank.weights.recipe import Recipe

KEPT = 2
# state-00003-SUM.ckpt: three epochs are done; state-00003+000120-SUM.ckpt: and 120 batches of the fourth.
_NAME = re.compile(r"state-(\d+)(?:\+(\d+))?-([0-9a-f]{16})\.ckpt")
# What Lightning and our callbacks need; the network's tensors are below `state_dict`, as `model.*`.
_KEYS = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")
_NETWORK = "model."
_ADVICE = "start a new run with --weights and the last.safetensors beside it"


def write_state(
    folder: Path, epoch: int, save: Callable[[Path], object], *, batches: int = 0, first: bool = True
) -> None:
    """Call `save` with a path in `folder`, then give what it wrote its name and remove all but the last two.

    epoch: those that are done; batches: those of the next. first: whether this process writes; the others take part in
    `save` alone.
    """
    if not first:
        save(Path(os.devnull))
        return
    beside = folder / "state.tmp"
    try:
        beside.touch()
        mode = beside.stat().st_mode  # of the umask, which `save` need not know
        save(beside)
        beside.chmod(mode)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name of a file that is empty
        part = f"+{batches:06d}" if batches else ""
        os.replace(beside, folder / f"state-{epoch:05d}{part}-{_checksum(beside)}.ckpt")
    finally:
        beside.unlink(missing_ok=True)
    for path in _states(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def last_state(folder: Path) -> Path | None:
    """The last state that is whole, None where there is none at all. Damaged ones are named in a warning.

    Raises InputError if all that there are are damaged.
    """
    states = _states(folder)
    for path in states[::-1]:
        if path.stem.endswith(f"-{_checksum(path)}"):
            return path
        warn(f"{path}: is damaged (its checksum does not match), going on from the state before it")
    if states:
        raise InputError(
            f"{folder}: no state of this run can be used, all are damaged; start again with "
            f"--weights {folder / 'last.safetensors'} and another --out"
        )
    return None


def progress_of(state: Path) -> tuple[int, int]:
    """How many epochs were done when it was written, and how many batches of the next."""
    match = _NAME.fullmatch(state.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _states(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((path for path in folder.glob("state-*.ckpt") if _NAME.fullmatch(path.name)), key=progress_of)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_state(path: Path, recipe: Recipe) -> None:
    """Raises InputError naming the file unless it belongs to a network of this recipe."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a parser of damaged bytes raises anything
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise InputError(f"{path}: is not the state of a run ({reason[:200]}); {_ADVICE}") from None
    tensors = state.get("state_dict") if isinstance(state, dict) and all(key in state for key in _KEYS) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path}: is not the state of a run; {_ADVICE}")
    found = {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    expected = recipe.meta_network().state_dict()
    for name in sorted(expected.keys() | found.keys()):
        if name not in expected or name not in found or expected[name].shape != found[name].shape:
            raise InputError(f"{path}: tensor {name} does not fit the recipe and the data of the run; {_ADVICE}")
