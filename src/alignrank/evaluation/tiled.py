"""Evaluation of large images in tiles, which are found, cut and joined as in prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignrank.contracts import WantedThresholds
from alignrank.data.loader import decoded
from alignrank.data.records import without_name
from alignrank.data.samples import Sample, Split
from alignrank.errors import InputError
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.validate import Validation, limits_of
from alignrank.inference.entries import SourceImage
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline
from alignrank.inference.windows import Tiling
from alignrank.metrics import Diagnosis, read_inputs
from alignrank.terminal.progress import steps
from alignrank.terminal.skipped import Skipped, report_skipped
from alignrank.weights.deployed import Deployed


def validate_tiled(detector: Deployed, split: Split, options: ValOptions, tiling: Tiling) -> Validation:
    """`validate` of images in tiles: without losses, and without what the selections are made from, which is a tile's.

    Images are decoded one at a time; those that do not decode are left out of the split with a counted warning. Raises
    InputError if none is left.
    """
    limits = limits_of(detector.postprocess, options)
    wanted = PredictOptions(WantedThresholds(limits.conf, limits.iou), batch=options.batch, tiling=tiling)
    pipeline = Pipeline(detector, wanted)
    read: list[Sample] = []
    skipped: list[Skipped] = []
    results: list[dict[str, Any]] = []
    with steps("evaluating", len(split)) as advance:
        found = pipeline.tiled(_images(split, read, skipped), tiling)
        for number, detections in enumerate(found):
            results += detections.to_coco(read[number].image_id, split.category_ids)
            advance()
    report_skipped(skipped)
    if not read:
        raise InputError(f"{split.source}: no image can be decoded")
    split.samples, split.skipped = read, [*split.skipped, *skipped]
    diagnosis = Diagnosis(read_inputs(split.to_coco(), results), max_dets=options.coco_max_dets)
    return Validation(diagnosis, results, {})


def _images(split: Split, read: list[Sample], skipped: list[Skipped]) -> Iterator[SourceImage]:
    """The images of a split, which is divided into `read` and `skipped` on the way."""
    for sample in split.samples:
        try:
            image = SourceImage(str(sample.image), decoded(sample), str(sample.image))
        except InputError as error:
            skipped.append(Skipped("image", str(sample.image), without_name(error, sample.image), "unreadable_image"))
            continue
        read.append(sample)
        yield image
        del image
