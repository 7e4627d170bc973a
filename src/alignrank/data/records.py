"""From raw annotation rows of any format to samples: clip, leave out what cannot be an object, group by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alignrank.data.decode import probe_all
from alignrank.data.faults import RAISE_FIRST, Box, Faults
from alignrank.data.samples import Array, Sample, Split
from alignrank.errors import InputError
from alignrank.terminal.skipped import Skipped

# Less than this many pixels beyond the border is rounding of the labelling tool, not worth a word.
CLIP_TOLERANCE = 1.0
# Above this many images the headers are not read one by one before the first epoch.
MAX_CHECKED_IMAGES = 20_000


@dataclass(slots=True)
class Rows:
    """Raw objects of a split, one entry per object in each list.

    image: index into the split's images. boxes: (x1, y1, x2, y2) pixels as written. areas: px^2, NaN
    where the format has none. where: the object's place in its file, formatted only if needed.
    refused: images by index, once for each object of theirs that is not here.
    """

    image: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    where: list[object] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def add(
        self,
        image: int,
        box: Box,
        label: int,
        where: object,
        *,
        area: float = float("nan"),
        crowd: bool = False,
    ) -> None:
        """Append one object."""
        self.image.append(image)
        self.boxes.append(box)
        self.labels.append(label)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.where.append(where)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image before its objects: path, id, (height, width)."""

    path: Path
    image_id: int
    size: tuple[int, int]


def build_samples(
    images: Sequence[ImageRecord], rows: Rows, *, place: Callable[[object], str], faults: Faults = RAISE_FIRST
) -> tuple[list[Sample], list[Skipped], list[str]]:
    """Samples in the order of `images`, boxes left out, and notes.

    Boxes are clipped to their image; those without area, or wholly outside, are left out. `place` turns
    a row's `where` into text for messages; `faults` hears of boxes that are clipped, or given twice, and
    of images without any. Objects of an image keep their order.
    """
    order = np.argsort(np.asarray(rows.image, np.int64), kind="stable")
    image = np.asarray(rows.image, np.int64)[order]
    boxes = np.asarray(rows.boxes, np.float64).reshape(-1, 4)[order]
    sizes = np.asarray([record.size for record in images], np.float64).reshape(-1, 2)
    limit = np.concatenate([sizes[image][:, ::-1]] * 2, axis=1)
    clipped = np.clip(boxes, 0, limit)
    side, clipped_side = boxes[:, 2:] - boxes[:, :2], clipped[:, 2:] - clipped[:, :2]
    outside = clipped_side.min(1, initial=np.inf) <= 0
    # Boxes are kept in float32, in which a billionth of a pixel beside a pixel is no side.
    kept_side = np.diff(clipped.astype(np.float32).reshape(-1, 2, 2), axis=1)[:, 0]
    empty = (side.min(1, initial=np.inf) <= 0) | (~outside & (kept_side.min(1, initial=np.inf) <= 0))
    keep = ~(empty | outside)
    skipped = [
        Skipped(
            "box",
            place(rows.where[order[i]]),
            _reason(boxes[i], bool(empty[i]), images[image[i]]),
            "degenerate_box" if empty[i] else "outside_box",
            images[image[i]].path,
            tuple(boxes[i].tolist()),
        )
        for i in np.flatnonzero(~keep)
    ]
    cut = (np.abs(clipped - boxes).max(1, initial=0) > CLIP_TOLERANCE) & keep
    num_cut, notes = int(cut.sum()), []
    if num_cut:
        notes.append(f"{num_cut} box{'es reach' if num_cut > 1 else ' reaches'} beyond the image: clipped to it")

    area = np.asarray(rows.areas, np.float64)[order]
    area = np.where(np.isnan(area), clipped_side.prod(1), area)[keep].astype(np.float32)
    labels = np.asarray(rows.labels, np.int64)[order][keep]
    crowd = np.asarray(rows.crowd, bool)[order][keep]
    kept_boxes, kept_image = clipped[keep].astype(np.float32), image[keep]
    if faults.collecting:
        for i in np.flatnonzero(cut).tolist():
            text = f"{place(rows.where[order[i]])}: the box {_reaching(boxes[i], images[image[i]])}"
            faults.note("clipped_box", text, images[image[i]].path, tuple(boxes[i].tolist()))
        where = order[keep]
        for i, first in repeated_boxes(kept_image, kept_boxes, labels, crowd):
            path, other = images[kept_image[i]].path, place(rows.where[where[first]]).rpartition(": ")[2]
            text = f"{place(rows.where[where[i]])}: the box and class of {other} again, in {path}"
            faults.note("duplicate_box", text, path, tuple(kept_boxes[i].tolist()))
        for i in sorted(set(range(len(images))).difference(rows.image, rows.refused)):
            faults.note("unlabelled_image", f"{images[i].path}: has no objects")
    bounds = np.searchsorted(kept_image, np.arange(len(images) + 1))
    samples = [
        Sample(r.path, r.image_id, r.size, kept_boxes[a:b], labels[a:b], area[a:b], crowd[a:b])
        for r, a, b in zip(images, bounds[:-1], bounds[1:], strict=True)
    ]
    return samples, skipped, notes


