"""File names that stand in annotations: they stay in the data set's folder and are never addresses to fetch."""

from __future__ import annotations

import posixpath
import re

from alignrank.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def relative_name(name: object, *, where: str, field: str) -> str:
    """The name with forward slashes, relative to its folder and not above it.

    Raises InputError naming `where` (file and record) and `field` for anything else: not text, empty,
    an address or drive (`http:`, `C:`), absolute, leading out of the folder, or holding a NUL.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: {field} must be a file name, is {_shown(name)}")
    if "\0" in name:
        raise InputError(f"{where}: {field} holds a NUL character")
    plain = name.replace("\\", "/")
    if _ADDRESS.match(plain):
        raise InputError(f"{where}: {field} {_shown(name)} is an address; only files of the data set are read")
    if plain.startswith("/"):
        raise InputError(f"{where}: {field} {_shown(name)} is absolute; it must be relative to the image folder")
    plain = posixpath.normpath(plain)
    if plain == ".." or plain.startswith("../"):
        raise InputError(f"{where}: {field} {_shown(name)} leaves the image folder")
    return plain


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
