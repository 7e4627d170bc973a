"""Tables of pictures and objects as Hugging Face `datasets` writes them: Parquet, and Arrow files of `save_to_disk`.

A row is a picture: `image`, its bytes or its path, and `objects`, with `bbox` (left, top, width, height in pixels) and
`category` of each object, as a struct of lists or a list of structs. Class names are those of the `ClassLabel` in the
file's metadata; else categories that are words are the names, and numbers are called by their digits. Memory holds a
row group, not the file. The bytes become files of the cache, written when they are first read. The package `datasets`
is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignrank.data.annotated import SPLIT_FOLDERS, Annotated, read_splits, size_of
from alignrank.data.containment import relative_name
from alignrank.data.decode import list_images, read_size
from alignrank.data.faults import RAISE_FIRST, Box, Faults, LineError
from alignrank.data.outlines import json_number
from alignrank.data.parquet_files import CATEGORIES, IMAGES, OBJECTS, batches, class_names, column
from alignrank.data.samples import DataSource
from alignrank.data.unpacked import suffix_of, unpacked_folder, write_once
from alignrank.errors import InputError
from alignrank.extras import require
from alignrank.files import read_start

SUFFIXES = (".parquet", ".arrow")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_SPLIT_OF = {word: name for name, words in SPLIT_FOLDERS.items() for word in words}
# Less than this beyond the border is rounding.
_ROUNDING = 1.0


def is_folder(folder: Path) -> bool:
    """Whether there are such files here, in `data`, or in the folders of splits."""
    return bool(_files(folder))


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """`data/train-00000-of-00002.parquet` and the like, by the words of their names and folders; others are `train`."""
    return _read(folder, _files(folder), faults)


def read_file(path: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """One file, as `train`."""
    return _read(path, {"train": [path]}, faults)


def _files(folder: Path) -> dict[str, list[Path]]:
    """Files by split, in the order of their names; files without a split's name only where no other has one."""
    places = [folder, folder / "data", *(folder / word for word in _SPLIT_OF)]
    found: dict[str, list[Path]] = {}
    for place in places:
        if not place.is_dir():
            continue
        for path in list_images(place, named=lambda name: name.lower().endswith(SUFFIXES)):
            words = [*re.findall("[a-z]+", path.stem.lower()), *([place.name.lower()] if place != folder else [])]
            split = next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), "")
            found.setdefault(split, []).append(path)
    rest = found.pop("", [])
    if not found:
        return {"train": rest} if rest else {}
    return {name: found[name] for name in ("train", "val", "test") if name in found}


@dataclass(slots=True)
class _Table:
    """What all files of a data set share. names: of its ClassLabel. found: the classes that its rows name."""

    root: Path
    faults: Faults
    names: tuple[str, ...] | None = None
    found: set[str] = field(default_factory=set)


def _read(place: Path, files: dict[str, list[Path]], faults: Faults) -> DataSource:
    require("parquet", "pyarrow")
    table = _Table(place if place.is_dir() else place.parent, faults)
    parts: dict[str, list[Annotated]] = {}
    for name, paths in files.items():
        with faults.reading():
            parts[name] = [item for path in paths for item in _read_file(path, table)]
    source = DataSource(place, "parquet")
    classes = table.names or tuple(sorted(table.found, key=lambda name: (len(name) * name.isdecimal(), name)))
    if not classes:
        raise InputError(f"{place}: none of its rows has an object, so there are no classes")
    corners = _turn_corners([item for items in parts.values() for item in items])
    read_splits(source, parts, classes, faults, first_id=0)
    if corners:
        for split in source.splits().values():
            split.notes.append(f"{place}: {corners}")
    return source


def _turn_corners(items: list[Annotated]) -> str:
    """Where boxes can only be corners (x1, y1, x2, y2), they are made that; what is to be said of it.

    As left, top, width and height at least one would leave its picture, and as corners all lie in theirs.
    """
    beyond = count = 0
    for item in items:
        if item.size is None:
            continue
        height, width = item.size
        for _, (x1, y1, x2, y2), _ in item.objects:
            count += 1
            beyond += x2 > width + _ROUNDING or y2 > height + _ROUNDING
            right, bottom = x2 - x1, y2 - y1
            if not (x1 < right <= width + _ROUNDING and y1 < bottom <= height + _ROUNDING):
                return ""
    if not beyond:
        return ""
    for item in items:
        item.objects = [(name, (x1, y1, x2 - x1, y2 - y1), at) for name, (x1, y1, x2, y2), at in item.objects]
    return (
        f"bbox was read as x1, y1, x2, y2: as left, top, width, height {beyond:,} of {count:,} boxes would leave "
        "their images"
    )


