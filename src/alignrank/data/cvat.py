"""CVAT's own format, "CVAT for images 1.1": one annotations.xml for a task, job or project, and the images beside it.

Boxes are corners in pixels, `xtl, ytl, xbr, ybr`, turned about their middle where they have a `rotation`. Polygons,
ellipses, masks and cuboids become their bounding boxes; points, lines, skeletons and tags have none. Classes are the
task's labels in their order. Of a project `subset` names the split. Tracks ("CVAT for video") name no images and are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from alignrank.data.annotated import Annotated, Tally, read_splits, size_of, split_folders
from alignrank.data.containment import relative_name
from alignrank.data.faults import RAISE_FIRST, Box, Faults, LineError
from alignrank.data.finding import Finder
from alignrank.data.outlines import Point, around, ellipse, enough, number, turned
from alignrank.data.samples import DataSource
from alignrank.data.xml_tree import xml_root
from alignrank.errors import InputError
from alignrank.extras import require
from alignrank.files import read_start

FILE = "annotations.xml"
_SUBSETS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ORDER = ("train", "val", "test")
_CUBOID = ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2")
# What an image may hold that is no box of an object.
_NO_BOX = ("points", "polyline", "skeleton", "tag")


def is_file(path: Path) -> bool:
    """Whether an XML file's outermost element is CVAT's `annotations`."""
    start = read_start(path)
    return b"<annotations>" in start or b"<annotations " in start


def is_folder(folder: Path) -> bool:
    """Whether CVAT's file is here, or in the folders of splits."""
    return bool(_files(folder))


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """`annotations.xml` with its images, or one such folder for each split."""
    return _read(folder, _files(folder), faults)


def read_file(path: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """One file; its splits are the subsets in it, else all is `train`."""
    return _read(path, {"train": path}, faults)


def _files(folder: Path) -> dict[str, Path]:
    if (folder / FILE).is_file() and is_file(folder / FILE):
        return {"train": folder / FILE}
    parts = split_folders(folder, lambda part: (part / FILE).is_file() and is_file(part / FILE))
    return {name: part / FILE for name, part in parts.items()}


def _read(place: Path, files: dict[str, Path], faults: Faults) -> DataSource:
    require("train", "defusedxml")
    tally, source = Tally(), DataSource(place, "cvat")
    parts: dict[str, list[Annotated]] = {}
    classes: dict[str, None] = {}
    for name, path in files.items():
        root = xml_root(path, "annotations")
        if root.find("track") is not None:
            raise InputError(
                f"{path}: holds tracks (CVAT for video), which name no images; export it as 'CVAT for images 1.1'"
            )
        classes |= dict.fromkeys(_labels(root, path))
        images = root.findall("image")
        if not images:
            raise InputError(f"{path}: has no image")
        finder = Finder(path.parent)
        for index, image in enumerate(images):
            subset = _SUBSETS.get((image.get("subset") or "").lower(), "train")
            part = subset if len(files) == 1 else name
            parts.setdefault(part, []).append(_image(image, f"{path}: image {index + 1}", finder, tally, faults))
    ordered = {name: parts[name] for name in _ORDER if name in parts}
    read_splits(source, ordered, [*classes], faults)
    tally.conclude(source, faults)
    return source


def _labels(root: Element, path: Path) -> Iterator[str]:
    """Names of the labels in their order; those of a skeleton's points, which have a parent, are left out."""
    labels = [label for label in root.iterfind("meta//labels/label") if label.find("parent") is None]
    if not labels:
        raise InputError(f"{path}: meta: labels is missing; export it as 'CVAT for images 1.1'")
    for index, label in enumerate(labels):
        name = (label.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{path}: meta: label {index + 1}: name is missing")
        yield name


def _image(image: Element, where: str, finder: Finder, tally: Tally, faults: Faults) -> Annotated:
    name = image.get("name")
    item = Annotated(f"{where} ({(name or '')[:80]})", None)
    try:
        plain = relative_name(name, where=where, field="name")
    except InputError as error:
        item.refuse_name(error, "name", faults)
        return item
    # Of a project the folder of the images is that of the subset, and names do not always say so.
    subset = image.get("subset")
    found = finder.find(f"{subset}/{plain}") if subset and "/" not in subset and ".." not in subset else None
    item.take(found if isinstance(found, Path) else finder.find(plain))
    item.size = size_of(image.get("height"), image.get("width"), where, faults)
    for index, shape in enumerate(image):
        _shape(shape, f"{where}: {shape.tag} {index + 1}", item, tally, faults)
    return item


def _shape(shape: Element, where: str, item: Annotated, tally: Tally, faults: Faults) -> None:
    if shape.tag in _NO_BOX or shape.get("outside") == "1":
        tally.leave_out(shape.tag)
        return
    with item.reading(where, faults):
        if shape.tag not in _BOXES:
            raise LineError("invalid_record", f"{shape.tag[:40]!r} is no shape of 'CVAT for images 1.1'")
        label = (shape.get("label") or "").strip()
        if not label:
            raise LineError("invalid_record", "label is missing")
        item.objects.append((label, _BOXES[shape.tag](shape), where))
        if shape.tag != "box":
            tally.outline(shape.tag)
        elif _angle(shape) % 360:
            tally.outline("rotated box")


def _value(shape: Element, key: str) -> float:
    value = shape.get(key)
    if value is None:
        raise LineError("invalid_record", f"{key} is missing")
    return number(value, key)


def _angle(shape: Element) -> float:
    return number(shape.get("rotation", "0"), "rotation")


def _box(shape: Element) -> Box:
    x1, y1, x2, y2 = (_value(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    return turned((x1, y1, x2, y2), _angle(shape))


def _polygon(shape: Element) -> Box:
    points: list[Point] = []
    for pair in (shape.get("points") or "").split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise LineError("invalid_record", f"points must be x,y;x,y;..., holds {pair[:40]!r}")
        points.append((number(x, "points"), number(y, "points")))
    return around(enough(points, 3, "points"))


def _ellipse(shape: Element) -> Box:
    x, y, rx, ry = (_value(shape, key) for key in ("cx", "cy", "rx", "ry"))
    return ellipse((x, y), (rx, ry), _angle(shape))


def _mask(shape: Element) -> Box:
    """Of the run-length mask only the window that it lies in, which CVAT draws around its pixels."""
    left, top, width, height = (_value(shape, key) for key in ("left", "top", "width", "height"))
    return left, top, left + width, top + height


def _cuboid(shape: Element) -> Box:
    return around((_value(shape, f"x{corner}"), _value(shape, f"y{corner}")) for corner in _CUBOID)


_BOXES: dict[str, Callable[[Element], Box]] = {
    "box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask, "cuboid": _cuboid,
}  # fmt: skip
