"""How libraries are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects after which the program collects garbage; Python's own 700 are for programs without PyTorch's 200,000. On
# the command line a first prediction takes some 7 % less of the processor.
OBJECTS = 10_000


@contextmanager
def collecting_later() -> Iterator[None]:
    """Imports in here are not interrupted to collect garbage, of which they make none.

    PyTorch's are 200,000 objects, which would be walked again and again: .3 to .5 s of a first prediction. Nor are they
    walked when the next few are collected: they count as old.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            # There and back, all ends in the oldest generation, and nothing is walked; what a host froze stays so.
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
