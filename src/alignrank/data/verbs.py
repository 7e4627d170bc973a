"""The `data` verbs: look at, convert and split data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignrank.config import apply_overrides
from alignrank.data.convert import convert as write_format
from alignrank.data.opening import open_split, report
from alignrank.data.sheet import SheetOptions, write_sheet
from alignrank.data.source import read
from alignrank.data.split import split as make_split
from alignrank.errors import InputError
from alignrank.folders import new_file
from alignrank.input_size import InputSize
from alignrank.terminal.progress import say, steps
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig


def show(data: str, out: Path, *, split: str, options: SheetOptions) -> None:
    """Draw a sheet of samples of one split, plain or as augmented for training."""
    new_file(out, "out")
    chosen = open_split(data, split)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(chosen, out, options)
    say(f"{chosen.num_boxes} objects of {len(chosen.classes)} classes in {len(chosen)} images; wrote {out}")


def sheet_options(overrides: Mapping[str, Any], *, imgsz: Any, seed: int, count: int, augmented: bool) -> SheetOptions:
    """From words of the command line; overrides: `augment.field` and `data.field`. Raises InputError for others."""
    values: dict[str, Any] = {"train": {"imgsz": imgsz, "seed": seed}, "augment": {}, "data": {}}
    for key in overrides:
        if key.partition(".")[0] not in values:
            raise InputError(f"command line: {key}: is no option of pictures; use augment.field or data.field")
    values = apply_overrides(values, overrides, where="command line")
    train = TrainConfig.parse(values["train"], where="command line: train")
    augment = AugmentConfig.parse(values["augment"], where="command line: augment")
    data = DataConfig.parse(values["data"], where="command line: data")
    size = InputSize.of(train.imgsz, rect=data.rect_in_training, fit=data.fitting)
    return SheetOptions(size, augment, train.seed, count, augmented)


def convert(data: str, out: Path, *, to: str, link: bool) -> dict[str, Any]:
    """Write a data set in another format; {out, images, objects, skipped}."""
    with steps("reading annotations", None):
        source = read(data, require_val=False)
    skipped = [item for part in source.splits().values() for item in part.skipped]
    report(source.splits().values())
    with steps(f"writing {sum(map(len, source.splits().values()))} images", None):
        written = write_format(source, out, to, link=link)  # type: ignore[arg-type]
    if written.crowd_left_out:
        say(f"{written.crowd_left_out} crowd regions were left out: {to} has none")
    say(f"wrote {written.images} images and {written.boxes} objects to {out}")
    return {"out": str(out), "images": written.images, "objects": written.boxes, "skipped": len(skipped)}


def split(data: str, out: Path, *, val_fraction: float, seed: int) -> dict[str, Any]:
    """Write a train/val split; {out, train, val} with image counts."""
    with steps("reading annotations", None):
        source = read(data, require_val=False)
    with steps(f"splitting {sum(map(len, source.splits().values()))} images", None):
        train, val = make_split(source, out, val_fraction=val_fraction, seed=seed)
    report([train])
    say(f"wrote {len(train)} training and {len(val)} validation images to {out}")
    return {"out": str(out), "train": len(train), "val": len(val)}
