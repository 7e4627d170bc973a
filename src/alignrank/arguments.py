"""Arguments as people give them: numbers as text or as scalars of an array, paths. One sentence for what is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alignrank.errors import InputError


def whole(option: str, value: Any, *, least: int | None = None) -> int:
    """A whole number: 3, "3", 3.0, a scalar. Raises InputError naming the option for others and those below `least`."""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or plain != plain // 1:
        raise InputError(f"{option}: must be a whole number, got {value!r:.80}")
    if least is not None and plain < least:
        raise InputError(f"{option}: must be at least {least}, got {value}")
    return int(plain)


def number(option: str, value: Any) -> float:
    """A number: 0.5, "0.5", a scalar. Raises InputError naming the option for others."""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise InputError(f"{option}: must be a number, got {value!r:.80}")
    return float(plain)


def share(option: str, value: Any) -> float:
    """A number from 0 to 1. Raises InputError naming the option for others."""
    plain = number(option, value)
    if not 0 <= plain <= 1:
        raise InputError(f"{option}: must be from 0 to 1, got {value}")
    return plain


def switch(option: str, value: Any) -> bool:
    """True or False. Raises InputError naming the option for others; text could be meant either way."""
    plain = _plain(value) if not isinstance(value, str) else value
    if not isinstance(plain, bool):
        raise InputError(f"{option}: must be True or False, got {value!r:.80}")
    return plain


def place(option: str, value: Any) -> Path:
    """A path. Raises InputError naming the option for what is none."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise InputError(f"{option}: must be a path, got {value!r:.80}")
    return Path(value)


def _plain(value: Any) -> Any:
    """Python's own number for text and for scalars of NumPy and PyTorch; anything else as it is."""
    if hasattr(value, "item"):
        return value.item() if getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
