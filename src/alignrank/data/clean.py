"""What a cleaned copy of a checked data set holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from alignrank.data.check import CheckReport
from alignrank.data.leakage import Fingerprint
from alignrank.data.records import repeated_boxes
from alignrank.data.samples import DataSource, Sample, Split
from alignrank.errors import InputError


def cleaned(report: CheckReport) -> DataSource:
    """The usable part of a data set without repeated boxes and copies of images; `report.source` stays as it is.

    Boxes are clipped to their images. Of equal images one is kept: of those in several splits the one in
    test, else in val, and of those in one split the one with the most objects. A split that would lose
    all its images keeps them. Near-equal images, unlabelled images and rare classes are left to the user.
    Raises InputError if no image can be used.
    """
    source = report.source
    splits = {name: split for name, split in source.splits().items() if split.samples}
    if not splits:
        raise InputError(f"{source.path}: has no usable image, so there is nothing to write")
    kept = _without_copies(splits, report.prints)
    done = DataSource(source.path, source.format)
    for name, split in kept.items():
        samples = [_without_repeated_boxes(sample) for sample in split.samples]
        setattr(done, name, replace(split, samples=samples, skipped=[], notes=[]))
    return done


def _without_copies(splits: dict[str, Split], prints: dict[Path, Fingerprint]) -> dict[str, Split]:
    best: dict[bytes, tuple[int, int, int]] = {}
    ranks = {name: rank for rank, name in enumerate(("train", "val", "test"))}
    for name, split in splits.items():
        for index, sample in enumerate(split.samples):
            digest, key = prints[sample.image].digest, (ranks[name], len(sample.labels), -index)
            best[digest] = max(best.get(digest, key), key)
    done = {}
    for name, split in splits.items():
        samples = [
            sample
            for index, sample in enumerate(split.samples)
            if best[prints[sample.image].digest] == (ranks[name], len(sample.labels), -index)
        ]
        done[name] = replace(split, samples=samples or split.samples)
    return done


def _without_repeated_boxes(sample: Sample) -> Sample:
    image = np.zeros(len(sample.labels), np.int64)
    repeated = [i for i, _ in repeated_boxes(image, sample.boxes, sample.labels, sample.crowd)]
    if not repeated:
        return sample
    keep = np.ones(len(sample.labels), bool)
    keep[repeated] = False
    return replace(
        sample, boxes=sample.boxes[keep], labels=sample.labels[keep], areas=sample.areas[keep], crowd=sample.crowd[keep]
    )
