"""What a server tells about itself, in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Upper edges, seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, apart from those of the process's other users of the library."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "alignrank_requests", "Requests that were answered", ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "alignrank_request_seconds", "From a request's headers to the end of its answer", ("path",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batches = Histogram(
            "alignrank_batch_images", "Images that the network saw at a time", buckets=_SIZES, registry=registry
        )
        self._network = Histogram(
            "alignrank_batch_seconds", "Network and selection of a batch", buckets=_SECONDS, registry=registry
        )
        Gauge("alignrank_queue_requests", "Requests in the queue", registry=registry).set_function(waiting)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def ran(self, images: int, seconds: float) -> None:
        """One batch."""
        self._batches.observe(images)
        self._network.observe(seconds)

    def text(self) -> bytes:
        """All figures as they are now."""
        return generate_latest(self._registry)
