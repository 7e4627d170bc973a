"""Opening the images of a split: in memory where they fit."""

from __future__ import annotations

from typing import Literal

from alignrank.data.loader import Images
from alignrank.data.samples import Split
from alignrank.engine.device import free_memory
from alignrank.engine.progress import steps
from alignrank.engine.skipped import report_skipped
from alignrank.errors import InputError


def opened(
    split: Split, side: int, *, cache: Literal["auto", "ram", "off"] = "auto", processes: int = 1, quiet: bool = False
) -> Images:
    """The images of a split for inputs of `side`; decoded now if all fit in half of the free memory (`auto`).

    Each of `processes` holds its own copy. Those that do not decode are left out, with a counted warning
    unless `quiet`. Raises InputError if none is left.
    """
    images = Images(split, side)
    fits = images.num_bytes() * processes < free_memory() / 2
    if cache == "ram" or (cache == "auto" and fits):
        with steps("decoding images", len(images)) as advance:
            skipped = images.keep_all(advance)
        if skipped and not quiet:
            report_skipped(skipped)
        if len(images) == 0:
            raise InputError(f"{images.split.source}: no image can be decoded")
    return images
