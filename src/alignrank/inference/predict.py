"""Detections of anything `Sources` can read, lazily and in batches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch import Tensor

from alignrank.class_names import class_labels
from alignrank.contracts import USUAL_THRESHOLDS, Batch, Detections, Frame, Targets
from alignrank.data.letterbox import letterbox
from alignrank.data.samples import Array
from alignrank.detectors import predictions_of
from alignrank.device import half_dtype
from alignrank.inference.entries import SourceImage
from alignrank.inference.options import PredictOptions
from alignrank.inference.sources import Source, Sources
from alignrank.terminal.progress import warn
from alignrank.weights.deployed import Deployed

# What a list of detections may hold of images before it is said how to do without: images, and bytes.
MANY_IMAGES, MANY_BYTES = 1000, 1_000_000_000
_Prepared = tuple[Tensor, Frame, Array | None, str | None]


def predict(
    detector: Deployed, source: Source | Sources, options: PredictOptions | None = None
) -> Generator[Detections, None, None]:
    """Detections of each image or frame in order, boxes in its own pixels, computed when asked for.

    Images of one canvas that follow one another are computed together, `options.batch` at most; the results do not
    depend on it. Thresholds that are not given are the detector's own, else USUAL_THRESHOLDS. What cannot be read is
    skipped. Raises InputError at once for sources and options that cannot be used, at the end if nothing could be read.
    """
    options = options or PredictOptions()
    detector = detector.resized(options.imgsz, options.rect)
    wanted = None if options.classes is None else class_labels(options.classes, detector.classes)
    run = _Run(detector, options, wanted)
    return run.over(source if isinstance(source, Sources) else Sources(source))


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


class _Run:
    """One call of `predict`: prepares images in the reading threads, and runs the network on batches of them."""

    def __init__(self, detector: Deployed, options: PredictOptions, wanted: list[int] | None) -> None:
        self.detector, self.options, self.wanted = detector, options, wanted
        self.limits = options.thresholds.over(detector.postprocess.thresholds or USUAL_THRESHOLDS)
        self.half = half_dtype(options.precision, detector.device)
        detector.network.eval()

    def over(self, sources: Sources) -> Generator[Detections, None, None]:
        """Detections of all sources."""
        with closing(sources.map(self._prepare)) as prepared:
            for items in self._batches(prepared):
                yield from self._detect(items)
        if self.options.report_skipped:
            sources.skips.report()

    def _batches(self, prepared: Iterable[_Prepared]) -> Iterator[list[_Prepared]]:
        """Images of one canvas that follow one another, as soon as there are enough of them."""
        waiting: list[_Prepared] = []
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

    def _prepare(self, item: SourceImage) -> _Prepared:
        # Writable for torch, channels last in memory for a fast resize.
        pixels = torch.from_numpy(np.require(item.image, requirements=["C", "W"])).permute(2, 0, 1)
        canvas, scale, offset = letterbox(pixels, self.detector.size)
        height, width = item.image.shape[:2]
        image = item.image if self.options.keep_images else None
        return canvas, Frame(item.name, (height, width), scale, offset), image, item.path

    def _detect(self, items: list[_Prepared]) -> Iterator[Detections]:
        canvases, frames, images, paths = zip(*items, strict=True)
        detector, limits, half = self.detector, self.limits, self.half
        inputs = Batch(torch.stack(canvases), [Targets.empty() for _ in items], list(frames)).to(detector.device)
        with torch.no_grad(), torch.autocast(detector.device.type, half) if half else nullcontext():
            predictions = predictions_of(detector.network, inputs.network_input(), inputs)
            selections = detector.postprocess(
                predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets, classes=self.wanted
            )
        for found, frame, image, path in zip(selections, frames, images, paths, strict=True):
            boxes = frame.to_original(found.boxes.float()).cpu()
            scores, labels = found.scores.cpu(), found.labels.cpu()
            yield Detections(boxes, scores, labels, detector.classes, frame.source, frame.size, image, path)
