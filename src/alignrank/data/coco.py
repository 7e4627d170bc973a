"""COCO JSON: a file with `images`, `annotations` and `categories`, boxes as left, top, width, height.

Category and image ids are kept as written (to 64 bits). Masks are never decoded: a crowd region enters
with its box. Key points are left out, and that is said. Sizes come from the JSON, from the image's header
where the JSON has none.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from alignrank.data.coco_images import Record, image_folder, present
from alignrank.data.containment import relative_name
from alignrank.data.faults import RAISE_FIRST, Box, Faults
from alignrank.data.outlines import turned
from alignrank.data.records import Rows, build_samples
from alignrank.data.samples import Split
from alignrank.errors import InputError
from alignrank.files import read_text

_MAX_ID = 2**63
_MAX_AREA = 1e18
_MAX_ANGLE = 3600  # degrees; NaN is no angle
_NO_LABEL = -1


def read_file(path: Path, faults: Faults = RAISE_FIRST) -> Split:
    """One annotation file -> one split, classes in the order of their ids.

    Raises InputError naming the file, the record and the field. Boxes without area and images without
    file are left out (`Split.skipped`).
    """
    document = load_json(path)
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: must hold an object with images, annotations and categories, holds a "
            f"{type(document).__name__} (a results file?)"
        )
    images = _objects(document, "images", path)
    annotations = _objects(document, "annotations", path)
    categories, refused = _categories(_objects(document, "categories", path), annotations, path, faults)
    if not images:
        raise InputError(f"{path}: images is empty")
    ids, names = _images(images, path, faults)
    # Objects of a refused class go with it: the class is the fault, not each of them.
    labels = dict.fromkeys(refused, _NO_LABEL) | {category: i for i, category in enumerate(categories)}
    rows = _rows(annotations, ids, labels, path, faults)
    if not any(names):
        raise InputError(f"{path}: none of the {len(images)} entries of images can be used")
    folder = image_folder(path, [name for name in names if name is not None])
    records, rows, skipped = present(images, names, folder, rows, path, faults)
    samples, skipped_boxes, notes = build_samples(
        records, rows, place=lambda where: f"{path}: {_called(where)}", faults=faults
    )
    notes += _key_points(annotations, path, faults)
    return Split(tuple(categories.values()), tuple(categories), samples, path, skipped + skipped_boxes, notes)


def _key_points(annotations: list[Record], path: Path, faults: Faults) -> list[str]:
    number = sum(1 for annotation in annotations if annotation.get("keypoints"))
    if not number:
        return []
    note = f"{path}: {number:,} object{'s have' if number > 1 else ' has'} key points: left out, only the box is used"
    faults.note("key_points", note)
    return [note]


def load_json(path: Path) -> Any:
    """The parsed file; UTF-8 with or without byte-order mark. Raises InputError naming the file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: is not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:
        raise InputError(
            f"{path}: is not usable JSON ({type(error).__name__}: nested too deep or a number too long)"
        ) from None


def _objects(document: Record, key: str, path: Path) -> list[Record]:
    value = document.get(key)
    if value is None:
        raise InputError(f"{path}: {key} is missing; a COCO file has images, annotations and categories")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{path}: {key} must be a list of objects")
    return value


def _called(where: object) -> str:
    """An annotation in words: by its id, or by its position where it has none. `where`: (position, id)."""
    position, identifier = where if isinstance(where, tuple) else (where, None)
    return f"annotation {identifier}" if isinstance(identifier, int) else f"annotations[{position}]"


def _identifier(record: Record, key: str, place: str, faults: Faults) -> int | None:
    value = record.get(key)
    if type(value) is int and -_MAX_ID <= value < _MAX_ID:
        return value
    if value is None:
        reason = "is missing"
    elif type(value) is not int:
        reason = f"must be an integer, is {str(value)[:80]!r} ({type(value).__name__})"
    else:
        reason = f"{str(value)[:80]} does not fit into 64 bits"
    faults.refuse("invalid_record", f"{place}: {key} {reason}")
    return None


def _categories(
    categories: list[Record], annotations: list[Record], path: Path, faults: Faults
) -> tuple[dict[int, str], list[int]]:
    """Names by id, sorted, and the ids that are refused."""
    names: dict[int, str] = {}
    refused: list[int] = []
    taken: set[str] = set()
    for index, category in enumerate(_without_placeholder(categories, annotations)):
        place = f"{path}: categories[{index}]"
        identifier, name = _identifier(category, "id", place, faults), category.get("name")
        if identifier is None:
            continue
        if not isinstance(name, str) or not name:
            faults.refuse("invalid_record", f"{place}: name must be text, is {str(name)[:80]!r}")
        elif identifier in names:
            faults.refuse("duplicate_class", f"{place}: id {identifier} is given twice in categories")
        elif name in taken:
            faults.refuse("duplicate_class", f"{place}: the name {name[:80]!r} is given to two ids in categories")
        else:
            names[identifier] = name
            taken.add(name)
            continue
        refused.append(identifier)
    if not names:
        raise InputError(f"{path}: categories is empty")
    return dict(sorted(names.items())), refused


