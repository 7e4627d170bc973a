"""The thread that owns the network: what is computed together, in which order, and what happens to faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from alignrank.contracts import Detections, Frame, Thresholds
from alignrank.serve.worker import Asked, Worker

LOW, HIGH = Asked(Thresholds(0.1, 0.7, 300)), Asked(Thresholds(0.5, 0.7, 300), (1,))


class Recorded:
    """In place of a pipeline: holds each batch back until it is let go, and notes its images."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[tuple[float, list[str]]] = []

    def asking(self, limits: Thresholds, labels: Any) -> Any:
        recorded = self

        class Asking:
            def detected(self, items: Any) -> Iterator[Detections]:
                recorded.begun.release()
                recorded.go.acquire()
                names = [item[1].source for item in items]
                recorded.batches.append((limits.conf, names))
                if "broken" in names:
                    raise ValueError("broken")
                return (Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), [], name) for name in names)

        return Asking()


def item(name: str, side: int = 64) -> Any:
    return torch.zeros(3, side, 64), Frame(name, (side, 64)), None, None


def test_computes_together_what_belongs_together() -> None:
    recorded, told = Recorded(), list[int]()
    worker = Worker(recorded, batch=3, wait=0, ran=lambda images, _: told.append(images))  # type: ignore[arg-type]
    first = worker.detect(item("first"), LOW)
    recorded.begun.acquire()  # the others come while the network is busy
    jobs = [("a", 64, LOW), ("tall", 96, LOW), ("b", 64, LOW), ("high", 64, HIGH), ("c", 64, LOW), ("d", 64, LOW)]
    futures = {name: worker.detect(item(name, side), asked) for name, side, asked in jobs}
    for _ in range(10):
        recorded.go.release()
    worker.close()
    assert first.result().source == "first"
    assert {name: future.result().source for name, future in futures.items()} == {name: name for name in futures}
    assert recorded.batches == [
        (0.1, ["first"]), (0.1, ["a", "b", "c"]), (0.1, ["tall"]), (0.5, ["high"]), (0.1, ["d"]),
    ]  # fmt: skip
    assert told == [1, 3, 1, 1, 1]
    assert not worker.alive


def test_waits_for_an_image_that_is_on_its_way() -> None:
    recorded = Recorded()
    worker = Worker(recorded, batch=8, wait=600, ran=lambda *_: None)  # type: ignore[arg-type]
    recorded.go.release()
    worker.detect(item("alone"), LOW).result(60)  # nobody is coming: it waits for none
    with worker.coming():
        early = worker.detect(item("early"), LOW)
        late = worker.detect(item("late"), LOW)
        assert not recorded.begun.acquire(blocking=False) or recorded.batches == [(0.1, ["alone"])]
    recorded.go.release()
    early.result(60), late.result(60)
    worker.close()
    assert recorded.batches[1] == (0.1, ["early", "late"])


def test_a_fault_is_that_of_its_batch() -> None:
    recorded = Recorded()
    for _ in range(5):
        recorded.go.release()
    worker = Worker(recorded, batch=1, wait=0, ran=lambda *_: None)  # type: ignore[arg-type]
    broken, whole = worker.detect(item("broken"), LOW), worker.detect(item("whole"), LOW)
    with pytest.raises(ValueError, match="broken"):
        broken.result(60)
    assert whole.result(60).source == "whole"
    worker.close()
