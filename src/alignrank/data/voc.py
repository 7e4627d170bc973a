"""Pascal VOC: one XML file per image, corners in pixels counted from 1, the last pixel included.

So xmin..xmax covers the continuous span xmin-1..xmax, and xmin = xmax is one pixel wide. Objects marked
`difficult` are kept as ordinary objects (VOC's own evaluation leaves them out; COCO's knows no such mark).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from alignrank.data.containment import relative_name
from alignrank.data.decode import is_image_name, list_images, read_size
from alignrank.data.records import ImageRecord, Rows, build_samples, without_name
from alignrank.data.samples import DataSource, Skipped, Split
from alignrank.errors import InputError, nearest
from alignrank.files import read_bytes, read_text

Box = tuple[float, float, float, float]
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def read_folder(folder: Path) -> DataSource:
    """`Annotations/` with `JPEGImages/` and `ImageSets/Main/*.txt`, or XML files beside images, in one or more folders.

    Without lists of names everything is `train`; `trainval` is used where there is no `train`. Classes:
    `classes.txt`, else all names found, sorted. Raises InputError naming the file and field.
    """
    parts = _split_files(folder)
    parsed = {name: [(xml, _root(xml)) for xml in files] for name, files in parts.items()}
    classes = _classes(folder, [item for items in parsed.values() for item in items])
    source = DataSource(folder, "voc")
    for name, items in parsed.items():
        setattr(source, name, _read(items, _image_places(folder), classes, folder))
    return source


def _split_files(folder: Path) -> dict[str, list[Path]]:
    annotations = folder / "Annotations"
    if annotations.is_dir():
        return _listed_files(folder, annotations) or {"train": _xml_files(annotations)}
    parts = {}
    for name, words in _SPLIT_FOLDERS.items():
        place = next((folder / word for word in words if (folder / word).is_dir()), None)
        files = _xml_files(place) if place is not None else []
        if files:
            parts[name] = files
    return parts or {"train": _xml_files(folder)}


def _xml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml")


def _listed_files(folder: Path, annotations: Path) -> dict[str, list[Path]]:
    lists = folder / "ImageSets" / "Main"
    parts = {}
    for name, files in {"train": ("train.txt", "trainval.txt"), "val": ("val.txt",), "test": ("test.txt",)}.items():
        path = next((lists / file for file in files if (lists / file).is_file()), None)
        if path is None:
            continue
        names = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if line.strip():
                stem = relative_name(line.strip(), where=f"{path}: line {number}", field="name")
                if not (annotations / f"{stem}.xml").is_file():
                    # Lists of one class carry a flag behind the name; names themselves may hold spaces.
                    stem = stem.split()[0]
                names.append(annotations / f"{stem}.xml")
        if not names:
            continue
        absent = [xml for xml in names if not xml.is_file()]
        if name == "test" and len(absent) == len(names):
            continue  # VOC publishes the test images of some years without annotations.
        if absent:
            raise InputError(f"{absent[0]}: is listed in {path}, but there is no such file")
        parts[name] = names
    return parts


def _root(path: Path) -> Element:
    content = read_bytes(path)
    try:
        root = parse(io.BytesIO(content), forbid_dtd=True)
    except DefusedXmlException:
        raise InputError(f"{path}: declares a document type or entities; these are never expanded") from None
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: is not valid XML ({str(error)[:120]})") from None
    element: Element = root.getroot()
    if element.tag != "annotation":
        raise InputError(f"{path}: the outermost element must be annotation, is {element.tag[:80]!r}")
    return element


def _classes(folder: Path, items: Sequence[tuple[Path, Element]]) -> tuple[str, ...]:
    path = folder / "classes.txt"
    if path.is_file():
        lines = read_text(path).splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if not names or len(set(names)) != len(names):
            raise InputError(f"{path}: must name each class once, one a line")
        return names
    found = {_name(xml, thing, index) for xml, root in items for index, thing in enumerate(root.findall("object"))}
    if not found:
        raise InputError(f"{folder}: none of the {len(items)} annotations has an object, so there are no classes")
    return tuple(sorted(found))


def _name(xml: Path, thing: Element, index: int) -> str:
    name = (thing.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{xml}: object {index + 1}: name is missing")
    return name


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
    items: Sequence[tuple[Path, Element]], places: dict[str, dict[str, Path]], classes: tuple[str, ...], folder: Path
) -> Split:
    rows, records, skipped = Rows(), list[ImageRecord](), list[Skipped]()
    labels = {name: i for i, name in enumerate(classes)}
    for number, (xml, root) in enumerate(items, start=1):
        image = _image_of(xml, root, places)
        boxes = [_object(xml, thing, index, labels) for index, thing in enumerate(root.findall("object"))]
        if image is None:
            skipped.append(Skipped("image", str(xml), "there is no image for it"))
            continue
        try:
            size = _size(xml, root) or read_size(image)
        except InputError as error:
            if str(error).startswith(str(xml)):
                raise
            skipped.append(Skipped("image", str(image), without_name(error, image)))
            continue
        for index, (label, box) in enumerate(boxes):
            rows.add(len(records), box, label, f"{xml}: object {index + 1}")
        records.append(ImageRecord(image, number, size))
    if not records:
        raise InputError(
            f"{folder}: none of the {len(items)} annotated images is here (JPEGImages, images, or beside the XML)"
        )
    samples, skipped_boxes, notes = build_samples(records, rows, place=str)
    return Split(classes, tuple(range(1, len(classes) + 1)), samples, folder, skipped + skipped_boxes, notes)


def _size(xml: Path, root: Element) -> tuple[int, int] | None:
    """(height, width) of the size element; None where it is absent or 0, as some tools write it."""
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(xml, "size", key, size.findtext(key) or "0") for key in ("height", "width"))
    if height < 0 or width < 0 or height != int(height) or width != int(width):
        raise InputError(f"{xml}: size: width and height must be whole numbers, are {width:g} and {height:g}")
    return (int(height), int(width)) if height and width else None


def _object(xml: Path, thing: Element, index: int, labels: dict[str, int]) -> tuple[int, Box]:
    name, place = _name(xml, thing, index), f"object {index + 1}"
    if name not in labels:
        raise InputError(f"{xml}: {place}: name {name[:80]!r} is not in classes.txt; {nearest(name, labels)}")
    bndbox = thing.find("bndbox")
    if bndbox is None:
        raise InputError(f"{xml}: {place}: bndbox is missing")
    left, top, right, bottom = (
        _number(xml, f"{place}: bndbox", key, bndbox.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    if right < left or bottom < top:
        # One step back undoes the inclusive pixel, so that the report shows a negative side.
        return labels[name], (left, top, min(right, left), min(bottom, top))
    return labels[name], (left - 1, top - 1, right, bottom)


def _number(xml: Path, place: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{xml}: {place}: {key} must be a number, is {text.strip()[:40]!r}")
    return value
