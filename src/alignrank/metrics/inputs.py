"""COCO ground truth and results, read once and validated, as flat arrays.

Every measure starts from `CocoInputs`, so that none of them meets a NaN, an unknown id or a box of
three numbers. The checks run over whole columns: 500,000 detections take about a second.

Shape letters: I images, K categories, T ground-truth boxes, N detections (all of the data set).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.errors import InputError
from alignrank.files import read_bytes

Array = np.ndarray[Any, Any]
Source = str | PathLike[str] | dict[str, Any] | list[Any]
Id = int | str


@dataclass(frozen=True, slots=True)
class CocoInputs:
    """Validated ground truth and detections; file order is kept, ids are replaced by indices.

    image_ids: I ids, ascending; image_files: the I `file_name`s as they stand in the file, None where one is absent;
    category_ids: K ids, ascending; names: K class names.
    gt_image [T], gt_category [T] int64 indices into the two; gt_boxes [T,4] float64;
    gt_area [T] px^2 (the file's `area`, else width * height: sizes go by it); gt_crowd [T] bool.
    dt_image [N], dt_category [N] int64; dt_boxes [N,4] float64; dt_scores [N] float64.
    Boxes are left, top, width, height in pixels of the original image, the one place where they are
    not xyxy: x + w - x is not w in floating point, and figures must equal COCO's to the last digit.
    """

    image_ids: tuple[Id, ...]
    image_files: tuple[object, ...]
    category_ids: tuple[Id, ...]
    names: tuple[str, ...]
    gt_image: Array
    gt_category: Array
    gt_boxes: Array
    gt_area: Array
    gt_crowd: Array
    dt_image: Array
    dt_category: Array
    dt_boxes: Array
    dt_scores: Array

    def same_truth(self, other: CocoInputs) -> bool:
        """Whether images, classes and objects are the same, in the same order."""
        return (self.image_ids, self.category_ids) == (other.image_ids, other.category_ids) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("gt_image", "gt_category", "gt_boxes", "gt_area", "gt_crowd")
        )

    def only(self, categories: Sequence[Id]) -> CocoInputs:
        """The same with these classes alone, by id. Raises KeyError for an id that is not there."""
        place = {category: k for k, category in enumerate(self.category_ids)}
        kept = sorted(place[category] for category in categories)
        new_index = np.full(len(self.category_ids), -1, dtype=np.int64)
        new_index[kept] = np.arange(len(kept))
        gt, dt = (new_index[category] >= 0 for category in (self.gt_category, self.dt_category))
        return replace(
            self,
            category_ids=tuple(self.category_ids[k] for k in kept),
            names=tuple(self.names[k] for k in kept),
            gt_image=self.gt_image[gt],
            gt_category=new_index[self.gt_category[gt]],
            gt_boxes=self.gt_boxes[gt],
            gt_area=self.gt_area[gt],
            gt_crowd=self.gt_crowd[gt],
            dt_image=self.dt_image[dt],
            dt_category=new_index[self.dt_category[dt]],
            dt_boxes=self.dt_boxes[dt],
            dt_scores=self.dt_scores[dt],
        )


def read_inputs(gt: Source, dt: Source) -> CocoInputs:
    """Read and check ground truth `gt` and detections `dt`: paths of COCO JSON files or parsed objects.

    An empty list of detections is legal. Raises InputError naming the file, the record, the field and
    the value for anything else that COCO's figures are not defined on.
    """
    truth, truth_name = _load(gt, "ground truth")
    results, results_name = _load(dt, "detections")
    if not isinstance(truth, dict) or not all(isinstance(truth.get(k), list) for k in _GT_LISTS):
        raise InputError(
            f"{truth_name}: not a COCO ground truth: expected an object with lists {', '.join(map(repr, _GT_LISTS))}"
        )
    if not isinstance(results, list):
        looks = " (this looks like a ground-truth file)" if isinstance(results, dict) and "images" in results else ""
        raise InputError(f"{results_name}: not COCO detections: expected a list of detections with a 'score'{looks}")

    images = _Column(truth_name, "image", truth["images"])
    categories = _Column(truth_name, "category", truth["categories"])
    image_ids, category_ids = images.unique_ids(), categories.unique_ids()
    image_index = {value: i for i, value in enumerate(image_ids)}
    category_index = {value: i for i, value in enumerate(category_ids)}
    file_of = {record["id"]: record.get("file_name") for record in truth["images"]}
    name_of = {record["id"]: str(record.get("name", record["id"])) for record in truth["categories"]}

    objects = _Column(truth_name, "annotation", truth["annotations"])
    if any("id" in record for record in objects.records):
        objects.unique_ids()
    gt_boxes = objects.boxes()
    found = _Column(results_name, "detection", results)
    return CocoInputs(
        image_ids=image_ids,
        image_files=tuple(file_of[value] for value in image_ids),
        category_ids=category_ids,
        names=tuple(name_of[value] for value in category_ids),
        gt_image=objects.indices("image_id", image_index, "an image"),
        gt_category=objects.indices("category_id", category_index, "a category"),
        gt_boxes=gt_boxes,
        gt_area=objects.areas(gt_boxes),
        gt_crowd=objects.flags("iscrowd"),
        dt_image=found.indices("image_id", image_index, "an image"),
        dt_category=found.indices("category_id", category_index, "a category"),
        dt_boxes=found.boxes(),
        dt_scores=found.numbers("score"),
    )


_GT_LISTS = ("images", "annotations", "categories")
_NUMBERS = (int, float, np.integer, np.floating)


def _load(source: Source, role: str) -> tuple[Any, str]:
    """The parsed object and the name that messages give it."""
    if not isinstance(source, str | PathLike):
        return source, f"<{role}>"
    path = Path(source)
    content = read_bytes(path)
    try:
        return json.loads(content), str(path)
    except (ValueError, RecursionError) as error:  # not JSON, not Unicode, nested without end
        raise InputError(f"{path}: {role} file is not valid JSON: {error}") from None


class _Column:
    """The records of one list of a file, checked a column at a time."""

    def __init__(self, file: str, kind: str, records: list[Any]) -> None:
        self.file, self.kind, self.records = file, kind, records
        for i, record in enumerate(records if set(map(type, records)) - {dict} else ()):
            if not isinstance(record, dict):
                raise self.error(i, "", f"is {_shown(record)}, expected an object")

    def error(self, index: int, field: str, problem: str) -> InputError:
        where = f"{self.kind} {index} (from 0)"
        return InputError(f"{self.file}: {where}: {field + ' ' if field else ''}{problem}")

    def values(self, field: str) -> list[Any]:
        try:
            return [record[field] for record in self.records]
        except KeyError:
            index = next(i for i, record in enumerate(self.records) if field not in record)
            raise self.error(index, field, "is missing") from None

    def numbers(self, field: str, values: list[Any] | None = None, minimum: float = -np.inf) -> Array:
        """[n] float64, finite and at least `minimum`."""
        values = self.values(field) if values is None else values
        array = _as_floats(values)
        if array is None or not (np.isfinite(array) & (array >= minimum)).all():
            index = _first(values, lambda v: not _is_number(v) or v < minimum)
            needed = "a finite number" if minimum == -np.inf else f"a finite number, at least {minimum:g}"
            raise self.error(index, field, f"is {_shown(values[index])}, expected {needed}")
        return array

    def boxes(self, field: str = "bbox") -> Array:
        """[n,4] float64: left, top, width, height; sides may be 0, not negative."""
        values = self.values(field)
        shaped = not set(map(type, values)) - {list, tuple, np.ndarray} and not set(map(len, values)) - {4}
        flat = _as_floats(list(chain.from_iterable(values))) if shaped else None
        if flat is not None:
            boxes = flat.reshape(-1, 4)
            if np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all():
                return boxes
        index = _first(values, lambda v: not _is_box(v))
        expected = "expected 4 finite numbers (left, top, width >= 0, height >= 0)"
        raise self.error(index, field, f"is {_shown(values[index])}, {expected}")

    def areas(self, boxes: Array) -> Array:
        """[n] px^2: the field `area` where there is one, else that of the box."""
        of_boxes = (boxes[:, 2] * boxes[:, 3]).tolist()
        given = [record.get("area", area) for record, area in zip(self.records, of_boxes, strict=True)]
        return self.numbers("area", given, minimum=0)

    def flags(self, field: str) -> Array:
        """[n] bool from 0, 1, true, false; absent is False."""
        values = [record.get(field, 0) for record in self.records]
        for i, value in enumerate(values if set(map(type, values)) - {int, bool} or set(values) - {0, 1} else ()):
            if not isinstance(value, int | np.bool_ | np.integer) or value not in (0, 1):
                raise self.error(i, field, f"is {_shown(value)}, expected 0 or 1")
        return np.array(values, dtype=bool)

    def indices(self, field: str, known: dict[Id, int], what: str) -> Array:
        """[n] int64 positions of the ids in `known`."""
        values = self.values(field)
        try:
            array = np.fromiter((known.get(v, -1) for v in values), dtype=np.int64, count=len(values))
        except TypeError:  # a list or an object as id
            array = np.array([-1 if isinstance(v, list | dict) else known.get(v, -1) for v in values], dtype=np.int64)
        if bool in set(map(type, values)):
            array[[isinstance(v, bool) for v in values]] = -1
        if (array < 0).any():
            index = int(np.argmax(array < 0))
            raise self.error(index, field, f"is {_shown(values[index])}, which is not {what} of the ground truth")
        return array

    def unique_ids(self) -> tuple[Id, ...]:
        """The ids, ascending; integers or text, each once."""
        values = self.values("id")
        if set(map(type, values)) - {int, str}:
            for i, value in enumerate(values):
                if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
                    raise self.error(i, "id", f"is {_shown(value)}, expected an integer or text")
            values = [value if isinstance(value, str) else int(value) for value in values]
        if len(set(values)) < len(values):
            seen: set[Id] = set()
            index = _first(values, lambda v: v in seen or bool(seen.add(v)))  # type: ignore[func-returns-value]
            raise self.error(index, "id", f"is {_shown(values[index])}, which an earlier {self.kind} has already")
        return tuple(sorted(values, key=lambda v: (isinstance(v, str), v)))


def _as_floats(values: Sequence[Any]) -> Array | None:
    """[n] float64, or None if a value is not a number."""
    if not all(t is not bool and issubclass(t, _NUMBERS) for t in set(map(type, values))):
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # an integer of more than 308 digits
        return None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, _NUMBERS) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def _is_box(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return False
    return all(map(_is_number, value)) and bool(value[2] >= 0) and bool(value[3] >= 0)


def _first(values: Iterable[Any], bad: Callable[[Any], bool]) -> int:
    return next(i for i, value in enumerate(values) if bad(value))


def _shown(value: Any) -> str:
    """The value as JSON shows it, cut to a length fit for one sentence."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
