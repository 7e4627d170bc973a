"""Checkpoints that other libraries publish, in the hub's own layout: `config.json` beside safetensors, and how pictures
are prepared in `preprocessor_config.json`.

From the hub, through its client (cache, resumed downloads, HF_ENDPOINT and HF_HUB_OFFLINE are its own), or from a local
folder. Pickles are not opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from alignrank.errors import InputError
from alignrank.plug.hub import NotFetched, check_download, fetch

HUB = "hub"
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSOR = "preprocessor_config.json"
_OPTION = "model.pretrained"
AS_FOLDER = "model.pretrained=FOLDER (predict, val and track: --pretrained FOLDER)"
_OTHERWISE = f"give a local folder with config.json and model.safetensors instead: {AS_FOLDER}"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Published:
    """What the files of a checkpoint say.

    config: of the detector; channels: what those of its class heads are called, of which some may be no class.
    sections: `section.field` of a recipe: how pictures are fitted into its input.
    """

    config: Any
    channels: tuple[str, ...]
    sections: Mapping[str, Any] = field(default_factory=dict)


def settings_of(pretrained: str, hub: str) -> dict[str, Any]:
    """What `config.json` says. pretrained: `hub`, or a folder; hub: the checkpoint's name there.

    Of the hub's files this one alone is fetched. Raises InputError where it cannot be had, and where it is no mapping.
    """
    return _mapping(_fetched(hub, CONFIG) if pretrained == HUB else _in_folder(Path(pretrained)) / CONFIG)


def processor_of(pretrained: str, hub: str) -> dict[str, Any] | None:
    """What `preprocessor_config.json` says; None where the checkpoint has none. Raises InputError as `settings_of`."""
    if pretrained == HUB:
        path = _fetched(hub, PROCESSOR, needed=False)
        return None if path is None else _mapping(path)
    path = _in_folder(Path(pretrained)) / PROCESSOR
    return _mapping(path) if path.is_file() else None


def _mapping(path: Path) -> dict[str, Any]:
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
    try:
        check_download(weights)
    except NotFetched as error:
        raise InputError(f"{_OPTION}=hub: {error}") from None
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
        refuse_pickles(folder)
        raise InputError(f"{_OPTION}: {folder} holds no {WEIGHTS}")
    return folder


def refuse_pickles(path: Path) -> None:
    """Raises InputError for a Python pickle, and for a folder that holds one."""
    found = sorted(one for kind in _PICKLES for one in path.glob(kind)) if path.is_dir() else [path]
    if found and any(found[0].match(kind) for kind in _PICKLES):
        raise InputError(
            f"{_OPTION}: {found[0]} is a Python pickle; it may hold code and is not opened; "
            f"save the weights as {WEIGHTS}"
        )


@overload
def _fetched(hub: str, file: str, *, needed: Literal[True] = ...) -> Path: ...


@overload
def _fetched(hub: str, file: str, *, needed: Literal[False]) -> Path | None: ...


def _fetched(hub: str, file: str, *, needed: bool = True) -> Path | None:
    if not hub:
        raise InputError(f"{_OPTION}=hub: the recipe names no published checkpoint (model.hub is empty); {_OTHERWISE}")
    try:
        return fetch(hub, file)
    except NotFetched as error:
        if error.absent and not needed:
            return None
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(f"{_OPTION}=hub: {hub} could not be fetched{offline}: {error}; {_OTHERWISE}") from None
