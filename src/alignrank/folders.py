"""Where results go: always a new folder, never over an earlier one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alignrank.arguments import place
from alignrank.errors import InputError

# What a training run knows of itself, to be resumed from.
RUN_FILE, LOCK_FILE = "run.json", "run.lock"
# Files that are being written.
BESIDE = ".tmp"


@contextmanager
def new_run_folder(out: str | Path | None, name: str) -> Iterator[Path]:
    """A folder for the results of the block, held until its end: `out`, else runs/NAME, runs/NAME-2, ...

    It is made now, so that of processes that choose at the same moment each gets one of its own; what is still empty at
    the end is removed. Raises InputError if `out` holds something already, or belongs to another process.
    """
    path, made = _numbered(name) if out is None else _named(place("out", out))
    try:
        with locked(path):
            if not is_free(path):  # filled and left between our look and our lock
                raise _not_empty(path)
            yield path
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _numbered(name: str) -> tuple[Path, list[Path]]:
    number = 1
    while not (made := _make(path := Path("runs") / (name if number == 1 else f"{name}-{number}"))):
        number += 1
    return path, made


def _named(path: Path) -> tuple[Path, list[Path]]:
    check_place(path, "out")
    made = _make(path)
    if not is_free(path):
        raise _not_empty(path)
    return path, made


def _make(path: Path) -> list[Path]:
    """The folder and those above it that were not there, innermost first; none if the folder itself was."""
    absent = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileNotFoundError:  # another process has removed a folder above that it had made and not used
        return _make(path)
    except OSError as error:
        if os.path.lexists(path):
            return []
        raise InputError(f"out: {path}: cannot be written ({error.strerror or error})") from None
    return absent


def is_free(path: Path) -> bool:
    """Whether nothing is there, or a folder with nothing in it but its lock."""
    if not path.is_dir():
        return not os.path.lexists(path)
    return all(entry.name == LOCK_FILE for entry in path.iterdir())


def _not_empty(path: Path) -> InputError:
    resume = f", or --resume {path}" if (path / RUN_FILE).exists() else ""
    return InputError(f"out: {path} already exists and is not empty; choose another folder{resume}")


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
    import filelock

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
    """A file beside `path` to write to, which takes its name at the end; so `path` is always whole.

    It has a name of its own, and the mode that the user's umask asks for, whatever writes it.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}{BESIDE}")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
