"""Everything that is wrong with a data set, found in one go: what the readers report, what the pixels and counts say.

Records come from the same readers that training uses. An error is what training would refuse; a warning is what it
leaves out (and counts), or uses although it may be a mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.data.leakage import Copy, Fingerprint, find_copies, fingerprints
from alignrank.data.problems import Problem, Problems
from alignrank.data.records import unusable
from alignrank.data.samples import Array, DataSource, Sample, Split
from alignrank.data.source import read
from alignrank.errors import InputError

# A class with less than this share of the objects of the most frequent one is reported.
MIN_CLASS_SHARE = 0.01
# `with steps("reading", 100) as advance:`, advance() after each; the total is None where it is unknown.
Steps = Callable[[str, int | None], AbstractContextManager[Callable[[], object]]]


@dataclass(slots=True)
class CheckReport:
    """The result of `check`.

    source: what can be used of the data set: images that decode and have the annotated size, with their
    usable boxes. prints: fingerprints of those images. problems: by kind, errors first. collected: the
    same with the images and boxes to draw. copies: images that are in the data set more than once.
    """

    source: DataSource
    prints: dict[Path, Fingerprint]
    collected: Problems
    copies: list[Copy]

    @property
    def problems(self) -> list[Problem]:
        """By kind, errors first."""
        return self.collected.sorted()

    @property
    def ok(self) -> bool:
        """Whether training would accept the data set: there are warnings at most."""
        return all(problem.severity != "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """What `data check --json` prints: totals over all splits, problems with counts and examples."""
        splits = self.source.splits()
        skipped = Counter(item.unit for split in splits.values() for item in split.skipped)
        return {
            "ok": self.ok,
            "data": str(self.source.path),
            "format": self.source.format,
            "images": sum(map(len, splits.values())),
            "objects": sum(split.num_boxes for split in splits.values()),
            "problems": [problem.to_dict() for problem in self.problems],
            "skipped": {"image": skipped["image"], "box": skipped["box"]},
            "splits": {name: _counts(split) for name, split in splits.items()},
        }


def check(path: str | Path, *, steps: Steps = lambda description, total: nullcontext(lambda: None)) -> CheckReport:
    """Read a data set in any format and report every problem. steps: shows progress.

    Every image is decoded once. Raises InputError naming file and field if nothing of it can be read.
    """
    problems = Problems()
    with steps("reading annotations", None):
        source = read(path, check_images=False, faults=problems)
    splits = source.splits()
    if not splits:
        raise InputError(problems.first_refused or f"{path}: has no split that can be read")
    for split in splits.values():
        problems.add_skipped(split.skipped)
    images = list(dict.fromkeys(sample.image for split in splits.values() for sample in split.samples))
    with steps("decoding images", len(images)) as advance:
        found = fingerprints(images, advance)
    for split in splits.values():
        _leave_out_unusable(split, found, problems)
    prints = {image: value for image, value in found.items() if isinstance(value, Fingerprint)}
    with steps("comparing images", None):
        copies = find_copies(splits, prints)
    for copy in copies:
        _note_copy(copy, problems)
    _note_empty(splits, problems)
    _note_classes(splits, problems)
    return CheckReport(source, prints, problems, copies)


def _leave_out_unusable(split: Split, found: dict[Path, Fingerprint | InputError], problems: Problems) -> None:
    good: list[Sample] = []
    for sample in split.samples:
        value = found[sample.image]
        fault = unusable(sample, value if isinstance(value, InputError) else value.size)
        if fault is None:
            good.append(sample)
            continue
        split.skipped.append(fault)
        problems.note(fault.kind, f"{fault.where}: {fault.reason}", sample.image)
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            problems.mark(sample.image, box, split.classes[label])
    split.samples = good


def _note_copy(copy: Copy, problems: Problems) -> None:
    kind = "leaked_image" if copy.equal else "near_leaked_image"
    if copy.split == copy.other_split:
        kind = "duplicate_image"
    like = "equal to" if copy.equal else "nearly equal to"
    problems.note(kind, f"{copy.image} ({copy.split}): {like} {copy.other} ({copy.other_split})")


def _note_empty(splits: dict[str, Split], problems: Problems) -> None:
    for name, split in splits.items():
        if not split.samples:
            problems.refuse("no_images", f"{split.source}: the {name} split has no usable image")
        elif name == "train" and not _objects_per_class(split).any():
            problems.refuse("no_objects", f"{split.source}: there is no object in the whole training split")


def _note_classes(splits: dict[str, Split], problems: Problems) -> None:
    counts = {name: _objects_per_class(split) for name, split in splits.items()}
    classes = next(iter(splits.values())).classes
    for label, class_name in enumerate(classes):
        absent = [name for name, count in counts.items() if not count[label]]
        # A class that no split has is one problem, not one for each.
        for where in ["any split"] if len(absent) == len(counts) else absent:
            problems.note("class_without_objects", f"class {class_name!r}: has no usable object in {where}")
    name = "train" if "train" in counts else next(iter(counts))
    most = int(counts[name].argmax())
    for label in np.flatnonzero((counts[name] > 0) & (counts[name] < MIN_CLASS_SHARE * counts[name][most])).tolist():
        few, many = int(counts[name][label]), int(counts[name][most])
        text = f"has {few} object{'s' * (few > 1)} in {name}, {classes[most]!r} has {many} ({many / few:.0f} times)"
        problems.note("class_imbalance", f"class {classes[label]!r}: {text}")


def _objects_per_class(split: Split) -> Array:
    """int64 [C], crowd regions left out."""
    labels = [sample.labels[~sample.crowd] for sample in split.samples]
    whole = np.concatenate(labels) if labels else np.empty(0, np.int64)
    return np.bincount(whole, minlength=len(split.classes))


def _counts(split: Split) -> dict[str, Any]:
    return {
        "images": len(split),
        "objects": split.num_boxes,
        "unlabelled": sum(not len(sample.labels) for sample in split.samples),
        "classes": dict(zip(split.classes, _objects_per_class(split).tolist(), strict=True)),
    }
