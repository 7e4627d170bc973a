"""Weights by their address on the Hugging Face hub, `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, as a file here."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from alignrank.errors import InputError
from alignrank.plug.hub import NotFetched, check_download, fetch, offline
from alignrank.plug.published import CONFIG, WEIGHTS

_OTHERWISE = "give a folder that holds the repository's files, or a .safetensors file, instead"
# A path has one slash where the address has two.
_ADDRESS = re.compile(r"hf://?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?")


def parse_address(address: str) -> tuple[str, str | None]:
    """`hf://OWNER/NAME@REVISION` -> OWNER/NAME and the revision, None where none is given. Raises InputError."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"weights: {address}: must be hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    return match["repository"], match["revision"]


@cache
def fetched(address: str) -> Path:
    """The weights file of a repository that `push` has written, in the cache of the hub's client.

    Asked once in a process, so that all of it sees the same weights. Raises InputError where they cannot be had, and
    for what is no repository of ours.
    """
    repository, revision = parse_address(address)
    named = f"hf://{repository}" + (f"@{revision}" if revision else "")
    try:
        theirs = _config_of_others(repository, revision)
        if theirs is not None:
            raise InputError(f"weights: {named}: {_whose(theirs, repository)}")
        path = fetch(repository, WEIGHTS, revision)
        check_download(path)
    except NotFetched as error:
        set_so = " (HF_HUB_OFFLINE is set)" if offline() else ""
        hint = "`alignrank push` writes it" if error.absent else _OTHERWISE
        raise InputError(f"weights: {named} could not be fetched{set_so}: {error}; {hint}") from None
    return path


def _config_of_others(repository: str, revision: str | None) -> dict[str, Any] | None:
    """What `config.json` says, by which transformers, timm and others describe their weights; None where there is none,
    as in repositories of ours.
    """
    try:
        path = fetch(repository, CONFIG, revision)
    except NotFetched as error:
        if error.absent:
            return None
        raise
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        values = None
    return values if isinstance(values, dict) else {}


def _whose(config: dict[str, Any], repository: str) -> str:
    """Whose checkpoint it is that such a `config.json` describes, and which recipe takes it."""
    kind = str(config.get("model_type") or config.get("architecture") or "another library's model")[:60]
    recipes = _recipes_of_hosts()
    exact = [name for name, (architecture, hub) in recipes.items() if hub == repository]
    fitting = exact or [name for name, (architecture, hub) in recipes.items() if architecture == kind]
    if not fitting:
        return f"holds a checkpoint of another library ({kind}), which no recipe takes; see `alignrank models`"
    return (
        f"holds a checkpoint of transformers ({kind}), which the recipe {fitting[0]} takes: "
        f"--model {fitting[0]} model.pretrained=hub model.hub={repository}"
    )


def _recipes_of_hosts() -> dict[str, tuple[str, str]]:
    """{recipe: (architecture of transformers, the repository that it names)}."""
    found = {}
    folder = resources.files("alignrank") / "recipes" / "transformers"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        model = yaml.safe_load(entry.read_text(encoding="utf-8")).get("model", {})
        found[f"transformers/{entry.name.removesuffix('.yaml')}"] = (model.get("architecture"), model.get("hub", ""))
    return found
