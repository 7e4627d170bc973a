"""Where the images of a COCO file lie, which of them are there, and their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignrank.data.decode import read_size
from alignrank.data.faults import Faults
from alignrank.data.records import ImageRecord, Rows, without_name
from alignrank.errors import InputError
from alignrank.terminal.skipped import Skipped

Record = dict[str, Any]
# Candidate folders are told apart by looking for at most so many of the listed images.
_NAMES_TRIED = 200


def image_folder(path: Path, names: list[str]) -> Path:
    """The folder that holds the most of the listed images, by the layouts in use; beside the file first."""
    stem = path.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    beside, above = path.parent, path.parent.parent
    folders = [beside, beside / "images", beside / stem, beside / "images" / stem]
    folders += [above / "images", above / "images" / stem, above / stem, above]
    tried = names[:: max(1, len(names) // _NAMES_TRIED)]
    counts = [sum(os.path.lexists(folder / name) for name in tried) for folder in folders]
    best = max(range(len(folders)), key=lambda i: counts[i])
    if counts[best]:
        return folders[best]
    likely = next((f for f in (beside / "images", above / "images") if f.is_dir()), beside)
    raise InputError(
        f"{likely}: none of the {len(names)} images listed in {path} is here (such as {names[0]!r}), nor in other "
        "folders beside the file; is it the right one?"
    )


def present(
    images: list[Record], names: list[str | None], folder: Path, rows: Rows, path: Path, faults: Faults
) -> tuple[list[ImageRecord], Rows, list[Skipped]]:
    """Images whose file is there, the rows on them, and the images left out."""
    listed = _listing({os.path.dirname(name) for name in names if name is not None}, folder)
    records: list[ImageRecord] = []
    skipped: list[Skipped] = []
    position_of: dict[int, int] = {}
    for position, (image, name) in enumerate(zip(images, names, strict=True)):
        if name is None:
            continue
        if name not in listed:
            skipped.append(Skipped("image", f"{path}: {name}", f"there is no such file in {folder}", "missing_image"))
            continue
        size = _size(image, folder / name, f"{path}: images[{position}] (id {image['id']})", faults)
        if isinstance(size, str):
            skipped.append(Skipped("image", str(folder / name), size, "unreadable_image"))
            continue
        position_of[position] = len(records)
        records.append(ImageRecord(folder / name, image["id"], size))
    if not records:
        raise InputError(f"{folder}: none of the {len(names)} images listed in {path} can be read")
    if len(records) == len(images):
        return records, rows, skipped
    kept = Rows(refused=[position_of[position] for position in rows.refused if position in position_of])
    for image_index, *rest in zip(rows.image, rows.boxes, rows.labels, rows.where, rows.areas, rows.crowd, strict=True):
        if image_index in position_of:
            box, label, where, area, crowd = rest
            kept.add(position_of[image_index], box, label, where, area=area, crowd=crowd)
    return records, kept, skipped


def _listing(parents: Iterable[str], folder: Path) -> set[str]:
    """Names relative to `folder` of all files in its sub-folders `parents`: one listing, not a look per image."""
    found: set[str] = set()
    for parent in parents:
        try:
            found.update(f"{parent}/{name}" if parent else name for name in os.listdir(folder / parent))
        except OSError:
            continue
    return found


def _size(image: Record, file: Path, place: str, faults: Faults) -> tuple[int, int] | str:
    """(height, width) as annotated, else from the file's header; the reason where neither is to be had."""
    height, width = image.get("height"), image.get("width")
    for key, value in (("height", height), ("width", width)) if height is not None and width is not None else ():
        if type(value) not in (int, float) or not 0 < value < 2**31 or value != int(value):
            faults.refuse("invalid_record", f"{place}: {key} must be a positive whole number, is {str(value)[:80]!r}")
            height = None
    if height is not None and width is not None:
        return int(height), int(width)
    try:
        return read_size(file)
    except InputError as error:
        return without_name(error, file)
