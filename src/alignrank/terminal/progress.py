"""Progress of long work on the terminal; everything goes to stderr, stdout is for results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alignrank.errors import printable

console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line for the user."""
    console.print(printable(message), markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line that stands out."""
    console.print(f"warning: {printable(message)}", style="yellow", markup=False, soft_wrap=True)


def bar() -> Progress:
    """A progress display that vanishes when done, and is silent where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def steps(description: str, total: int | None) -> Iterator[Callable[[], None]]:
    """`with steps("decoding", 100) as advance:` — call advance() after each step."""
    with bar() as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)
