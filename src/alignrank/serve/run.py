"""`serve`: weights behind HTTP until SIGTERM or Ctrl-C, which end it without losing a request."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from alignrank.errors import InputError
from alignrank.export.runtimes import ready
from alignrank.inference.entries import SourceImage
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline, pipeline
from alignrank.serve.app import make_app
from alignrank.serve.connections import guarded
from alignrank.serve.edge import Edge
from alignrank.serve.options import ServeOptions
from alignrank.serve.service import Service
from alignrank.terminal.progress import say
from alignrank.weights.deployed import SelectionOptions

# Seconds that a connection without a request is kept.
KEEP_ALIVE = 5


def serve(
    weights: Path,
    options: ServeOptions,
    predicting: PredictOptions,
    *,
    device: str = "auto",
    selection: SelectionOptions | None = None,
) -> None:
    """Answer requests until a signal comes; see docs/serving.md.

    Raises InputError for weights and options that cannot be used and for an address that is taken.
    """
    with closing(bound(options)) as listener:
        run = pipeline(ready(weights, device, selection or SelectionOptions()), predicting)
        _warm_up(run)
        with Service(run, options) as service:
            said = f"serving {run.detector.recipe} at {address(listener)}; Ctrl-C ends it"
            server = Server(service, lambda: say(said))
            server.run([listener])
    say("ended; all requests were answered" if not server.lost else f"ended; {server.lost} requests were cut off")


def address(listener: socket.socket) -> str:
    """That of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def bound(options: ServeOptions) -> socket.socket:
    """A socket at the address, before anything long is done; it does not listen yet.

    Raises InputError for an address that is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, at = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(at)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"host: {options.host} port {options.port}: {error.strerror or error}; choose another"
        ) from None
    return listener


def _warm_up(run: Pipeline) -> None:
    """The first image takes longest, and what the network cannot do is told before there are clients."""
    image = np.full((64, 64, 3), 114, np.uint8)
    list(run.detected([run.prepare(SourceImage("warm-up", image))]))


class Server(uvicorn.Server):
    """uvicorn, ended by SIGTERM or Ctrl-C as a success: no new connections, answers to what has come, then the end.

    started_up: called when connections are taken. lost: requests that were cut off in the end.
    """

    def __init__(self, service: Service, started_up: Callable[[], object] = lambda: None) -> None:
        limits = service.options.limits
        config = uvicorn.Config(
            Edge(make_app(service), service), http=guarded(limits), ws="none", loop="asyncio", lifespan="off",
            log_config=None, log_level="error", access_log=False, proxy_headers=False, server_header=False,
            timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=limits.drain_seconds,
        )  # fmt: skip
        super().__init__(config)
        self.service, self._started_up, self.lost = service, started_up, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does."""
        await super().startup(sockets)
        self._started_up()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door first, then wait for those within."""
        self.service.draining = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(self.service.options.limits.grace_seconds)
        await super().shutdown(sockets)
        self.lost = sum(not task.done() for task in self.server_state.tasks)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not sent again in the end, as by uvicorn: the process ends with 0. A second Ctrl-C waits for nothing."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
