"""Pascal VOC: one XML file per image, corners in pixels counted from 1, the last pixel included.

So xmin..xmax covers the continuous span xmin-1..xmax, and xmin = xmax is one pixel wide. Objects marked
`difficult` are kept as ordinary objects (VOC's own evaluation leaves them out; COCO's knows no such mark).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from alignrank.data.containment import relative_name
from alignrank.data.decode import is_image_name, list_images, read_size
from alignrank.data.faults import RAISE_FIRST, Box, Faults
from alignrank.data.records import ImageRecord, Rows, build_samples, without_name
from alignrank.data.samples import DataSource, Split
from alignrank.data.xml_tree import xml_root
from alignrank.errors import InputError, nearest
from alignrank.extras import require
from alignrank.files import read_text
from alignrank.terminal.skipped import Skipped

_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def is_folder(folder: Path) -> bool:
    """Whether there are XML files where VOC has them, or in the folders of splits."""
    places = (folder / place for place in ("Annotations", "", "train", "valid", "val"))
    return any(place.is_dir() and _xml_files(place) for place in places)


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """`Annotations/` with `JPEGImages/` and `ImageSets/Main/*.txt`, or XML files beside images, in one or more folders.

    Without lists of names everything is `train`; `trainval` is used where there is no `train`. Classes:
    `classes.txt`, else all names found, sorted. Raises InputError naming the file and field.
    """
    require("train", "defusedxml")
    parts = _split_files(folder, faults)
    parsed = {name: _parsed(files, faults) for name, files in parts.items()}
    every = [item for items in parsed.values() for item in items]
    _check_names(every, faults)
    classes = _classes(folder, every)
    source = DataSource(folder, "voc")
    for name, items in parsed.items():
        with faults.reading():
            setattr(source, name, _read(items, _image_places(folder), classes, folder, faults))
    return source


def _split_files(folder: Path, faults: Faults) -> dict[str, list[Path]]:
    annotations = folder / "Annotations"
    if annotations.is_dir():
        return _listed_files(folder, annotations, faults) or {"train": _xml_files(annotations)}
    parts = {}
    for name, words in _SPLIT_FOLDERS.items():
        place = next((folder / word for word in words if (folder / word).is_dir()), None)
        files = _xml_files(place) if place is not None else []
        if files:
            parts[name] = files
    return parts or {"train": _xml_files(folder)}


def _xml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml")


def _listed_files(folder: Path, annotations: Path, faults: Faults) -> dict[str, list[Path]]:
    lists = folder / "ImageSets" / "Main"
    parts = {}
    for name, files in {"train": ("train.txt", "trainval.txt"), "val": ("val.txt",), "test": ("test.txt",)}.items():
        path = next((lists / file for file in files if (lists / file).is_file()), None)
        if path is None:
            continue
        names = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if line.strip():
                try:
                    stem = relative_name(line.strip(), where=f"{path}: line {number}", field="name")
                except InputError as error:
                    faults.refuse("unsafe_path", str(error))
                    continue
                if not (annotations / f"{stem}.xml").is_file():
                    # Lists of one class carry a flag behind the name; names themselves may hold spaces.
                    stem = stem.split()[0]
                names.append(annotations / f"{stem}.xml")
        if not names:
            continue
        absent = [xml for xml in names if not xml.is_file()]
        if name == "test" and len(absent) == len(names):
            continue  # VOC publishes the test images of some years without annotations.
        for xml in absent:
            faults.refuse("unreadable_annotations", f"{xml}: is listed in {path}, but there is no such file")
        parts[name] = [xml for xml in names if xml not in set(absent)]
    return parts


def _parsed(files: Sequence[Path], faults: Faults) -> list[tuple[Path, Element]]:
    items = []
    for xml in files:
        try:
            items.append((xml, xml_root(xml, "annotation")))
        except InputError as error:
            faults.refuse("unreadable_annotations", str(error))
    return items


def _classes(folder: Path, items: Sequence[tuple[Path, Element]]) -> tuple[str, ...]:
    path = folder / "classes.txt"
    if path.is_file():
        lines = read_text(path).splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if not names or len(set(names)) != len(names):
            raise InputError(f"{path}: must name each class once, one a line")
        return names
    found = {_name(thing) for _, root in items for thing in root.findall("object")} - {""}
    if not found:
        raise InputError(f"{folder}: none of the {len(items)} annotations has an object, so there are no classes")
    return tuple(sorted(found))


def _check_names(items: Sequence[tuple[Path, Element]], faults: Faults) -> None:
    for xml, root in items:
        for index, thing in enumerate(root.findall("object")):
            if not _name(thing):
                faults.refuse("invalid_record", f"{xml}: object {index + 1}: name is missing")


def _name(thing: Element) -> str:
    return (thing.findtext("name") or "").strip()


def _image_places(folder: Path) -> dict[str, dict[str, Path]]:
    """Image folder -> file name or stem -> path, read once."""
    places = [folder, *(folder / word for words in _SPLIT_FOLDERS.values() for word in words)]
    places += [folder / name for name in ("JPEGImages", "images", "Images")]
    listing: dict[str, dict[str, Path]] = {}
    for place in places:
        if place.is_dir():
            # File names come last, so that they win over another file's stem.
            paths = list_images(place, recursive=place.name in ("JPEGImages", "images", "Images"))
            listing[str(place)] = {p.stem: p for p in paths} | {p.name: p for p in paths}
    return listing


def _image_of(xml: Path, root: Element, places: dict[str, dict[str, Path]]) -> Path | None:
    stated = root.findtext("filename")
    names = [xml.stem]
    if stated and stated.strip():
        plain = relative_name(stated.strip(), where=str(xml), field="filename")
        name = plain.rsplit("/", 1)[-1]
        names = [name, xml.stem] if is_image_name(name) else [xml.stem, name]
    folders = [str(xml.parent), *(key for key in places if key != str(xml.parent))]
    # The same name may lie in train/ and in valid/: beside the XML wins, elsewhere only without such siblings.
    if places.get(str(xml.parent)):
        folders = folders[:1]
    return next((places[f][n] for n in names for f in folders if f in places and n in places[f]), None)


def _read(
    items: Sequence[tuple[Path, Element]],
    places: dict[str, dict[str, Path]],
    classes: tuple[str, ...],
    folder: Path,
    faults: Faults,
) -> Split:
    rows, records, skipped = Rows(), list[ImageRecord](), list[Skipped]()
    labels = {name: i for i, name in enumerate(classes)}
    for number, (xml, root) in enumerate(items, start=1):
        try:
            image = _image_of(xml, root, places)
        except InputError as error:
            faults.refuse("unsafe_path", str(error))
            continue
        boxes = [_object(xml, thing, index, labels, faults) for index, thing in enumerate(root.findall("object"))]
        if image is None:
            skipped.append(Skipped("image", str(xml), "there is no image for it", "missing_image"))
            continue
        try:
            size = _size(xml, root, faults) or read_size(image)
        except InputError as error:
            if str(error).startswith(str(xml)):
                raise
            skipped.append(Skipped("image", str(image), without_name(error, image), "unreadable_image"))
            continue
        for index, entry in enumerate(boxes):
            if entry is None:
                rows.refused.append(len(records))
            else:
                rows.add(len(records), entry[1], entry[0], f"{xml}: object {index + 1}")
        records.append(ImageRecord(image, number, size))
    if not records:
        raise InputError(
            f"{folder}: none of the {len(items)} annotated images is here (JPEGImages, images, or beside the XML)"
        )
    samples, skipped_boxes, notes = build_samples(records, rows, place=str, faults=faults)
    return Split(classes, tuple(range(1, len(classes) + 1)), samples, folder, skipped + skipped_boxes, notes)


def _size(xml: Path, root: Element, faults: Faults) -> tuple[int, int] | None:
    """(height, width) of the size element; None where it is absent or refused, or 0, as some tools write it."""
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(xml, "size", key, size.findtext(key) or "0", faults) for key in ("height", "width"))
    if height is None or width is None:
        return None
    if height < 0 or width < 0 or height != int(height) or width != int(width):
        text = f"width and height must be whole numbers, are {width:g} and {height:g}"
        faults.refuse("invalid_record", f"{xml}: size: {text}")
        return None
    return (int(height), int(width)) if height and width else None


def _object(xml: Path, thing: Element, index: int, labels: dict[str, int], faults: Faults) -> tuple[int, Box] | None:
    name, place = _name(thing), f"object {index + 1}"
    if name and name not in labels:
        text = f"name {name[:80]!r} is not in classes.txt; {nearest(name, labels)}"
        faults.refuse("unknown_class", f"{xml}: {place}: {text}")
    bndbox = thing.find("bndbox")
    if bndbox is None:
        faults.refuse("invalid_record", f"{xml}: {place}: bndbox is missing")
        return None
    left, top, right, bottom = (
        _number(xml, f"{place}: bndbox", key, bndbox.findtext(key) or "", faults)
        for key in ("xmin", "ymin", "xmax", "ymax")
    )
    if left is None or top is None or right is None or bottom is None or name not in labels:
        return None
    if right < left or bottom < top:
        # One step back undoes the inclusive pixel, so that the report shows a negative side.
        return labels[name], (left, top, min(right, left), min(bottom, top))
    return labels[name], (left - 1, top - 1, right, bottom)


def _number(xml: Path, place: str, key: str, text: str, faults: Faults) -> float | None:
    try:
        value, kind = float(text), "non_finite"
    except ValueError:
        value, kind = math.nan, "invalid_record"
    if math.isfinite(value):
        return value
    faults.refuse(kind, f"{xml}: {place}: {key} must be a number, is {text.strip()[:40]!r}")
    return None
