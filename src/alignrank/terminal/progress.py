"""Lines for a person and progress of long work; everything goes to stderr, stdout is for results.

Progress is a bar on a terminal and in a notebook. Elsewhere (a log, a pipe) work that takes long says how far it is
whenever nothing has been said for SILENCE seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from alignrank.errors import printable
from alignrank.terminal.notebook import NotebookBar, display_of_notebook
from alignrank.terminal.works import Teller, Work

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

T = TypeVar("T")

# Seconds without a line, of all work together, after which the innermost work under way says how far it is.
SILENCE = 30.0
# Seconds from one drawing of a notebook's bar to the next.
REDRAW = 1.0
_last_line = time.monotonic()


@cache
def console() -> Console:
    """Rich's, of stderr. Rich takes a twentieth of a first prediction to import, which often has nothing to say."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line for the user."""
    _print(message)


def warn(message: str) -> None:
    """One line that stands out."""
    _print(f"warning: {message}", style="yellow")


def _print(message: str, style: str | None = None) -> None:
    global _last_line
    console().print(printable(message), style=style, markup=False, soft_wrap=True)
    _last_line = time.monotonic()


class _Face(Protocol):
    """How works are shown, from the beginning of the outermost to its end."""

    def begin(self, work: Work) -> object: ...

    def end(self, work: Work) -> object: ...


class _Bars:
    """On a terminal: a bar for each work, which vanishes with it."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._tasks: dict[Work, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console(),
            transient=True,
        )

    def begin(self, work: Work) -> None:
        if not self._tasks:
            self._progress.start()
        task = self._tasks[work] = self._progress.add_task(work.description, total=work.total, completed=work.done)
        work.changed = lambda work: self._progress.update(task, completed=work.done, description=work.description)

    def end(self, work: Work) -> None:
        self._progress.remove_task(self._tasks.pop(work))
        if not self._tasks:
            self._progress.stop()


class _Notebook(Teller):
    """In a notebook: one output, drawn every REDRAW seconds."""

    def __init__(self, display: Callable[..., object]) -> None:
        self._bar = NotebookBar(display)
        self._drawn = time.monotonic()
        super().__init__(self._draw, lambda works: self._drawn + REDRAW)

    def _draw(self, works: Sequence[Work]) -> None:
        self._drawn = time.monotonic()
        self._bar.draw(works)

    def end(self, work: Work) -> None:
        super().end(work)
        if not self._works:
            with suppress(Exception):
                self._bar.clear()


def _log() -> Teller:
    """Without terminal: lines, none before the outermost work has taken SILENCE seconds."""
    return Teller(lambda works: say(works[-1].line()), lambda works: max(works[0].began, _last_line) + SILENCE)


def _face() -> _Face:
    # What rich takes for a terminal by the environment alone, such as a log in colour, shows no bars.
    if sys.stderr is not None and sys.stderr.isatty() and console().is_terminal and not console().is_dumb_terminal:
        return _Bars()
    display = display_of_notebook()
    return _log() if display is None else _Notebook(display)


_under_way: list[Work] = []
_shown: _Face | None = None
_lock = threading.Lock()


@contextmanager
def shown(work: Work, *, quiet: bool = False) -> Iterator[Work]:
    """Show `work`, beside what is under way already, until the block ends. quiet: do not (others show the same)."""
    global _shown
    if quiet:
        yield work
        return
    with _lock:
        face = _shown = _shown or _face()
        _under_way.append(work)
        face.begin(work)
    try:
        yield work
    finally:
        with _lock:
            _under_way.remove(work)
            if not _under_way:
                _shown = None
            face.end(work)


@contextmanager
def steps(description: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """`with steps("decoding", 100) as advance:` — call advance() after each step."""
    with shown(Work(description, total), quiet=quiet) as work:
        yield work.advance


def counted(items: Iterable[T], advance: Callable[[], object]) -> Iterator[T]:
    """The same items; advance() when the next one is asked for, so when the work on one is done."""
    for item in items:
        yield item
        advance()
