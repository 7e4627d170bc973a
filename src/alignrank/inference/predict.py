"""Detections of anything `Sources` can read, lazily and in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from alignrank.class_names import class_labels
from alignrank.contracts import USUAL_THRESHOLDS, Batch, Detections, Frame, Predictions, Targets, Thresholds
from alignrank.data.letterbox import letterbox, stack_images
from alignrank.data.samples import Array
from alignrank.detectors import predictions_of
from alignrank.device import half_dtype
from alignrank.extras import require
from alignrank.inference.entries import SourceImage
from alignrank.inference.options import PredictOptions
from alignrank.inference.sources import Source, Sources
from alignrank.inference.tiles import Seams, in_tiles
from alignrank.inference.tracking import tracked
from alignrank.inference.windows import Tiling
from alignrank.terminal.progress import warn
from alignrank.weights.deployed import Deployed

# What a list of detections may hold of images before it is said how to do without: images, and bytes.
MANY_IMAGES, MANY_BYTES = 1000, 1_000_000_000
Prepared = tuple[Tensor, Frame, Array | None, str | None]


def predict(
    detector: Deployed, source: Source | Sources, options: PredictOptions | None = None
) -> Generator[Detections, None, None]:
    """Detections of each image or frame in order, boxes in its own pixels, computed when asked for.

    Images of one canvas that follow one another are computed together, `options.batch` at most; the results do not
    depend on it. Thresholds that are not given are the detector's own, else USUAL_THRESHOLDS. What cannot be read is
    skipped. Raises InputError at once for sources and options that cannot be used, at the end if nothing could be read.
    """
    options = options or PredictOptions()
    sources = source if isinstance(source, Sources) else Sources(source)
    if options.tracking is None:
        return pipeline(detector, options).over(sources)
    require("track", "trackers")
    conf = options.thresholds.over(detector.postprocess.thresholds or USUAL_THRESHOLDS).conf
    lower = replace(options.thresholds, conf=min(options.tracking.low, conf))
    found = pipeline(detector, replace(options, thresholds=lower)).over(sources)
    return tracked(found, sources.rate_of, options.tracking, conf)


def pipeline(detector: Deployed, options: PredictOptions) -> Pipeline:
    """All that a detector does with an image, as `options` say. Raises InputError for those that cannot be used."""
    detector = detector.resized(options.imgsz, options.rect)
    wanted = None if options.classes is None else class_labels(options.classes, detector.classes)
    return Pipeline(detector, options, wanted)


def gathered(found: Iterable[Detections]) -> list[Detections]:
    """All of them in a list, with one warning when their images take much memory."""
    kept: list[Detections] = []
    images = size = 0
    warned = False
    for detections in found:
        kept.append(detections)
        if detections.image is not None:
            images, size = images + 1, size + detections.image.nbytes
        if not warned and (images > MANY_IMAGES or size > MANY_BYTES):
            warned = True
            warn(
                f"predict keeps the images of its list, {size / 1e6:.0f} MB so far; predict(..., stream=True) gives "
                "detections one by one in constant memory, keep_images=False gives a list without images"
            )
    return kept


class Pipeline:
    """One call of `predict`: prepares images in the reading threads, and runs the network on batches of them.

    wanted: labels; None: all.
    """

    def __init__(self, detector: Deployed, options: PredictOptions, wanted: list[int] | None = None) -> None:
        self.detector, self.options, self.wanted = detector, options, wanted
        self.limits = options.thresholds.over(detector.postprocess.thresholds or USUAL_THRESHOLDS)
        self.half = half_dtype(options.precision, detector.device)
        detector.network.eval()

    def asking(self, limits: Thresholds, wanted: list[int] | None) -> Pipeline:
        """The same network and steps, another selection."""
        other = copy(self)
        other.limits, other.wanted = limits, wanted
        return other

    def over(self, sources: Sources) -> Generator[Detections, None, None]:
        """Detections of all sources."""
        if self.options.tiling is None:
            with closing(sources.map(self.prepare)) as prepared:
                yield from self.found(prepared)
        else:
            # An image and its tiles are enough to hold: no other is decoded ahead.
            with closing(sources.map(lambda image: image, workers=0)) as images:
                yield from self.tiled(images, self.options.tiling)
        if self.options.report_skipped:
            sources.skips.report()

    def tiled(self, images: Iterable[SourceImage], tiling: Tiling) -> Iterator[Detections]:
        """Detections of each image, looked at in tiles, of which `options.batch` are held at a time."""
        # Of a number that nobody gave a tile may have as many as an image otherwise.
        seams = Seams.of(self.detector.postprocess, self.limits.iou, self.options.thresholds.max_dets)
        return in_tiles(images, lambda parts: self.found(map(self.prepare, parts)), tiling, seams)

    def found(self, prepared: Iterable[Prepared]) -> Iterator[Detections]:
        for items in self._batches(prepared):
            yield from self.detected(items)

    def _batches(self, prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
        """Images of one canvas that follow one another, as soon as there are enough of them."""
        waiting: list[Prepared] = []
        for item in prepared:
            if waiting and item[0].shape != waiting[0][0].shape:
                yield waiting
                waiting = []
            waiting.append(item)
            if len(waiting) == self.options.batch:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def prepare(self, item: SourceImage) -> Prepared:
        """An image on its canvas."""
        # Writable for torch, channels last in memory for a fast resize.
        pixels = torch.from_numpy(np.require(item.image, requirements=["C", "W"])).permute(2, 0, 1)
        canvas, scale, offset = letterbox(pixels, self.detector.size)
        height, width = item.image.shape[:2]
        image = item.image if self.options.keep_images else None
        return canvas, Frame(item.name, (height, width), scale, offset), image, item.path

    def detected(self, items: Sequence[Prepared]) -> Iterator[Detections]:
        """Of images of one canvas: the three steps below."""
        inputs = self.stacked(items)
        yield from self.detections(items, inputs, self.run(inputs))

    def stacked(self, items: Sequence[Prepared]) -> Batch:
        """Images of one canvas as a batch on the device."""
        canvases, frames = [item[0] for item in items], [item[1] for item in items]
        return Batch(stack_images(canvases), [Targets.empty() for _ in items], frames).to(self.detector.device)

    def run(self, inputs: Batch) -> Predictions:
        """What the network says of a batch."""
        with self._mode():
            return predictions_of(self.detector.network, inputs.network_input(self.detector.order), inputs)

    def detections(self, items: Sequence[Prepared], inputs: Batch, predictions: Predictions) -> Iterator[Detections]:
        """The selected detections of each image, boxes in its own pixels."""
        limits, names = self.limits, self.detector.classes
        with self._mode():
            selections = self.detector.postprocess(
                predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets, classes=self.wanted
            )
        for found, frame, (_, _, image, path) in zip(selections, inputs.frames, items, strict=True):
            boxes = frame.to_original(found.boxes.float()).cpu()
            scores, labels = found.scores.cpu(), found.labels.cpu()
            yield Detections(boxes, scores, labels, names, frame.source, frame.size, image, path)

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """Without gradients, in the precision that was asked for."""
        half = self.half
        with torch.no_grad(), torch.autocast(self.detector.device.type, half) if half else nullcontext():
            yield
