"""YOLO: one text file per image, a line `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...` in fractions of the image.

`data.yaml` names the splits (folders, lists of images, or several of them) and the classes. A label file
lies where its image lies, with the last folder `images` replaced by `labels`. What the lines hold, polygons
and key points (`kpt_shape`) among it: `yolo_lines`. The same line twice counts once; an image without label
file has no objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from alignrank.config import read_yaml
from alignrank.data.decode import is_image_name, list_images
from alignrank.data.faults import RAISE_FIRST, Faults
from alignrank.data.records import ImageRecord, Rows, build_samples, sized_images
from alignrank.data.samples import DataSource, Split
from alignrank.data.yolo_lines import LabelLines
from alignrank.data.yolo_readings import KeyPoints
from alignrank.errors import InputError
from alignrank.files import read_text

# The class at the start of each line, whole or as 2.0.
_LEADING_CLASS = re.compile(r"^[ \t]*(\d{1,4})(?:\.0*)?(?=[ \t])", re.MULTILINE)
# Files beside the labels that hold no labels.
_NOT_LABELS = ("classes.txt", "obj.names", "notes.txt", "readme.txt")


def read_yaml_file(path: Path, *, require_val: bool = True, faults: Faults = RAISE_FIRST) -> DataSource:
    """`data.yaml` -> its splits. Raises InputError naming the file and field; nothing is downloaded or executed.

    require_val: refuse a file without `val`, as a user who wrote one expects it to be used.
    """
    options = read_yaml(path)
    key_points = _key_points(options, path)
    lines = LabelLines(path, _class_names(options, path), key_points, settled="kpt_shape" in options)
    root, absent = _root(options, path)
    source = DataSource(path, "yolo")
    for name, keys in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
        value = next((options[key] for key in keys if options.get(key) not in (None, "", [])), None)
        if value is None:
            if name == "train" or (name == "val" and require_val):
                text = "is missing: the images of this split (`alignrank data split` makes a val)"
                faults.refuse("missing_split", f"{path}: {name} {text}")
            continue
        if name == "test" and isinstance(value, str) and not _located(value, root).exists():
            continue  # Roboflow writes a test entry whether or not there is such a folder.
        with faults.reading():
            images = _images(value, root, f"{path}: {name}", absent)
            setattr(source, name, read_images(images, lines, faults))
    lines.conclude(source, faults)
    return source


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """A folder without yaml: `images/{train,val}` with `labels/{train,val}`, `{train,val}/images`, or unsplit.

    Class names come from `classes.txt`, else they are the numbers found.
    """
    source = DataSource(folder, "yolo")
    parts: dict[str, list[Path]] = {}
    for name, words in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
        places = [p for word in words for p in (folder / "images" / word, folder / word / "images")]
        place = next((p for p in places if p.is_dir()), None)
        if place is not None:
            parts[name] = list_images(place, recursive=True)
    if not parts:
        parts["train"] = list_images(folder / "images" if (folder / "images").is_dir() else folder, recursive=True)
    names = _names_beside(folder)
    lines = LabelLines(folder, names or tuple(str(i) for i in range(_highest_class(parts) + 1)))
    for name, images in parts.items():
        with faults.reading():
            if not images:
                raise InputError(f"{folder}: the {name} split has no images")
            setattr(source, name, read_images(images, lines, faults))
    lines.conclude(source, faults)
    return source


def read_images(images: Sequence[Path], lines: LabelLines, faults: Faults = RAISE_FIRST) -> Split:
    """Images and the label files that belong to them -> a split; sizes come from the images' headers.

    Raises InputError naming label file and line, or the folder where no image at all has labels.
    """
    labels = [label_path(image) for image in images]
    present = _label_listing(labels)
    found = [str(label) in present for label in labels]
    if not any(found):
        folder = labels[0].parent
        where = "here (labels folder)" if folder.is_dir() else f"in {folder}, and there is no such folder"
        raise InputError(f"{images[0].parent}: none of the {len(images)} images has a label file {where}")
    records, kept, skipped = sized_images(images, source=lines.source)
    rows, notes = Rows(), _orphans(present, labels, faults)
    for index, position in enumerate(kept):
        if found[position]:
            skipped += lines.read_file(labels[position], rows, index, records[index], faults)
    for position in sorted(set(range(len(images))).difference(kept)) if faults.collecting else ():
        if found[position]:
            # The image cannot be opened: its lines are read for their faults alone.
            image = ImageRecord(images[position], 0, (1, 1))
            lines.for_faults_alone().read_file(labels[position], Rows(), 0, image, faults)
    samples, skipped_boxes, clip_notes = build_samples(records, rows, place=str, faults=faults)
    notes += clip_notes
    ids = tuple(range(len(lines.classes)))
    return Split(lines.classes, ids, samples, lines.source, skipped + skipped_boxes, notes)


def label_path(image: Path) -> Path:
    """Where an image's labels are: .../images/a/b.jpg -> .../labels/a/b.txt, else beside the image."""
    parts = list(image.parent.parts)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"


