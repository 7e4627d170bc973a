"""Label Studio's exports "JSON" (the list of tasks) and "JSON-MIN" (one object for each annotation), of versions 1.x.

Coordinates are per cent of the picture, x and y the upper left corner, about which a `rotation` turns. Polygons and
ellipses become their bounding boxes; brushes, key points and choices have none. Of a task the annotation counts that is
marked as ground truth, else the one that was changed last; cancelled ones and predictions never do. A task without any
is not annotated yet, and its picture is left out; an annotation without regions says that nothing is there.

The export holds no pictures but their addresses, which are never opened: the files are looked for below the folder of
the JSON file, by the ends of their paths. Classes: `classes.txt` or `labels.txt`, else all names found, sorted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from alignrank.data.annotated import Annotated, Tally, classes_of, read_splits, size_of
from alignrank.data.coco import load_json
from alignrank.data.containment import relative_name
from alignrank.data.decode import is_image_name, read_size
from alignrank.data.faults import RAISE_FIRST, Box, Faults, LineError
from alignrank.data.finding import Finder
from alignrank.data.outlines import around, ellipse, enough, json_number, json_points, turned
from alignrank.data.samples import DataSource
from alignrank.errors import InputError
from alignrank.files import read_start

# The kinds of regions that are boxes or have one, as the key of their labels; `labels` is of any shape.
_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")
_NO_BOX = ("brushlabels", "keypointlabels", "bitmasklabels", "videorectangle", "vectorlabels", "hypertextlabels")
# What Label Studio puts before the name of a file that is uploaded.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
# Fields of JSON-MIN that are not the task's data.
_OWN_FIELDS = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
# Fields that tell a shape.
_SHAPES = ("width", "radiusX", "points")
Record = dict[str, Any]


def is_file(path: Path) -> bool:
    """Whether a JSON file is a list whose first object looks like a task, and not like one of COCO's results."""
    start = read_start(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    keys = rb'"(annotations|completions|predictions|data|annotation_id|lead_time|file_upload)"\s*:'
    return start.startswith(b"[") and re.search(keys, start) is not None and b'"category_id"' not in start


def read_files(place: Path, files: dict[str, Path], faults: Faults = RAISE_FIRST) -> DataSource:
    """One export for each split. place: the file or folder that was named."""
    tally, source = Tally(), DataSource(place, "label_studio")
    parts: dict[str, list[Annotated]] = {}
    for name, path in files.items():
        with faults.reading():
            parts[name] = _read_file(path, tally, faults)
    folder = place if place.is_dir() else place.parent
    classes = classes_of(folder, (item for items in parts.values() for item in items))
    read_splits(source, parts, classes, faults)
    tally.conclude(source, faults)
    return source


@dataclass(slots=True)
class _Task:
    """A picture's address and the regions of the annotation that counts; None where there is none."""

    where: str
    address: str | None
    regions: list[Any] | None
    others: int = 0


def _read_file(path: Path, tally: Tally, faults: Faults) -> list[Annotated]:
    document = load_json(path)
    if not isinstance(document, list) or not all(isinstance(task, dict) for task in document):
        raise InputError(f"{path}: must hold a list of tasks, as Label Studio exports JSON and JSON-MIN")
    if not document:
        raise InputError(f"{path}: has no task")
    finder = Finder(path.parent)
    tasks = list((_tasks if any("data" in task for task in document) else _minimal)(document, path))
    others = sum(task.others for task in tasks)
    for _ in range(others):
        tally.leave_out("further annotation of a task")
    return [_item(task, finder, tally, faults) for task in tasks]


def _tasks(document: list[Record], path: Path) -> Iterator[_Task]:
    for index, task in enumerate(document):
        where = f"{path}: task {task.get('id', f'[{index}]')}"
        found = task.get("annotations", task.get("completions"))
        annotations = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        chosen, others = _chosen(one for one in annotations if not one.get("was_cancelled"))
        regions = None if chosen is None else chosen.get("result")
        data = task.get("data")
        address = _address(data if isinstance(data, dict) else {})
        yield _Task(where, address, regions if isinstance(regions, list) else None, others)


def _minimal(document: list[Record], path: Path) -> Iterator[_Task]:
    """Annotations of one task follow from its id, or from its picture where there is none."""
    of_task: dict[str, list[Record]] = {}
    for index, record in enumerate(document):
        key = record.get("id", _address(record) or f"[{index}]")
        of_task.setdefault(json.dumps(key, default=str), []).append(record)
    for key, records in of_task.items():
        chosen, others = _chosen(records)
        assert chosen is not None
        # Controls have names of the user's; an annotation without regions has no such field at all.
        lists = [value for name, value in chosen.items() if name not in _OWN_FIELDS and isinstance(value, list)]
        regions = [region for value in lists for region in value if isinstance(region, dict)]
        yield _Task(f"{path}: task {key}", _address(chosen), regions, others)


def _chosen(annotations: Iterable[Record]) -> tuple[Record | None, int]:
    """The annotation that counts, and how many do not beside it. Times are ISO 8601, which sort as text."""
    ranked = sorted(annotations, key=lambda one: (one.get("ground_truth") is True, str(one.get("updated_at") or "")))
    return (ranked[-1], len(ranked) - 1) if ranked else (None, 0)


def _address(data: Record) -> str | None:
    """The first value that names a picture; `image` before others."""
    values = [data.get("image"), *(value for key, value in data.items() if key not in _OWN_FIELDS)]
    return next((value for value in values if isinstance(value, str) and is_image_name(_path_in(value))), None)


def _path_in(address: str) -> str:
    """The path of an address: `?d=` of local files, else without host and query; per cents decoded."""
    try:
        parts = urlsplit(address.strip().replace("\\", "/"))
    except ValueError:
        return ""
    local = parse_qs(parts.query).get("d")
    if local and parts.path.rstrip("/").endswith("local-files"):
        return local[0].replace("\\", "/").lstrip("/")
    # What may stand behind a `?` or `#` in the plain name of a file is part of it.
    plain = parts.path if parts.scheme or parts.path.startswith("/") else address.strip().replace("\\", "/")
    return unquote(plain).lstrip("/")


def _item(task: _Task, finder: Finder, tally: Tally, faults: Faults) -> Annotated:
    item = Annotated(task.where, None)
    if task.address is None:
        item.absent = "its data names no picture"
        return item
    try:
        plain = relative_name(_path_in(task.address), where=task.where, field="image")
    except InputError as error:
        item.refuse_name(error, "address", faults)
        return item
    if task.regions is None:
        item.absent, item.kind = "it has no annotation that was not cancelled", "unannotated_image"
        return item
    found = _find(plain, finder)
    if isinstance(found, str) and "://" in task.address:
        found = f"its picture is at an address, which is not opened, and {found}"
    item.take(found)
    for index, region in enumerate(_once(task.regions)):
        _add(region, f"{task.where}: region {index + 1}", item, tally, faults)
    return item


def _once(regions: list[Any]) -> list[Any]:
    """Without shapes whose labels stand in another region of the same id, which repeats the shape."""
    labelled = {str(region["id"]) for region in regions if _is_labelled(region) and "id" in region}
    return [
        region
        for region in regions
        if _is_labelled(region) or not isinstance(region, dict) or str(region.get("id")) not in labelled
    ]


def _is_labelled(region: Any) -> bool:
    value = region.get("value", region) if isinstance(region, dict) else None
    return isinstance(value, dict) and any(key in value for key in _LABELS)


def _find(plain: str, finder: Finder) -> Path | str:
    found = finder.find(plain)
    folder, _, name = plain.rpartition("/")
    if isinstance(found, str) and _UPLOAD_PREFIX.match(name):
        # The file as it was called before it was uploaded.
        again = finder.find(f"{folder}/{name[9:]}".lstrip("/"))
        return again if isinstance(again, Path) else found
    return found


def _add(region: Any, where: str, item: Annotated, tally: Tally, faults: Faults) -> None:
    """Append the objects of a region, one for each of its labels."""
    with item.reading(where, faults):
        if not isinstance(region, dict) or not isinstance(region.get("value", region), dict):
            raise LineError("invalid_record", "must be an object with a value")
        value = region.get("value", region)  # JSON-MIN has them in one
        key = next((key for key in _LABELS if key in value), None)
        if key is None:
            # Choices and texts are no regions at all.
            if word := next((word for word in (*_NO_BOX, *_SHAPES) if word in value), None):
                tally.leave_out("shape without label" if word in _SHAPES else word)
            return
        names = value[key]
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise LineError("invalid_record", f"{key} must be a list of names, is {str(names)[:80]}")
        if region.get("image_rotation") not in (None, 0):
            raise LineError("invalid_record", "image_rotation: regions on a turned picture are not read")
        kind, box = _box(value, _size(region, value, where, item, faults))
        if kind != "rectangle":
            tally.outline(kind)
        item.objects.extend((name.strip(), box, where) for name in names)


def _size(region: Record, value: Record, where: str, item: Annotated, faults: Faults) -> tuple[int, int]:
    """(height, width) that per cents are of: as in the region, else as the file's header says."""
    height, width = (region.get(key, value.get(key)) for key in ("original_height", "original_width"))
    size = size_of(height, width, where, faults) or item.size
    if size is None and item.image is not None:
        try:
            size = read_size(item.image)
        except InputError:
            size = (1, 1)  # the picture is left out with all that is on it
    item.size = item.size or (size if item.image is not None else None)
    return size or (1, 1)


def _box(value: Record, size: tuple[int, int]) -> tuple[str, Box]:
    """What kind of shape it is, and its box in pixels."""
    height, width = size
    sx, sy = width / 100, height / 100
    if "points" in value:
        points = enough(json_points(value["points"], "points"), 3, "points")
        return "polygon", around((x * sx, y * sy) for x, y in points)
    angle = json_number(value.get("rotation", 0) or 0, "rotation")
    x, y = (json_number(value.get(key), key) for key in ("x", "y"))
    if "radiusX" in value:
        rx, ry = (json_number(value.get(key), key) for key in ("radiusX", "radiusY"))
        return "ellipse", ellipse((x * sx, y * sy), (rx * sx, ry * sy), angle)
    w, h = (json_number(value.get(key), key) for key in ("width", "height"))
    left, top = x * sx, y * sy
    # In pixels, where a turn keeps lengths: per cents of width and height are two units.
    box = turned((left, top, left + w * sx, top + h * sy), angle, (left, top))
    return "rotated rectangle" if angle % 360 else "rectangle", box
