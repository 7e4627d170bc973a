"""The verbs that tell of recipes: `config` and `models`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from alignrank.cli.completion import recipes
from alignrank.cli.options import Json, Overrides, print_json, read_overrides
from alignrank.weights.catalog import check_recipe


def config(
    name: Annotated[
        str, typer.Argument(help="a recipe's name (see `alignrank models`) or YAML file", autocompletion=recipes)
    ],
    overrides: Overrides = None,
) -> None:
    """Print a recipe in full, as a YAML file: every option, its default and its meaning."""
    check_recipe(name, "config")
    from alignrank.weights.explain import explained

    sys.stdout.write(explained(name, read_overrides(overrides)))


def models(as_json: Json = False) -> None:
    """List recipes with parameters and FLOPs (80 classes, 640 px, as deployed)."""
    from alignrank.weights.catalog import model_rows, say_table

    rows = model_rows()
    say_table(rows)
    if as_json:
        print_json({"models": rows})
