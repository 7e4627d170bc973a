"""From the bytes of an image to its detections, for many clients at once: the steps of `predict`, behind a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from alignrank.class_names import class_labels
from alignrank.contracts import Detections, WantedThresholds
from alignrank.cores import usable_cores
from alignrank.data.decode import decode
from alignrank.errors import InputError
from alignrank.inference.entries import SourceImage
from alignrank.inference.predict import Pipeline, Prepared
from alignrank.serve.metrics import Metrics
from alignrank.serve.options import ServeOptions
from alignrank.serve.worker import Asked, Worker

# Each holds a decoded image: 50 megapixels are 350 MB with Pillow's own copy.
MAX_DECODERS = 2
NAME = "image"


class BusyError(Exception):
    """The queue is full."""


class Service(AbstractContextManager["Service"]):
    """One detector for all requests; used from one event loop. `draining`: it will end, and wants no new clients."""

    def __init__(self, pipeline: Pipeline, options: ServeOptions) -> None:
        self.pipeline, self.options = pipeline, options
        self.draining = False
        self.metrics = Metrics(lambda: self.queued)
        self.queued = 0
        self._worker = Worker(pipeline, batch=options.batch, wait=options.wait, ran=self.metrics.ran)
        self._decoders = ThreadPoolExecutor(min(MAX_DECODERS, usable_cores()), thread_name_prefix="alignrank-read")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.shutdown()
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    @property
    def ready(self) -> bool:
        """Whether it wants new clients."""
        return self._worker.alive and not self.draining

    def check_room(self) -> None:
        """Raises BusyError where `detect` would."""
        if self.queued >= self.options.queue:
            raise BusyError

    def asked(self, conf: float | None, classes: Sequence[str] | None, max_dets: int | None) -> Asked:
        """What a request asks for, else what the server was started with. Raises InputError for unknown classes."""
        limits = WantedThresholds(conf, max_dets=max_dets).over(self.pipeline.limits)
        labels = self.pipeline.wanted if classes is None else class_labels(classes, self.pipeline.detector.classes)
        return Asked(limits, None if labels is None else tuple(sorted(set(labels))))

    async def detect(self, content: bytes, asked: Asked) -> Detections:
        """The detections of an image file's first picture.

        Raises BusyError where there is no room in the queue, InputError for what is no image, PixelLimitError for what
        is too large, and whatever the network raises.
        """
        self.check_room()
        self.queued += 1
        try:
            with self._worker.coming():
                loop = asyncio.get_running_loop()
                prepared = await loop.run_in_executor(self._decoders, self._prepared, content)
                found = self._worker.detect(prepared, asked)
            try:
                return await asyncio.wrap_future(found)
            except InputError as error:  # of an exported file's runtime: no client is to blame, and it names the path
                raise RuntimeError(str(error)) from error
        finally:
            self.queued -= 1

    def _prepared(self, content: bytes) -> Prepared:
        return self.pipeline.prepare(SourceImage(NAME, decode(content, max_pixels=self.options.limits.pixels)))
