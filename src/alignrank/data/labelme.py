"""LabelMe: one JSON file for each picture, its shapes as lists of points in pixels.

Read as versions 3 to 5 write it. A rectangle is given by any two of its opposite corners, a circle by its middle and a
point on it. `imagePath` is relative to the JSON file, with slashes of either kind; where there is no such file, the
picture is the one embedded in `imageData`. Classes: `labels.txt` or `classes.txt`, else all names found, sorted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

from alignrank.data.annotated import Annotated, Tally, classes_of, read_splits, size_of, split_folders
from alignrank.data.coco import load_json
from alignrank.data.containment import relative_name
from alignrank.data.decode import list_images
from alignrank.data.faults import RAISE_FIRST, Box, Faults, LineError
from alignrank.data.finding import Finder
from alignrank.data.outlines import around, enough, json_points
from alignrank.data.samples import DataSource
from alignrank.data.unpacked import cache_folder, suffix_of, write_once
from alignrank.errors import InputError
from alignrank.files import read_start

# Files looked at before a folder is taken for another format.
_TRIED = 20
_PLACES = ("", "annotations", "labels")
_NO_BOX = ("point", "line", "linestrip", "points")
# Shapes that are the box around their points, and how many these are at least.
_CORNERS = {"rectangle": 2, "polygon": 3, "rotation": 4, "oriented_rectangle": 4, "quadrilateral": 4}
_IGNORED = "__ignore__"


def is_file(path: Path) -> bool:
    """Whether a JSON file is of LabelMe: an object with `shapes`, at its beginning as LabelMe writes it."""
    start = read_start(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"{") and re.search(rb'"shapes"\s*:\s*\[', start) is not None


def is_folder(folder: Path) -> bool:
    """Whether LabelMe's files are here, or in the folders of splits."""
    return _is_part(folder) or bool(split_folders(folder, _is_part))


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """JSON files beside images, in one folder (`train`) or in those of splits, sub-folders too."""
    folders = split_folders(folder, _is_part) or {"train": folder}
    tally, source = Tally(), DataSource(folder, "labelme")
    finder = Finder(folder)
    parts = {name: _read_part(part, finder, tally, faults) for name, part in folders.items()}
    classes = classes_of(folder, (item for items in parts.values() for item in items))
    read_splits(source, parts, classes, faults)
    tally.conclude(source, faults)
    return source


def _is_part(folder: Path) -> bool:
    return any(is_file(path) for place in _PLACES for path in _json_files(folder / place)[:_TRIED])


def _json_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    if not folder.is_dir():
        return []
    return list_images(folder, recursive=recursive, named=lambda name: name.lower().endswith(".json"))


def _read_part(folder: Path, finder: Finder, tally: Tally, faults: Faults) -> list[Annotated]:
    items = []
    for path in _json_files(folder, recursive=True):
        try:
            items.append(_read_file(path, finder, tally, faults))
        except InputError as error:
            faults.refuse("unreadable_annotations", str(error))
    return items


def _read_file(path: Path, finder: Finder, tally: Tally, faults: Faults) -> Annotated:
    document = load_json(path)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list):
        raise InputError(f"{path}: is not of LabelMe: it must hold an object with a list of shapes")
    item = Annotated(str(path), None)
    item.size = size_of(document.get("imageHeight"), document.get("imageWidth"), str(path), faults)
    try:
        item.take(_image(path, document, finder))
    except InputError as error:
        item.refuse_name(error, "imagePath", faults)
    for index, shape in enumerate(shapes):
        _add(shape, f"{path}: shapes[{index}]", item, tally, faults)
    return item


def _image(path: Path, document: dict[str, Any], finder: Finder) -> Path | str:
    """The picture's file, or why there is none. Raises InputError for a name that leaves the data set."""
    # The name as seen from the data set's folder: LabelMe's may go up to a folder beside that of the JSON files.
    above = os.path.relpath(path.parent, finder.folder)
    name = document.get("imagePath")
    plain = name.replace("\\", "/") if isinstance(name, str) else name
    if isinstance(plain, str) and plain.strip() and not plain.startswith("/") and ":" not in plain.partition("/")[0]:
        plain = f"{above}/{plain}"
    plain = relative_name(plain, where=str(path), field="imagePath")
    if os.path.isfile(finder.folder / plain):
        return finder.folder / plain
    embedded = document.get("imageData")
    if isinstance(embedded, str) and embedded:
        try:
            data = base64.b64decode(embedded, validate=True)
        except (binascii.Error, ValueError):
            return "its imageData is no picture in base64"
        # By its contents: a file of the cache is never an old one.
        digest = hashlib.sha256(data).hexdigest()
        file = cache_folder() / "unpacked" / "labelme" / digest[:2] / f"{digest[2:34]}{suffix_of(data, plain)}"
        return write_once(file, data)
    return finder.find(plain)


def _add(shape: Any, where: str, item: Annotated, tally: Tally, faults: Faults) -> None:
    with item.reading(where, faults):
        if not isinstance(shape, dict):
            raise LineError("invalid_record", "must be an object with label and points")
        label, kind = shape.get("label"), shape.get("shape_type") or "polygon"  # old files have polygons only
        if not isinstance(label, str) or not label.strip():
            raise LineError("invalid_record", f"label must be text, is {str(label)[:80]!r}")
        if not isinstance(kind, str) or (kind not in _CORNERS and kind not in (*_NO_BOX, "circle", "mask")):
            raise LineError("invalid_record", f"shape_type {str(kind)[:40]!r} is none of LabelMe's")
        if kind in _NO_BOX or label == _IGNORED:
            tally.leave_out(_IGNORED if label == _IGNORED else kind)
            return
        item.objects.append((label.strip(), _box(kind, shape), where))
        if kind != "rectangle":
            tally.outline(kind)


def _box(kind: str, shape: dict[str, Any]) -> Box:
    points = json_points(shape.get("points"), "points")
    if kind == "circle":
        (x, y), (on_x, on_y) = enough(points, 2, "points")[:2]
        radius = math.hypot(on_x - x, on_y - y)
        return x - radius, y - radius, x + radius, y + radius
    if kind == "mask":
        # Its two corners are the first and the last pixel of the mask.
        x1, y1, x2, y2 = around(enough(points, 2, "points"))
        return x1, y1, x2 + 1, y2 + 1
    return around(enough(points, _CORNERS[kind], "points"))
