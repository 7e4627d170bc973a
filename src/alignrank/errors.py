"""The one error that means "the input is wrong", told apart from faults of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

LISTED = 60  # names in a message
INTERRUPTED, TERMINATED = 130, 143  # exit codes, 128 and the number of the signal


class InputError(ValueError):
    """Bad input from the user: a path, a file's contents, an option.

    The message is one sentence that names the file and the field, and says what to do. The command
    line prints it without a traceback and exits with 2; library users catch it as a `ValueError`.
    """


class TrainingError(RuntimeError):
    """Training cannot go on, and no input is to blame in an obvious way: the loss is not finite, the disk is full.

    The message says what is kept and how to go on. The command line prints it without a traceback and exits with 1.
    """


class WorkerError(RuntimeError):
    """Workers of a prediction died again and again over the same images; what is done is kept.

    The command line prints it without a traceback and exits with 1.
    """


class ExportError(RuntimeError):
    """An exported file does not compute what the network does; it is not written, or not kept.

    A fault of ours, of a converter, or of fewer digits than the network can do with; no input is to blame. The command
    line prints it without a traceback and exits with 1. record: what was found out, by name, where two were compared.
    """

    def __init__(self, message: str, record: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.record = dict(record or {})


def printable(message: str) -> str:
    """The message as one line: names from files can hold line breaks and terminal commands, which are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def first_line(error: Exception) -> str:
    """The beginning of what an error of a library says, which can be pages, for a sentence of ours; its kind where it
    says nothing.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase for an unknown `name`: the nearest known one, and the whole list if it can be read."""
    name, known = str(name), sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(known) > LISTED:
        return f"{hint}{len(known)} are known, such as {', '.join(known[:3])}"
    return f"{hint}known: {', '.join(known)}"
