"""Files of a repository on the Hugging Face hub, through the hub's own client, each checked when it is used.

Cache, resumed downloads, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are the client's own. It counts its users unless
HF_HUB_DISABLE_TELEMETRY is set, which is done here before it is imported.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from alignrank.errors import first_line

# Variables that the client reads when it is imported.
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1"}
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NotFetched(Exception):
    """Why a file cannot be had, in a few words; the caller says what else would do. absent: it is not in the
    repository, which is there.
    """

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


def quiet_client() -> None:
    """Switch the client's own telemetry off, before its first import; somebody's own setting stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def offline() -> bool:
    """Whether somebody has told the client not to ask anybody."""
    quiet_client()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def fetch(repository: str, file: str, revision: str | None = None) -> Path:
    """A file in the client's cache, fetched where it is not there or has changed. Raises NotFetched."""
    quiet_client()
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, hf_hub_url, try_to_load_from_cache

    known: Any = None
    try:
        known = try_to_load_from_cache(repository, file, revision=revision)
        if not isinstance(known, str) and not offline():
            _check_reach(hf_hub_url(repository, file, revision=revision))
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # of the client, of what it is built on, of the system
        if known is _CACHED_NO_EXIST and _nobody_answered(error):
            raise NotFetched(f"there is no {file} in it", absent=True) from None
        raise NotFetched(reason_of(error, file, revision), absent=_is_absent(error)) from None


def _check_reach(address: str) -> None:
    """Raises NotFetched where nobody answers: a download would try for half a minute, with a line for each time.

    What else may be wrong, the download says.
    """
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    try:
        get_hf_file_metadata(address)
    except (HfHubHTTPError, FileMetadataError):
        return
    except Exception as error:
        raise NotFetched(f"{constants.ENDPOINT} cannot be reached ({first_line(error)})") from None


def reason_of(error: Exception, file: str = "", revision: str | None = None) -> str:
    """What the client's error says, in a few words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):  # before its base class
        return f"its owner grants access on its page; then {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository, or it is private: {LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"there is no revision {revision!r} of it"
    if _is_absent(error):
        return f"there is no {file} in it"
    if _nobody_answered(error) and offline():
        return f"there is no {file} in the cache of the hub's client"
    said = getattr(error, "server_message", None)
    return " ".join(said.split())[:200] if isinstance(said, str) and said else first_line(error)


def check_download(path: Path) -> None:
    """The client names a large file by the checksum that the hub has told, and does not compare the two.

    Raises NotFetched where they differ.
    """
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        raise NotFetched(f"{path} is damaged (its checksum does not match); remove {blob} and it is fetched again")


def _is_absent(error: Exception) -> bool:
    """Whether the repository is there and the file is not."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _nobody_answered(error: Exception) -> bool:
    """Whether there was no connection, or nobody was asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error, NotFetched | LocalEntryNotFoundError)
