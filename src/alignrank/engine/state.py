"""The state of a training run on disk: the last two, each named by its epoch and its checksum.

A name with the checksum in it makes writing one rename, and a cut or changed file is known without a second file that
might belong to another state.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from alignrank.engine.progress import warn
from alignrank.errors import InputError

KEPT = 2
_NAME = re.compile(r"state-(\d+)-([0-9a-f]{16})\.ckpt")


def write_state(folder: Path, epoch: int, save: Callable[[Path], object], *, first: bool = True) -> None:
    """Call `save` with a path in `folder`, then give what it wrote its name and remove all but the last two.

    first: whether this process writes; the others take part in `save` alone.
    """
    if not first:
        save(Path(os.devnull))
        return
    beside = folder / "state.tmp"
    try:
        save(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name of a file that is empty
        os.replace(beside, folder / f"state-{epoch:05d}-{_checksum(beside)}.ckpt")
    finally:
        beside.unlink(missing_ok=True)
    for _, path in _states(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def last_state(folder: Path) -> Path | None:
    """The last state that is whole, None where there is none at all. Damaged ones are named in a warning.

    Raises InputError if all that there are are damaged.
    """
    states = _states(folder)
    for epoch, path in states[::-1]:
        if path.name == f"state-{epoch:05d}-{_checksum(path)}.ckpt":
            return path
        warn(f"{path}: is damaged (its checksum does not match), going on from the state before it")
    if states:
        raise InputError(
            f"{folder}: no state of this run can be used, all are damaged; start again with "
            f"--weights {folder / 'last.safetensors'} and another --out"
        )
    return None


def finished_epochs(state: Path) -> int:
    """How many epochs were done when it was written."""
    match = _NAME.fullmatch(state.name)
    assert match is not None
    return int(match[1])


def _states(folder: Path) -> list[tuple[int, Path]]:
    """Oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("state-*.ckpt"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
