"""The `data` verbs: look at, convert and split data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignrank.data.convert import convert as write_format
from alignrank.data.samples import Split
from alignrank.data.source import read
from alignrank.data.split import split as make_split
from alignrank.engine.folders import new_file
from alignrank.engine.progress import say
from alignrank.engine.skipped import report_skipped
from alignrank.errors import InputError, nearest


def open_split(data: str, name: str) -> Split:
    """One split of a data set, for use; what was left out is reported.

    Raises InputError if the data set does not have it, or no image of it can be used.
    """
    source = read(data, require_val=False)
    splits = source.splits()
    if name not in splits:
        raise InputError(f"{source.path}: has no split {name!r}; {nearest(name, splits)}")
    report_skipped(splits[name].skipped)
    if not splits[name].samples:
        raise InputError(f"{splits[name].source}: the {name} split has no usable image")
    return splits[name]


def show(
    data: str,
    out: Path,
    *,
    split: str,
    count: int,
    imgsz: int,
    augmented: bool,
    seed: int,
    overrides: Mapping[str, Any],
) -> None:
    """Draw a sheet of samples of one split, plain or as augmented for training."""
    from alignrank.engine.evaluation import write_training_sheet
    from alignrank.engine.recipe import load_recipe

    new_file(out, "out")
    settings = {"train.imgsz": imgsz, "train.seed": seed, **overrides}
    recipe = load_recipe("yolov8-n", overrides=settings, where="command line")
    chosen = open_split(data, split)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_training_sheet(chosen, recipe, out, count=count, augmented=augmented)
    say(f"{chosen.num_boxes} objects of {len(chosen.classes)} classes in {len(chosen)} images; wrote {out}")


def convert(data: str, out: Path, *, to: str, link: bool) -> dict[str, Any]:
    """Write a data set in another format; {out, images, objects, skipped}."""
    source = read(data, require_val=False)
    skipped = [item for part in source.splits().values() for item in part.skipped]
    report_skipped(skipped)
    written = write_format(source, out, to, link=link)  # type: ignore[arg-type]
    if written.crowd_left_out:
        say(f"{written.crowd_left_out} crowd regions were left out: {to} has none")
    say(f"wrote {written.images} images and {written.boxes} objects to {out}")
    return {"out": str(out), "images": written.images, "objects": written.boxes, "skipped": len(skipped)}


def split(data: str, out: Path, *, val_fraction: float, seed: int) -> dict[str, Any]:
    """Write a train/val split; {out, train, val} with image counts."""
    source = read(data, require_val=False)
    train, val = make_split(source, out, val_fraction=val_fraction, seed=seed)
    say(f"wrote {len(train)} training and {len(val)} validation images to {out}")
    return {"out": str(out), "train": len(train), "val": len(val)}
