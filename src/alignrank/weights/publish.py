"""Weights put on the Hugging Face hub: the weights file, its recipe, a page for the reader, figures and a picture."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignrank.errors import InputError
from alignrank.folders import RUN_FILE
from alignrank.plug.hub import LOG_IN, offline, quiet_client, reason_of
from alignrank.version import __version__
from alignrank.weights import checkpoint
from alignrank.weights.card import PICTURE, Story, write_card
from alignrank.weights.catalog import BEST, OF_HUB
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.explain import explained_recipe

README, RECIPE, METRICS, RESULTS = "README.md", "recipe.yaml", "metrics.json", "results.json"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class PushOptions:
    """token: where not given the client's own, of `hf auth login` or HF_TOKEN. private: of a new repository; None: as
    its owner has set. data: what the data set is called, an address, or hf://datasets/OWNER/NAME; where not given its
    name in the run. licence: of the weights, as the hub writes it. picture: put the run's sheet of validation images
    there, too.

    Raises InputError for values that cannot be.
    """

    token: str | None = None
    private: bool | None = None
    data: str | None = None
    licence: str | None = None
    picture: bool = True

    def __post_init__(self) -> None:
        for option in ("token", "data", "licence"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise InputError(f"push: {option} must be text, got {'an empty one' if value == '' else repr(value)}")
        if self.licence is not None and not _LICENCE.fullmatch(self.licence):
            raise InputError(
                f"push: licence: {self.licence!r} is no identifier as the hub writes it, such as apache-2.0"
            )


def push(loaded: Checkpoint, repository: str, options: PushOptions, *, changed: bool = False) -> dict[str, Any]:
    """Make the repository if there is none, and put everything there in one commit.

    changed: the weights are no longer those that were measured. Returns {address, url, files}; the address names the
    commit. Raises InputError where it cannot be done; the repository then holds what it held.
    """
    repository = repository.removeprefix("hf://")
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"push: {repository!r} must be OWNER/NAME")
    if offline():
        raise InputError("push: HF_HUB_OFFLINE is set, so nothing can be sent; a run's folder holds the same weights")
    with TemporaryDirectory(prefix="alignrank-push-") as folder:
        files = write_repository(loaded, repository, options, Path(folder), changed=changed)
        return {**_send(repository, files, options), "files": sorted(file.name for file in files)}


def write_repository(
    loaded: Checkpoint, repository: str, options: PushOptions, folder: Path, *, changed: bool = False
) -> list[Path]:
    """The files of the repository, made in `folder`. Paths of this machine are in none of them."""
    of_run = loaded.path.parent
    measured = loaded.path.name == BEST and not changed
    results = _read(of_run / RESULTS) if measured else {}
    story = Story(
        results, _read(of_run / RUN_FILE), options.data, options.licence,
        picture=options.picture and bool(results) and (of_run / PICTURE).is_file(),
    )  # fmt: skip
    recipe = loaded.recipe.without_pretrained()
    # Where figures of a training go is its owner's, and so is what the reader has installed.
    recipe = replace(recipe, train=recipe.train.model_copy(update={"loggers": "auto"}))
    known = replace(loaded, recipe=recipe, metrics={} if changed else loaded.metrics)
    checkpoint.save(folder / OF_HUB, known.weights, recipe=known.recipe, classes=known.classes, metrics=known.metrics)
    (folder / RECIPE).write_text(explained_recipe(known.recipe), encoding="utf-8")
    if results:
        (folder / METRICS).write_text(json.dumps(results["metrics"], indent=1) + "\n", encoding="utf-8")
    if story.picture:
        shutil.copyfile(of_run / PICTURE, folder / PICTURE)
    (folder / README).write_text(write_card(repository, known, story), encoding="utf-8")
    return sorted(folder.iterdir())


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that a run has written; nothing where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _send(repository: str, files: list[Path], options: PushOptions) -> dict[str, str]:
    quiet_client()
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if options.token is None and get_token() is None:
        raise InputError(f"push: {repository}: the hub wants to know who writes: {LOG_IN}")
    api = HfApi(token=options.token, library_name="alignrank", library_version=__version__)
    added = [CommitOperationAdd(file.name, file) for file in files]
    try:
        api.create_repo(repository, private=options.private, exist_ok=True)
        commit = api.create_commit(repository, added, commit_message=f"Weights, by AlignRank {__version__}")
    except Exception as error:  # of the client, of what it is built on, of the system
        raise InputError(f"push: {repository} could not be written: {_why(error)}") from None
    return {"address": f"hf://{repository}@{commit.oid}", "url": str(commit.repo_url)}


def _why(error: Exception) -> str:
    cause = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401:
        return f"the hub does not accept the token: {LOG_IN}, or give another token"
    if status == 403:
        return "the token may not write there; give one with write access, or another owner"
    return reason_of(cause)
