"""Where results go: always a new folder, never over an earlier one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from alignrank.errors import InputError

# What a training run knows of itself, to be resumed from.
RUN_FILE, LOCK_FILE = "run.json", "run.lock"


def new_run_folder(out: str | Path | None, name: str) -> Path:
    """A folder that does not exist or is empty: `out`, else runs/NAME, runs/NAME-2, ...

    Raises InputError if `out` holds something already.
    """
    if out is not None:
        path = Path(out)
        check_place(path, "out")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            resume = f", or --resume {path}" if (path / RUN_FILE).exists() else ""
            raise InputError(f"out: {path} already exists and is not empty; choose another folder{resume}")
        return path
    number = 1
    while (path := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def new_file(path: str | Path, option: str) -> Path:
    """The path of a file to be written. Raises InputError naming the option if there is something already."""
    check_place(Path(path), option)
    if Path(path).exists():
        raise InputError(f"{option}: {path} already exists; choose another name")
    return Path(path)


def check_place(path: Path, option: str) -> None:
    """Raises InputError naming the option if nothing can be made at `path`, before there is anything to write."""
    try:
        if "\0" in str(path):
            raise InputError(f"{option}: {str(path)!r} cannot be the name of a file")
        nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    except OSError as error:
        raise InputError(f"{option}: {str(path)[:100]}: cannot be written ({error.strerror or error})") from None
    if nearest != path and not nearest.is_dir():
        raise InputError(f"{option}: {path}: cannot be written ({nearest} is not a folder)")
    if nearest != path and not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {path}: cannot be written (no permission in {nearest})")


def make_folder(path: Path, option: str) -> None:
    """The folder and those above it. Raises InputError naming the option if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option}: {path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder belongs to this process until the end, however that comes. Raises InputError if it is another's."""
    path = folder / LOCK_FILE
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder}: another run is writing to this folder; wait for it, or choose another") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: nobody can have taken it in between
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name at the end; so `path` is always whole."""
    beside = path.with_name(f"{path.name}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
