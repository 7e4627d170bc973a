"""The one form every annotation format is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.terminal.skipped import Skipped

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Sample:
    """One image and its objects.

    image: path of the file. image_id: the data set's id. size: (height, width) in pixels as the
    annotation (or the file's header) says, after EXIF rotation.
    boxes [T,4] float32 xyxy, pixels of the image, clipped to it; labels [T] int64, index into the
    split's classes; areas [T] float32 px^2 (the format's own where it has one: COCO's is of the mask,
    and AP by size goes by it); crowd [T] bool, regions that evaluation ignores and training leaves out.
    """

    image: Path
    image_id: int
    size: tuple[int, int]
    boxes: Array
    labels: Array
    areas: Array
    crowd: Array


@dataclass(slots=True)
class Split:
    """A list of samples that share their classes.

    classes: names by label. category_ids: the format's own id by label (COCO results are written with
    it). source: the annotation file or folder, for messages. skipped: what was left out.
    notes: what a user should hear but nothing was left out for (boxes clipped, labels without image).
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    samples: list[Sample]
    source: Path
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_boxes(self) -> int:
        """Objects over all samples, crowd regions included."""
        return sum(len(sample.labels) for sample in self.samples)

    def to_coco(self) -> dict[str, Any]:
        """The split as a COCO ground-truth dictionary, category and image ids as in the source."""
        annotations: list[dict[str, Any]] = []
        for sample in self.samples:
            for box, label, area, crowd in zip(
                sample.boxes.tolist(), sample.labels.tolist(), sample.areas.tolist(), sample.crowd.tolist(), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": sample.image_id,
                        "category_id": self.category_ids[label],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
        return {
            "images": [
                {"id": s.image_id, "file_name": s.image.name, "height": s.size[0], "width": s.size[1]}
                for s in self.samples
            ],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in zip(self.category_ids, self.classes, strict=True)],
        }


@dataclass(slots=True)
class DataSource:
    """A data set as read: at least one of its splits is present."""

    path: Path
    format: str
    train: Split | None = None
    val: Split | None = None
    test: Split | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the same in every split."""
        return next(split.classes for split in (self.train, self.val, self.test) if split is not None)

    def splits(self) -> dict[str, Split]:
        """The present splits by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


def spread(split: Split, count: int) -> list[Sample]:
    """`count` samples from all over the split, or all."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int))
    return [split.samples[i] for i in chosen.tolist()]
