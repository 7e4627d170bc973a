"""Reading files that a user names: what cannot be read is the user's to mend, and is said in one sentence."""

from __future__ import annotations

import stat
from pathlib import Path

from alignrank.errors import InputError


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises InputError naming it, also for pipes and devices, which would never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot be read ({reason})") from None


def read_start(path: Path, size: int = 65_536) -> bytes:
    """The first bytes, enough to tell what a file is; b"" of what is no file or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError):
        return b""


def read_text(path: Path) -> str:
    """The whole file, UTF-8 with or without byte-order mark. Raises InputError naming it."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