def repeated_boxes(image: Array, boxes: Array, labels: Array, crowd: Array) -> list[tuple[int, int]]:
    """(i, first) for each object i that equals an earlier one, the first of its kind, in image, box, class and crowd.

    image [N] int64, boxes [N,4] float32, labels [N] int64, crowd [N] bool.
    """
    if not len(boxes):
        return []
    # Bytes compare as the values do: none is NaN, and adding 0 turns -0 into 0.
    packed = np.column_stack([(boxes + 0).view(np.uint32), image, labels, crowd]).astype(np.int64)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    first = first[group.reshape(-1)]
    return [(int(i), int(first[i])) for i in np.flatnonzero(first != np.arange(len(first)))]


def _reason(box: Array, empty: bool, record: ImageRecord) -> str:
    left, top, right, bottom = (round(float(v), 2) for v in box)
    if empty:
        return f"the box has no area (width {round(right - left, 2)}, height {round(bottom - top, 2)})"
    return f"the box ({left}, {top}, {right}, {bottom}) lies outside its {_shown(record)}"


def _reaching(box: Array, record: ImageRecord) -> str:
    left, top, right, bottom = (round(float(v), 2) for v in box)
    return f"({left}, {top}, {right}, {bottom}) reaches beyond its {_shown(record)}"


def _shown(record: ImageRecord) -> str:
    height, width = record.size
    return f"{width} x {height} image {record.path}"


def unusable(sample: Sample, found: tuple[int, int] | InputError) -> Skipped | None:
    """Why an image cannot be used. found: its true (height, width), or the error on reading it; None if it can."""
    if isinstance(found, InputError):
        return Skipped("image", str(sample.image), without_name(found, sample.image), "unreadable_image")
    if not check_size(sample, found):
        (height, width), (true_height, true_width) = sample.size, found
        reason = f"annotated as {width} x {height}, is {true_width} x {true_height}"
        return Skipped("image", str(sample.image), reason, "wrong_size")
    return None


def check_size(sample: Sample, decoded_size: tuple[int, int]) -> bool:
    """Whether an image's true (height, width) is the one its annotation was written for."""
    return tuple(decoded_size) == tuple(sample.size)


def check_images(split: Split) -> None:
    """Move images whose header cannot be read, or has another size than annotated, to `split.skipped`.

    Splits of more than MAX_CHECKED_IMAGES are left to the loader. Raises InputError if no image is left.
    """
    if not split.samples or len(split) > MAX_CHECKED_IMAGES:
        return
    good: list[Sample] = []
    for sample, found in zip(split.samples, probe_all(s.image for s in split.samples), strict=True):
        fault = unusable(sample, found)
        if fault is None:
            good.append(sample)
        else:
            split.skipped.append(fault)
    if not good:
        first = split.skipped[-len(split.samples)]
        raise InputError(f"{split.source}: none of its {len(split)} images can be used ({first.where}: {first.reason})")
    split.samples = good


def sized_images(paths: Sequence[Path], *, source: Path) -> tuple[list[ImageRecord], list[int], list[Skipped]]:
    """Images with sizes from their headers, ids from 1, the indices into `paths` that could be read, and the rest.

    Raises InputError naming `source` if none can be read.
    """
    records: list[ImageRecord] = []
    kept: list[int] = []
    skipped: list[Skipped] = []
    for index, (path, found) in enumerate(zip(paths, probe_all(paths), strict=True)):
        if isinstance(found, InputError):
            skipped.append(Skipped("image", str(path), without_name(found, path), "unreadable_image"))
        else:
            records.append(ImageRecord(path, index + 1, found))
            kept.append(index)
    if paths and not records:
        raise InputError(
            f"{source}: none of its {len(paths)} images can be read ({skipped[0].where}: {skipped[0].reason})"
        )
    return records, kept, skipped


def without_name(error: InputError, path: Path) -> str:
    """The message of an error about `path`, less the path it begins with."""
    return str(error).removeprefix(f"{path}: ")