def _without_placeholder(categories: list[Record], annotations: list[Record]) -> list[Record]:
    """Roboflow puts a category 0 in front that only names the project; it is dropped where nothing uses it."""
    first = next((c for c in categories if c.get("id") == 0 and c.get("supercategory") == "none"), None)
    if first is None or len(categories) < 2 or any(a.get("category_id") == 0 for a in annotations):
        return categories
    others = [c for c in categories if c is not first]
    return others if all(c.get("supercategory") == first.get("name") for c in others) else categories


def _images(images: list[Record], path: Path, faults: Faults) -> tuple[dict[int, int], list[str | None]]:
    """Image id -> position in `images`, and the file name at each position, None where the image is refused."""
    positions: dict[int, int] = {}
    names: list[str | None] = [None] * len(images)
    for position, image in enumerate(images):
        place = f"{path}: images[{position}]"
        identifier = _identifier(image, "id", place, faults)
        if identifier is None:
            continue
        if identifier in positions:
            faults.refuse("duplicate_image_id", f"{place}: id {identifier} is given to two images")
            continue
        positions[identifier] = position
        place = f"{place} (id {identifier})"
        if "file_name" not in image:
            faults.refuse("invalid_record", f"{place}: file_name is missing")
            continue
        try:
            names[position] = relative_name(image["file_name"], where=place, field="file_name")
        except InputError as error:
            faults.refuse("unsafe_path", str(error))
    return positions, names


def _rows(
    annotations: list[Record], images: dict[int, int], labels: dict[int, int], path: Path, faults: Faults
) -> Rows:
    rows, seen = Rows(), set[int]()
    for position, annotation in enumerate(annotations):
        where = (position, annotation.get("id"))
        image_id, category_id, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
        # The straight way first: a file of COCO's size has 860,000 of them.
        if type(image_id) is not int or image_id not in images:
            image_id = _known(annotation, "image_id", images, f"{path}: {_called(where)}", faults)
        if type(category_id) is not int or category_id not in labels:
            category_id = _known(annotation, "category_id", labels, f"{path}: {_called(where)}", faults)
        corners = _box(box, path, where, faults, outlined=bool(annotation.get("segmentation")))
        if corners is not None and "attributes" in annotation:
            corners = _turned(corners, annotation["attributes"])
        if faults.collecting and type(where[1]) is int:
            if where[1] in seen:
                faults.note("duplicate_annotation_id", f"{path}: annotations[{position}]: id {where[1]} stands above")
            seen.add(where[1])
        if image_id is None:
            continue
        if category_id is None or corners is None or labels[category_id] == _NO_LABEL:
            rows.refused.append(images[image_id])
            continue
        area, crowd = _area(annotation.get("area")), annotation.get("iscrowd")
        if crowd not in (None, 0, 1):
            text = f"iscrowd must be 0 or 1, is {str(crowd)[:100]!r}"
            faults.refuse("invalid_record", f"{path}: {_called(where)}: {text}")
        rows.add(images[image_id], corners, labels[category_id], where, area=area, crowd=crowd == 1)
    return rows


def _turned(box: Box, attributes: Any) -> Box:
    """CVAT writes the box as it was before it was turned about its middle, and the angle among its attributes."""
    degrees: Any = attributes.get("rotation") if isinstance(attributes, dict) else None
    if type(degrees) not in (int, float) or not abs(degrees) <= _MAX_ANGLE:
        return box
    return turned(box, degrees)


def _area(value: Any) -> float:
    """The annotated area, px^2; NaN (use the box) where it is absent or impossible."""
    usable = isinstance(value, (int, float)) and 0 < value < _MAX_AREA
    return float(value) if usable else math.nan


def _known(annotation: Record, key: str, known: dict[int, int], place: str, faults: Faults) -> int | None:
    value = _identifier(annotation, key, place, faults)
    if value is None or value in known:
        return value
    kind, listed = ("unknown_image", "images") if key == "image_id" else ("unknown_class", "categories")
    faults.refuse(kind, f"{place}: {key} {value} is not listed in {listed}")
    return None


def _box(box: Any, path: Path, where: tuple[int, object], faults: Faults, *, outlined: bool) -> Box | None:
    """Corners of a `bbox` field. outlined: there is a segmentation."""
    kind = "invalid_record"
    if type(box) is list and len(box) == 4 and all(type(v) is float or type(v) is int for v in box):
        try:
            left, top, width, height = (float(v) for v in box)
        except OverflowError:  # an integer of hundreds of digits
            left = top = width = height = math.inf
        if all(map(math.isfinite, (left, top, width, height))):
            return left, top, left + width, top + height
        kind = "non_finite"
    text = f"bbox must be four finite numbers (left, top, width, height), is {str(box)[:100]}"
    if box is None or box == []:
        text = f"bbox is missing{' (a box is not made from the segmentation)' * outlined}; {text}"
    faults.refuse(kind, f"{path}: {_called(where)}: {text}")
    return None
