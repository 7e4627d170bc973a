"""Tests of what an extra brings are skipped where it is not installed, with the program's own sentence.

`conftest.py` asks here about each failure. The package must indeed be missing: a test that only pretends so fails.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from alignrank.extras import PACKAGES

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
SENTENCE = re.compile(r"the package (\S+) is not installed \(extra '(\w+)' of alignrank\)")


def why_skipped(error: BaseException | None) -> str | None:
    """The sentence, where the error comes of a package that is missing: as the program says it, or of an import."""
    if error is None:
        return None
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        package = PACKAGES.get(module, module)
        extras = sorted(extra for extra, names in packages_of_extras().items() if package in names)
        if extras and not is_installed(package):
            return f"the package {package} is not installed (extra {' or '.join(map(repr, extras))} of alignrank)"
    return why_refused(str(error)) or why_skipped(error.__cause__)


def why_refused(text: str) -> str | None:
    """The sentence in what a program has printed."""
    said = SENTENCE.search(text)
    return said[0] if said is not None and not is_installed(said[1]) else None


def is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def packages_of_extras() -> dict[str, set[str]]:
    """By extra, the packages' names."""
    return {extra: {re.split(r"[<>=!~\[; ]", line)[0] for line in lines} for extra, lines in declared_extras().items()}


def declared_extras() -> dict[str, list[str]]:
    """What pyproject.toml lists, without sums of other extras."""
    declared = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {
        extra: lines for extra, lines in declared.items() if not any(line.startswith("alignrank[") for line in lines)
    }
