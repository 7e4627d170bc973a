"""A bar below a notebook's cell: Jupyter, Colab and others whose kernel has IPython's display."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from alignrank.terminal.works import Work

_WIDTH = 30  # characters


def display_of_notebook() -> Callable[..., Any] | None:
    """IPython's `display` where a notebook's kernel runs this; None in a terminal, IPython's own included."""
    ipython = sys.modules.get("IPython")
    get = getattr(builtins, "get_ipython", None) or getattr(ipython, "get_ipython", None)
    shell = None if get is None else get()
    kinds = {kind.__name__ for kind in type(shell).__mro__}
    if "ZMQInteractiveShell" not in kinds and getattr(shell, "kernel", None) is None:
        return None
    try:
        display: Callable[..., Any] = import_module("IPython.display").display
    except ImportError:
        return None
    return display


class NotebookBar:
    """One output that is drawn anew, and empty in the end: a line for each work under way."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def draw(self, works: Sequence[Work]) -> None:
        self._show("\n".join(f"{_bar(work)} {work.line()}" for work in works))

    def clear(self) -> None:
        if self._handle is not None:
            self._show("")

    def _show(self, text: str) -> None:
        if self._handle is None:
            self._handle = self._display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)


def _bar(work: Work) -> str:
    if not work.total:
        return "." * _WIDTH
    full = round(_WIDTH * min(work.done / work.total, 1))
    return "#" * full + "." * (_WIDTH - full)
