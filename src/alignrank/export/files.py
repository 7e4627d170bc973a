"""What the formats' files share: where metadata goes that is one text, and how to say what a file is not."""

from __future__ import annotations

import json
from pathlib import Path

from alignrank.errors import InputError

# Name of the text in which formats without metadata of their own hold all of it, as JSON.
ABOUT = "alignrank.json"


def text_of(about: dict[str, str]) -> str:
    """All metadata as one text."""
    return json.dumps(about)


def about_of(text: str, path: Path) -> dict[str, str]:
    """The metadata in a text that `text_of` wrote; none in an empty one. Raises InputError where it is damaged."""
    try:
        about = json.loads(text or "{}")
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise InputError(f"{path}: its metadata is damaged; export it again")
    return about
