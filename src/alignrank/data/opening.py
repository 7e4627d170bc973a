"""Opening a data set for use: one split of it, and its images, in memory where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from alignrank.data.loader import Images
from alignrank.data.samples import Split
from alignrank.data.source import read
from alignrank.device import free_memory
from alignrank.errors import InputError, nearest
from alignrank.input_size import InputSize
from alignrank.terminal.progress import steps, warn
from alignrank.terminal.skipped import report_skipped
from alignrank.weights.published import same_classes


def open_split(data: str, name: str) -> Split:
    """One split of a data set, for use; what was left out is reported.

    Raises InputError if the data set does not have it, or no image of it can be used.
    """
    with steps("reading annotations", None):
        source = read(data, require_val=False)
    splits = source.splits()
    if name not in splits:
        raise InputError(f"{source.path}: has no split {name!r}; {nearest(name, splits)}")
    report([splits[name]])
    if not splits[name].samples:
        raise InputError(f"{splits[name].source}: the {name} split has no usable image")
    return splits[name]


def check_classes(path: Path, classes: Sequence[str], split: Split) -> None:
    """Raises InputError where weights, of `path`, and data do not belong together; `sofa` is `couch`."""
    if not same_classes(classes, split.classes):
        raise InputError(
            f"{path}: was made for the classes {', '.join(classes)[:200]}; "
            f"{split.source} has {', '.join(split.classes)[:200]}"
        )


def report(splits: Iterable[Split]) -> None:
    """Say what was left out of splits, and their notes; what several share is said once."""
    splits = list(splits)
    report_skipped([item for split in splits for item in split.skipped])
    for note in dict.fromkeys(note for split in splits for note in split.notes):
        warn(note)


def opened(
    split: Split,
    size: InputSize,
    *,
    cache: Literal["auto", "ram", "off"] = "auto",
    processes: int = 1,
    quiet: bool = False,
) -> Images:
    """The images of a split for inputs of `size`; decoded now if all fit in half of the free memory (`auto`).

    Each of `processes` holds its own copy. Progress is shown, and those that do not decode are left out
    with a counted warning, unless `quiet`. Raises InputError if none is left.
    """
    images = Images(split, size)
    fits = images.num_bytes() * processes < free_memory() / 2
    if cache == "ram" or (cache == "auto" and fits):
        with steps("decoding images", len(images), quiet=quiet) as advance:
            skipped = images.keep_all(advance)
        if skipped and not quiet:
            report_skipped(skipped)
        if len(images) == 0:
            raise InputError(f"{images.split.source}: no image can be decoded")
    return images
