"""Benchmarks take hours and are run by nobody but us: what they import is there, also where they import it late."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(script: Path) -> set[tuple[str, str]]:
    """(module, name) of everything that the script imports from the package, at any depth; name "" is the module."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "alignrank":
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "alignrank"}
    return found


def test_there_are_scripts() -> None:
    assert sum(bool(imported(script)) for script in SCRIPTS) > 20
    assert ("alignrank.nn.csp", "split_entries") in imported(ROOT / "benchmarks" / "latency_eager.py")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_exists(script: Path) -> None:
    for module, name in sorted(imported(script)):
        found = importlib.import_module(module)
        if name and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
