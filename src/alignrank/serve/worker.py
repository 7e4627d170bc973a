"""The one thread that owns the network, and looks at images of several requests at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from alignrank.contracts import Detections, Thresholds
from alignrank.inference.predict import Pipeline, Prepared


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants to see. labels: None: all."""

    limits: Thresholds
    labels: tuple[int, ...] | None = None


@dataclass(slots=True, eq=False)
class _Job:
    prepared: Prepared
    asked: Asked
    found: Future[Detections] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)

    def belongs_to(self, other: _Job) -> bool:
        """Whether both can be computed at once: one canvas, one selection. Results do not depend on it."""
        return self.prepared[0].shape == other.prepared[0].shape and self.asked == other.asked


class Worker:
    """Runs prepared images through the network in the order in which they come, those that belong together at once.

    batch: images at a time, at most. wait: seconds that an image waits for others, and only while some are `coming`.
    ran: is told of each batch its size and its seconds. It ends with `close`, after the last image.
    """

    def __init__(self, pipeline: Pipeline, *, batch: int, wait: float, ran: Callable[[int, float], object]) -> None:
        self._pipeline, self._batch, self._wait, self._ran = pipeline, batch, wait, ran
        self._jobs: deque[_Job] = deque()
        self._coming = 0
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="alignrank-network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it would look at an image."""
        return self._thread.is_alive() and not self._over

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Within the block an image is on its way here; others may wait for it."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    def detect(self, prepared: Prepared, asked: Asked) -> Future[Detections]:
        """The detections of an image in the future. What the network raises is raised there."""
        job = _Job(prepared, asked)
        with self._changed:
            assert not self._over
            self._jobs.append(job)
            self._changed.notify()
        return job.found

    def close(self) -> None:
        """Look at the images that are there, and end."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            # What was given up meanwhile is left out.
            jobs = [job for job in jobs if job.found.set_running_or_notify_cancel()]
            if jobs:
                self._look(jobs)

    def _next(self) -> list[_Job]:
        """The next to be computed together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._over)
            if not self._jobs:
                return []
            left = self._jobs[0].came + self._wait - time.monotonic()
            if left > 0 and self._batch > 1:
                self._changed.wait_for(lambda: not self._coming or len(self._alike()) == self._batch, left)
            chosen = self._alike()
            for job in chosen:
                self._jobs.remove(job)
            return chosen

    def _alike(self) -> list[_Job]:
        """Those that belong to the one that has waited longest."""
        return [job for job in self._jobs if job.belongs_to(self._jobs[0])][: self._batch]

    def _look(self, jobs: Sequence[_Job]) -> None:
        began = time.monotonic()
        asked = jobs[0].asked
        labels = None if asked.labels is None else list(asked.labels)
        try:
            found = list(self._pipeline.asking(asked.limits, labels).detected([job.prepared for job in jobs]))
        except Exception as error:
            for job in jobs:
                job.found.set_exception(error)
            return
        self._ran(len(jobs), time.monotonic() - began)
        for job, detections in zip(jobs, found, strict=True):
            job.found.set_result(detections)