def _read_file(path: Path, table: _Table) -> Iterator[Annotated]:
    cached = _Cached(unpacked_folder(path))
    rows = 0
    for schema, batch in batches(path, cached.complete):
        if not rows:
            _take_names(class_names(schema.metadata), path, table)
        pictures = batch.column(batch.schema.names.index(column(schema, IMAGES, path)))
        objects = column(schema, OBJECTS, path)
        try:
            described = batch.select([n for n in batch.schema.names if n in (objects, "width", "height")]).to_pylist()
        except UnicodeDecodeError:
            raise InputError(f"{path}: {objects}: holds text that is not UTF-8") from None
        for index, row in enumerate(described):
            where = f"{path}: row {rows}"
            item = Annotated(where, None)
            _find_image(item, pictures, index, cached.file(rows), table)
            item.size = size_of(row.get("height"), row.get("width"), where, table.faults) or _true_size(item.image)
            _add_objects(item, row[objects], table)
            rows += 1
            yield item
    cached.finish()


class _Cached:
    """The files that one table's pictures become. `complete` says that all of them are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = folder / "complete"
        paths = list_images(folder) if folder.is_dir() else []
        self._by_row = {path.stem: path for path in paths}
        self.complete = read_start(self._mark) == str(len(paths)).encode()

    def file(self, row: int) -> Path:
        """That of a row; without a suffix where it has none yet."""
        return self._by_row.get(f"{row:08d}", self.folder / f"{row:08d}")

    def finish(self) -> None:
        """All rows were read."""
        if self.folder.is_dir() and not self.complete:
            write_once(self._mark, str(len(list_images(self.folder))).encode())


def _take_names(names: tuple[str, ...] | None, path: Path, table: _Table) -> None:
    if names is None:
        return
    if len(set(names)) != len(names):
        raise InputError(f"{path}: its ClassLabel names a class twice")
    if table.names not in (None, names):
        raise InputError(f"{path}: its class names differ from those of the files before it")
    table.names = names


def _find_image(item: Annotated, pictures: Any, index: int, file: Path, table: _Table) -> None:
    """The file of a picture: that of the cache, written now if there is none, else the one of its path."""
    if file.suffix:
        item.image = file
        return
    try:
        picture = pictures[index].as_py()
    except UnicodeDecodeError:
        item.absent = "the path of its image is not UTF-8"
        return
    data, name = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, picture)
    if isinstance(data, bytes):
        item.image = write_once(file.with_suffix(suffix_of(data, name)), data)
        return
    if not isinstance(name, str):
        item.absent = "its image has neither bytes nor a path"
        return
    try:
        path = table.root / relative_name(name, where=item.where, field="image: path")
    except InputError as error:
        item.refuse_name(error, "path", table.faults)
        return
    item.take(path if os.path.isfile(path) else f"there is no file {name!r} in {table.root}")


def _true_size(image: Path | None) -> tuple[int, int] | None:
    try:
        return None if image is None else read_size(image)
    except InputError:
        return None  # said where the picture is left out


def _add_objects(item: Annotated, objects: Any, table: _Table) -> None:
    if isinstance(objects, dict):
        boxes, categories = (_field(objects, names) for names in (_BOXES, CATEGORIES))
        if boxes is None and categories is None:
            return
        if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
            text = f"{item.where}: objects: must have as many bbox as category"
            table.faults.refuse("invalid_record", text, item.image)
            item.refused += 1
            return
        pairs = list(zip(boxes, categories, strict=True))
    elif objects is None or (isinstance(objects, list) and all(isinstance(one, dict) for one in objects)):
        pairs = [(_field(one, _BOXES), _field(one, CATEGORIES)) for one in objects or []]
    else:
        text = f"{item.where}: objects: must be a struct of lists or a list of structs, is {str(objects)[:80]}"
        table.faults.refuse("invalid_record", text, item.image)
        item.refused += 1
        return
    for index, (box, category) in enumerate(pairs):
        where = f"{item.where}: object {index}"
        with item.reading(where, table.faults):
            item.objects.append((_class_name(category, table), _box(box), where))


def _field(objects: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((objects[name] for name in names if name in objects), None)


def _class_name(category: Any, table: _Table) -> str:
    if isinstance(category, int) and not isinstance(category, bool):
        if table.names is None:
            name = str(category)
        elif 0 <= category < len(table.names):
            name = table.names[category]
        else:
            raise LineError("unknown_class", f"category {category} is not one of the {len(table.names)} classes")
    elif isinstance(category, str) and category:
        name = category
    else:
        raise LineError("invalid_record", f"category must be a number or a name, is {str(category)[:80]!r}")
    table.found.add(name)
    return name


def _box(box: Any) -> Box:
    if not isinstance(box, list) or len(box) != 4:
        raise LineError("invalid_record", f"bbox must be four numbers, is {str(box)[:80]}")
    left, top, width, height = (json_number(value, "bbox") for value in box)
    return left, top, left + width, top + height
