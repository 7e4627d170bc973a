"""Images that lie inside of annotation files, as files: written once into the user's cache (docs/decisions/0029)."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from alignrank.data.decode import is_image_name
from alignrank.errors import InputError
from alignrank.folders import replacing

# First bytes of the formats that are usual there; the decoder looks at the contents, not at the name.
_STARTS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


def cache_folder() -> Path:
    """$ALIGNRANK_CACHE, else `alignrank` in the platform's folder for caches."""
    stated = os.environ.get("ALIGNRANK_CACHE")
    if stated:
        return Path(stated).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "alignrank"


def unpacked_folder(source: Path) -> Path:
    """A folder of the cache for one file, as it is now: by its path, size and time of change. It need not exist."""
    about = source.stat()
    key = f"{source.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    return cache_folder() / "unpacked" / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def suffix_of(data: bytes, name: object = None) -> str:
    """How a file of these bytes is to end: as their format does, else as `name` does, else as a PNG."""
    known = next((suffix for start, suffix in _STARTS.items() if data.startswith(start)), None)
    if known is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = ".webp"
    if known is None and isinstance(name, str) and is_image_name(name):
        known = os.path.splitext(name)[1].lower()
    return known or ".png"


def write_once(path: Path, data: bytes) -> Path:
    """`path`, which holds `data` and never a part of it. What is there already stays. Raises InputError."""
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); $ALIGNRANK_CACHE moves it") from None
    return path
