"""What the processes of a training do that the first one tells what to do."""

from __future__ import annotations

from alignrank.device import settle_threads
from alignrank.training.fit import fit
from alignrank.training.nodes import Group
from alignrank.training.plan import Plan


def follow(group: Group) -> int:
    """Train as the first process has planned, and wait for its end; the exit code."""
    word = group.hear()
    if isinstance(word, Plan):
        settle_threads()
        fit(word)
        word = group.hear()
    return 1 if isinstance(word, Plan) else word
