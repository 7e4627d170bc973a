"""Checkpoints that other libraries publish, in the hub's own layout: `config.json` beside safetensors.

From the hub, through its client (cache, resumed downloads, HF_ENDPOINT and HF_HUB_OFFLINE are its own), or from a local
folder. Pickles are not opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from alignrank.errors import InputError

HUB = "hub"
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
_OPTION = "model.pretrained"
_OTHERWISE = "give a local folder with config.json and model.safetensors instead: model.pretrained=FOLDER"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def settings_of(pretrained: str, hub: str) -> dict[str, Any]:
    """What `config.json` says. pretrained: `hub`, or a folder; hub: the checkpoint's name there.

    Of the hub's files this one alone is fetched. Raises InputError where it cannot be had, and where it is no mapping.
    """
    path = _fetched(hub, CONFIG) if pretrained == HUB else _in_folder(Path(pretrained)) / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{_OPTION}: {path} is not readable JSON ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"{_OPTION}: {path} must hold a mapping, holds a {type(settings).__name__}")
    return settings


def folder_of(pretrained: str, hub: str) -> Path:
    """A folder with `config.json` and safetensors: the one that is named, or the hub's client's own.

    Raises InputError where there are none, where a download is not what the hub says it is, and for pickles.
    """
    if pretrained != HUB:
        return _in_folder(Path(pretrained))
    _fetched(hub, CONFIG)
    weights = _fetched(hub, WEIGHTS)
    _check_download(weights)
    return weights.parent


def named(pretrained: str, hub: str) -> str:
    """How the checkpoint is called in messages."""
    return f"{hub} of the hub" if pretrained == HUB else pretrained


def _in_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"{_OPTION}: there is no folder {str(folder)!r}; it must hold {CONFIG} and {WEIGHTS}, or be hub"
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"{_OPTION}: {folder} holds no {CONFIG}")
    if not any((folder / name).is_file() for name in (WEIGHTS, SHARDS)):
        pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
        if pickles:
            raise InputError(
                f"{_OPTION}: {folder / pickles[0]} is a Python pickle; it may hold code and is not opened; "
                f"save the weights as {WEIGHTS}"
            )
        raise InputError(f"{_OPTION}: {folder} holds no {WEIGHTS}")
    return folder


def _fetched(hub: str, file: str) -> Path:
    if not hub:
        raise InputError(f"{_OPTION}=hub: the recipe names no published checkpoint (model.hub is empty); {_OTHERWISE}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub, file))
    except Exception as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        reason = f"there is no {file} in it" if absent else _first_line(error)
        raise InputError(f"{_OPTION}=hub: {hub} could not be fetched{offline}: {reason}; {_OTHERWISE}") from None


def _check_download(path: Path) -> None:
    """The hub's client names what it has fetched by the checksum that the hub told, and does not compare the two."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        raise InputError(
            f"{_OPTION}=hub: {path} is damaged (its checksum does not match); remove {blob} and it is fetched again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
