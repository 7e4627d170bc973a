"""Time, by part: engines in turn, round for round, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch

from alignrank.data.decode import Array
from alignrank.inference.entries import SourceImage
from alignrank.inference.predict import Pipeline

# From pixels to detections; decoding comes before them and is the same for all engines.
PARTS = ("preprocess", "network", "postprocess")
WARM_UP = 3
# Of larger batches, whose rounds take longer: at least so many.
LEAST_ROUNDS = 5
Seconds = dict[str, list[float]]  # by part, one number a round


def timed(
    pipelines: Mapping[str, Pipeline], pixels: Array, rounds: Mapping[int, int], advance: Callable[[], object]
) -> tuple[dict[str, dict[int, Seconds]], dict[str, int]]:
    """pixels [H,W,3] uint8 -> {engine: {batch: seconds}}, and the number of detections of an image by engine.

    rounds: of each batch. advance: called after each of them.
    """
    image = SourceImage("picture", pixels)
    seconds: dict[str, dict[int, Seconds]] = {
        name: {batch: {part: [] for part in PARTS} for batch in rounds} for name in pipelines
    }
    found: dict[str, int] = {}
    for batch, count in rounds.items():
        for name, pipeline in pipelines.items():
            for _ in range(WARM_UP):
                found[name] = _run(pipeline, image, batch)[1]
        for _ in range(count):
            for name, pipeline in pipelines.items():
                for part, value in _run(pipeline, image, batch)[0].items():
                    seconds[name][batch][part].append(value)
            advance()
    return seconds, found


def rounds_of(batches: Sequence[int], rounds: int) -> dict[int, int]:
    """Rounds of each batch, where the first has so many."""
    least, first = min(LEAST_ROUNDS, rounds), batches[0]
    return {batch: rounds if batch <= first else max(least, rounds * first // batch) for batch in batches}


def _run(pipeline: Pipeline, image: SourceImage, batch: int) -> tuple[dict[str, float], int]:
    """Seconds by part of one batch, and the number of detections of its first image."""
    clock = [_now(pipeline)]
    items = [pipeline.prepare(image) for _ in range(batch)]
    inputs = pipeline.stacked(items)
    clock.append(_now(pipeline))
    predictions = pipeline.run(inputs)
    clock.append(_now(pipeline))
    found = [len(detections.scores) for detections in pipeline.detections(items, inputs, predictions)]
    clock.append(_now(pipeline))
    return dict(zip(PARTS, np.diff(clock).tolist(), strict=True)), found[0]


def _now(pipeline: Pipeline) -> float:
    """Seconds, once the device has done all that it was told."""
    if pipeline.detector.device.type == "cuda":
        torch.cuda.synchronize(pipeline.detector.device)
    return perf_counter()
