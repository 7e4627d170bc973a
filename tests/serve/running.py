"""A server on this machine in a thread, and clients that send what an ordinary one would not."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finder import CPU, NAMES, Finder, scene
from PIL import Image

from alignrank.detectors.postprocess import TopK
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import Pipeline, pipeline
from alignrank.input_size import InputSize
from alignrank.serve.options import Limits, ServeOptions
from alignrank.serve.run import Server, bound
from alignrank.serve.service import Service
from alignrank.weights.deployed import Deployed

SECRET = "secret"
# Clients of tests are never slow by themselves.
QUICK = Limits(head_seconds=0.3, body_seconds=0.3, grace_seconds=0.0)


def finder_pipeline(**options: Any) -> Pipeline:
    """Finds the red box of a picture with a score of .9, and the blue one with .8."""
    return pipeline(Deployed(Finder(), TopK(), NAMES, InputSize(192), "finder", CPU), PredictOptions(**options))


def picture(number: int = 0, size: tuple[int, int] = (60, 90), kind: str = "PNG") -> bytes:
    """Each number has its red box, over the middle, elsewhere; size: (height, width), of 81 columns for a blue one."""
    height, width = size
    red = (width // 4 + number % 8, height // 3, 3 * width // 4, 3 * height // 4)
    stream = io.BytesIO()
    Image.fromarray(scene(height, width, red=red)).save(stream, format=kind)
    return stream.getvalue()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Of a server at `port`."""

    def __init__(self, port: int, service: Service, token: str | None = None) -> None:
        self.port, self.service, self.token = port, service, token

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, chunked: bool = False
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.send("GET", path)

    def predict(self, body: bytes, query: str = "", kind: str = "image/png") -> Answer:
        token = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return self.send("POST", f"/predict{query}", body, {"Content-Type": kind, **token})

    def opened(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(sent)
        return connection


def answered(connection: socket.socket) -> Answer:
    """What comes over a raw connection."""
    with connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, str]:
    """(name, file name, content) of each -> body and content type."""
    lines = b""
    for name, file, content in parts:
        of_file = "" if file is None else f'; filename="{file}"'
        lines += f'--xx\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'.encode() + content + b"\r\n"
    return lines + b"--xx--\r\n", "multipart/form-data; boundary=xx"


@contextmanager
def serving(run: Pipeline, limits: Limits = QUICK, **options: Any) -> Iterator[Client]:
    """A server until the end of the block."""
    wanted = ServeOptions(port=0, limits=limits, **options)
    up = threading.Event()
    with Service(run, wanted) as service, bound(wanted) as listener:
        server = Server(service, up.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert up.wait(30)
        try:
            yield Client(listener.getsockname()[1], service, options.get("token"))
        finally:
            server.should_exit = True
            thread.join(60)
        assert not server.lost
