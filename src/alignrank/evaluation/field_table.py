"""Receptive fields and their ratios as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from alignrank.terminal.progress import console


def say_field(result: Mapping[str, Any]) -> None:
    """What `field` measured: sizes and growth by level, pairs of pooled cells and the next level, FINE's tokens."""
    tables = [_levels(result), _pairs(result["pooled"])]
    if result["tokens"]:
        tables.append(_tokens(result["tokens"]))
    for table in tables:
        console().print(table)
        console().print()


def _levels(result: Mapping[str, Any]) -> Table:
    table = Table("map", "stride", "sigma, px", "to the level before", box=None)
    for part, growth in result["growth"].items():
        of_part = [row for row in result["fields"] if row["part"] == part]
        for row, ratio in zip(of_part, ["", *map(_ratio, growth["ratios"])], strict=True):
            table.add_row(part, str(row["stride"]), _px(row["sigma"]), ratio)
        table.add_row("", "", "mean", _ratio(growth["mean"]))
    return table


def _pairs(rows: list[Mapping[str, Any]]) -> Table:
    table = Table("backbone, pooled", "cells", "sigma, px", "next level's", "ratio", box=None)
    for row in rows:
        cells = f"{row['cells']} x {row['cells']}"
        table.add_row(f"stride {row['stride']}", cells, *_pair(row))
    return table


def _tokens(rows: list[Mapping[str, Any]]) -> Table:
    table = Table("FINE", "sigma of low token, px", "of high token", "ratio", box=None)
    for row in rows:
        table.add_row(row["module"], *_pair(row))
    return table


def _pair(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return _px(row["sigma_fine"]), _px(row["sigma_coarse"]), _ratio(row["ratio"])


def _px(sigma: float | None) -> str:
    return "-" if sigma is None else f"{sigma:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
