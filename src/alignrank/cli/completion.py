"""What the Tab key offers for a value: names of recipes, of formats, of splits. Files are the shell's own affair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

from alignrank.weights.catalog import model_rows, recipe_names


def recipes(incomplete: str) -> list[str]:
    """Those that ship."""
    return _beginning(incomplete, recipe_names())


def published_recipes(incomplete: str) -> list[str]:
    """Those for which there are weights to fetch."""
    return _beginning(incomplete, [row["name"] for row in model_rows() if row["licence"]])


def one_of(*names: str) -> Callable[[str], list[str]]:
    """A fixed choice."""

    def names_beginning(incomplete: str) -> list[str]:
        return _beginning(incomplete, names)

    return names_beginning


def choice(*names: str, before: str = "", after: str = "") -> Any:
    """An option whose help lists the names, and whose value is completed with them."""
    text = f"{', '.join(names[:-1])} or {names[-1]}"
    return typer.Option(help=f"{before}{text}{after}", autocompletion=one_of(*names))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