def _label_listing(labels: Sequence[Path]) -> set[str]:
    """Paths of all text files in the folders of `labels`: one listing instead of a look per image."""
    present: set[str] = set()
    for folder in {label.parent for label in labels}:
        if folder.is_dir():
            present.update(str(folder / name) for name in os.listdir(folder) if name.lower().endswith(".txt"))
    return present


def _orphans(present: set[str], labels: Sequence[Path], faults: Faults) -> list[str]:
    orphans = present - {str(label) for label in labels}
    orphans = {name for name in orphans if os.path.basename(name).lower() not in _NOT_LABELS}
    if not orphans:
        return []
    for name in sorted(orphans):
        faults.note("orphan_label", f"{name}: there is no image for it")
    return [f"{len(orphans)} label file{'s have' if len(orphans) > 1 else ' has'} no image ({min(orphans)})"]


def _class_names(options: dict[str, Any], path: Path) -> tuple[str, ...]:
    if "names" not in options:
        raise InputError(f"{path}: names is missing: the list of class names")
    # As typed: YAML's own types would turn the names no, yes and off into booleans and 010 into 8.
    value = yaml.load(read_text(path), Loader=yaml.BaseLoader)["names"]
    if isinstance(value, dict):
        keys = sorted((int(k) for k in value if isinstance(k, str) and k.isdecimal()), key=int)
        if len(keys) != len(value) or keys != list(range(len(keys))):
            raise InputError(f"{path}: names must be numbered 0, 1, 2, ... without gaps")
        value = [value[k] for k in sorted(value, key=int)]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{path}: names must be a list of class names, or a mapping of 0, 1, 2, ... to them")
    if len(set(value)) != len(value):
        twice = next(name for name in value if value.count(name) > 1)
        raise InputError(f"{path}: names holds {twice[:80]!r} twice")
    if options.get("nc", len(value)) != len(value):
        raise InputError(f"{path}: nc says {str(options['nc'])[:40]} classes, names has {len(value)}")
    return tuple(value)


def _key_points(options: dict[str, Any], path: Path) -> KeyPoints | None:
    value = options.get("kpt_shape")
    if value is None:
        return None
    if type(value) is list and len(value) == 2 and all(type(v) is int for v in value):
        number, size = value
        if number >= 1 and size in (2, 3):
            return number, size
    text = "must be [how many key points, 2 or 3 numbers for each], as in [17, 3]"
    raise InputError(f"{path}: kpt_shape {text}; is {str(value)[:80]}")


def _root(options: dict[str, Any], path: Path) -> tuple[Path, str]:
    """The folder that splits are relative to, and what to say beside one that is not there."""
    value = options.get("path") or "."
    if not isinstance(value, str):
        raise InputError(f"{path}: path must be the name of a folder, is {str(value)[:80]!r}")
    root = path.parent / value
    # Files are written for a folder of data sets: then `path` names the folder that the file is in.
    return (root, "") if root.is_dir() else (path.parent, f", nor does the folder of path, {value}")


def _located(value: str, root: Path) -> Path:
    place = root / value
    if not place.exists() and value.startswith("../"):
        # Roboflow writes ../train/images for the folder beside data.yaml.
        return root / value.removeprefix("../")
    return place


def _images(value: Any, root: Path, field: str, absent: str) -> list[Path]:
    images: dict[Path, None] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str) or "\0" in item:
            raise InputError(f"{field} must be a folder or a list of images, is {str(item)[:80]!r}")
        place = _located(item, root)
        if place.is_dir():
            found = list_images(place, recursive=True)
        elif place.is_file():
            found = _listed_images(place, root)
        else:
            raise InputError(f"{field}: {place} does not exist{absent}")
        if not found:
            raise InputError(f"{field}: {place} holds no images")
        images.update(dict.fromkeys(found))
    return list(images)


def _listed_images(path: Path, root: Path) -> list[Path]:
    """Image paths in a text file, one a line, relative to the data's folder or the file's; inside the data's folder."""
    images = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if "\0" in name or not is_image_name(name):
            raise InputError(f"{path}: line {number}: {name[:80]!r} is not the name of an image")
        candidates = [root / name, path.parent / name]
        found = next((c for c in candidates if c.exists()), candidates[0])
        image = Path(os.path.normpath(found))
        if not any(image.is_relative_to(os.path.normpath(base)) for base in (root, root.resolve(), path.parent)):
            raise InputError(f"{path}: line {number}: {name[:80]!r} leaves the folder of the data, {root}")
        # Behind a link `..` is not the folder above its name.
        images.append(image if image.exists() or not found.exists() else found)
    return images


def _names_beside(folder: Path) -> tuple[str, ...]:
    for path in (folder / "classes.txt", folder / "labels" / "classes.txt", folder / "obj.names"):
        if path.is_file():
            names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
            if len(set(names)) != len(names):
                raise InputError(f"{path}: a class name is given twice")
            return names
    return ()


def _highest_class(parts: dict[str, list[Path]]) -> int:
    highest = 0
    for images in parts.values():
        labels = [label_path(image) for image in images]
        present = _label_listing(labels)
        for label in labels:
            if str(label) in present:
                try:
                    found = _LEADING_CLASS.findall(read_text(label))
                except InputError:
                    continue  # said where its lines are read
                highest = max([highest, *map(int, found)])
    return highest
