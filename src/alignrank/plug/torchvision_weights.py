"""Weights that torchvision publishes: files of PyTorch on a web server, whose names tell the first digits of their
checksums. They are opened with `weights_only`, once their checksum is right; a user's own are safetensors.
"""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib import error as errors
from urllib import parse, request

import torch
from torch import Tensor

from alignrank.errors import InputError, first_line
from alignrank.plug.published import AS_FOLDER, HUB, refuse_pickles
from alignrank.terminal.progress import say
from alignrank.version import __version__

_OPTION = "model.pretrained"
_OTHERWISE = f"give a local folder or file with its state dict as safetensors instead: {AS_FOLDER}"
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth")
_TIMEOUT = 30.0
_CHUNK = 1 << 20
# How often a download that breaks is taken up again before the user is told.
_TRIES = 4


def weights_of(pretrained: str, hub: str) -> dict[str, Tensor]:
    """The tensors of published weights. pretrained: `hub`, a .safetensors file, or a folder with one; hub: an address.

    Raises InputError where they cannot be had, where a download is not what its name says, and for pickles.
    """
    return _of_pickle(_fetched(hub)) if pretrained == HUB else _of_safetensors(_named(Path(pretrained)))


def _named(path: Path) -> Path:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not path.exists() or not files or (path.suffix != ".safetensors" and not path.is_dir()):
        refuse_pickles(path)
        raise InputError(f"{_OPTION}: {path} is no .safetensors file, nor a folder with one; it may also be {HUB}")
    if len(files) > 1:
        raise InputError(f"{_OPTION}: {path} holds {len(files)} .safetensors files; name one of them")
    return files[0]


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{_OPTION}: {path} is not a readable safetensors file ({first_line(error)})") from None


def _of_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle ends in any of them
        raise InputError(f"{_OPTION}={HUB}: {path} cannot be read ({first_line(error)}); remove it") from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{_OPTION}={HUB}: {path} holds no state dict of tensors")
    return dict(content)


def _fetched(address: str) -> Path:
    """The file, where torchvision itself keeps it, too."""
    if not address:
        raise InputError(f"{_OPTION}={HUB}: the recipe names no published weights (model.hub is empty); {_OTHERWISE}")
    name = Path(parse.urlsplit(address).path).name
    digest = _DIGEST.search(name)
    if parse.urlsplit(address).scheme not in ("http", "https") or digest is None:
        raise InputError(f"model.hub: must be the address of a file NAME-CHECKSUM.pth, got {address!r}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        part = path.with_name(f"{name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            say(f"fetching {address}")
            _download(address, part)
            if not _sha256(part).startswith(digest[1]):
                part.unlink()
                raise InputError(f"{_OPTION}={HUB}: what {address} sent does not match its checksum; try again")
            part.replace(path)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(
                f"{_OPTION}={HUB}: {address} could not be fetched: {_reason(error)}; {_OTHERWISE}"
            ) from None
    _check(path, digest[1])
    return path


def _download(address: str, part: Path) -> None:
    """Into `part`, from where it ends. Raises OSError or HTTPException where it stays incomplete."""
    for left in reversed(range(_TRIES)):
        try:
            _append(address, part)
            return
        except errors.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.is_file():
                return  # nothing is left to fetch
            raise
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            if not left:
                raise


def _append(address: str, part: Path) -> None:
    begun = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": f"alignrank/{__version__}"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with request.urlopen(request.Request(address, headers=headers), timeout=_TIMEOUT) as response:
        goes_on = begun and response.status == 206
        expected = response.headers.get("Content-Length")
        size = 0
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read1(_CHUNK):
                size += file.write(chunk)
        if expected is not None and size < int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - size)


def _check(path: Path, digest: str) -> None:
    about = path.stat()
    if not _known_sha256(path, about.st_size, about.st_mtime_ns).startswith(digest):
        raise InputError(
            f"{_OPTION}={HUB}: {path} is damaged (its checksum does not match); remove it and it is fetched again"
        )


@cache
def _known_sha256(path: Path, size: int, changed: int) -> str:
    """Once for a file that stays as it is: a large one takes half a second."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, errors.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke"
    reason: Any = error.reason if isinstance(error, errors.URLError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or first_line(error)
