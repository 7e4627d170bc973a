"""What can be wrong with a data set, by kind, and who is told of it while files are read.

A reader reports each record that it cannot use, and goes on if it is let. Training reads with RAISE_FIRST,
which ends at the first of them; `data check` reads the same way with a collector (`problems.Problems`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from alignrank.errors import InputError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what it means, and what training does with it.

    `refuses` makes it an error; what training `leaves out` or `keeps` is a warning.
    """

    meaning: str
    training: Literal["refuses", "leaves out", "keeps"]

    @property
    def severity(self) -> Literal["error", "warning"]:
        """`error` where training would not start."""
        return "error" if self.training == "refuses" else "warning"


# In the order in which they are reported.
KINDS = {
    "unreadable_split": Kind("split that cannot be read", "refuses"),
    "missing_split": Kind("split that is not named", "refuses"),
    "no_images": Kind("split without a usable image", "refuses"),
    "no_objects": Kind("training split without an object", "refuses"),
    "class_conflict": Kind("class that two splits give to different ids", "refuses"),
    "duplicate_class": Kind("class id or name that is given twice", "refuses"),
    "unreadable_annotations": Kind("annotation file that cannot be read", "refuses"),
    "unsafe_path": Kind("file name that leaves the data set", "refuses"),
    "duplicate_image_id": Kind("image id that is given twice", "refuses"),
    "unknown_image": Kind("object on an image that is not listed", "refuses"),
    "unknown_class": Kind("object of a class that is not listed", "refuses"),
    "non_finite": Kind("coordinate that is NaN or infinite", "refuses"),
    "out_of_range": Kind("coordinate that is no fraction of the image", "refuses"),
    "invalid_record": Kind("field that is missing or of the wrong kind", "refuses"),
    "two_readings": Kind("label lines that may be polygons or key points", "refuses"),
    "unannotated_image": Kind("image that nobody has annotated yet", "leaves out"),
    "missing_image": Kind("annotated image without file", "leaves out"),
    "unreadable_image": Kind("image that cannot be decoded", "leaves out"),
    "wrong_size": Kind("image of another size than annotated", "leaves out"),
    "degenerate_box": Kind("box without area", "leaves out"),
    "outside_box": Kind("box wholly outside its image", "leaves out"),
    "duplicate_line": Kind("label line that is repeated", "leaves out"),
    "key_points": Kind("key points beside the boxes", "leaves out"),
    "other_shape": Kind("shapes that have no box, such as points and lines", "leaves out"),
    "outline": Kind("polygons or oriented boxes, of which the bounding box is used", "keeps"),
    "clipped_box": Kind("box that reaches beyond its image", "keeps"),
    "duplicate_box": Kind("box given twice with the same class", "keeps"),
    "duplicate_annotation_id": Kind("annotation id that is given twice", "keeps"),
    "orphan_label": Kind("label file without image", "keeps"),
    "leaked_image": Kind("image that is in another split, too", "keeps"),
    "near_leaked_image": Kind("image nearly equal to one of another split", "keeps"),
    "duplicate_image": Kind("image that is in its split twice", "keeps"),
    "class_without_objects": Kind("class without objects", "keeps"),
    "class_imbalance": Kind("class with very few objects", "keeps"),
    "unlabelled_image": Kind("image without objects", "keeps"),
}


class Faults(Protocol):
    """Who is told of what is wrong. `kind` is a key of KINDS."""

    @property
    def collecting(self) -> bool:
        """Whether `note` is listened to: what takes time to find is not looked for otherwise."""

    def refuse(self, kind: str, message: str, image: Path | None = None) -> None:
        """A record that training cannot accept; the reader goes on without it if this returns."""

    def note(self, kind: str, message: str, image: Path | None = None, box: Box | None = None) -> None:
        """Something odd that can be used. box: x1, y1, x2, y2 in pixels of `image`, as annotated."""

    def reading(self) -> AbstractContextManager[object]:
        """Around the reading of one split: an InputError in it need not be the end of the others."""


class _RaiseFirst:
    collecting = False

    def refuse(self, kind: str, message: str, image: Path | None = None) -> None:
        raise InputError(message)

    def note(self, kind: str, message: str, image: Path | None = None, box: Box | None = None) -> None:
        pass

    def reading(self) -> AbstractContextManager[object]:
        return nullcontext()


RAISE_FIRST: Faults = _RaiseFirst()


class LineError(ValueError):
    """What is wrong with one line of a label file, with its kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
