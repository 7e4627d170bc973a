"""Images and videos at addresses: a server on this machine, honest, broken and hostile."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finder import run, scene
from loopback_server import LoopbackServer, QuietHandler
from PIL import Image
from video_files import clip, frames_of

from alignrank.errors import InputError
from alignrank.inference import addresses, video
from alignrank.inference.results import write_results
from alignrank.inference.sources import Sources

pytestmark = pytest.mark.allow_loopback
Answer = Callable[[BaseHTTPRequestHandler], None]


def encoded(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, **({"format": "PNG"} | options))
    return stream.getvalue()


def answer(content: bytes, kind: str = "image/png", code: int = 200, **headers: str) -> Answer:
    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return give


class Server(LoopbackServer):
    """Answers by path; requests: what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers)))
                found = outer.answers.get(self.path.partition("?")[0])
                with suppress(OSError):  # the client may have left
                    (found or answer(b"not here", "text/plain", 404))(self)

        super().__init__(Handler)

    def close(self) -> None:
        self.ended.set()
        super().close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    opened = Server()
    yield opened
    opened.close()


def test_an_image(server: Server, tmp_path: Path) -> None:
    server.answers["/a%20b.png"] = answer(encoded())
    server.answers["/snapshot"] = answer(encoded(format="JPEG"), "image/jpeg")
    wanted = [f"{server.at}/a b.png?size=1", f"{server.at}/snapshot"]
    sources = Sources(wanted)
    assert not server.requests, "nothing is asked for before its turn"
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert (written.images, written.objects) == (2, 4)
    assert {"a b.jpg", "snapshot.jpg"} <= {path.name for path in (tmp_path / "out").iterdir()}
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(entry["source"], entry["path"], entry["size"]) for entry in entries] == [
        (address, address, [60, 90]) for address in wanted
    ]


def test_a_video_by_its_name_and_by_what_the_server_says(server: Server, tmp_path: Path) -> None:
    content = clip(tmp_path / "v.mp4", 4).read_bytes()
    server.answers["/v.mp4"] = answer(content, "application/octet-stream")
    server.answers["/stream"] = answer(content, "video/mp4")
    sources = Sources([f"{server.at}/v.mp4", f"{server.at}/stream"])
    assert sources.count is None
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert written.images == 8
    for name in ("v.mp4", "stream.mp4"):
        rate, frames = frames_of(tmp_path / "out" / name)
        assert (rate, len(frames)) == (10, 4)


def test_pictures_of_a_network_camera(server: Server) -> None:
    part = encoded(format="JPEG")
    head = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: " + str(len(part)).encode() + b"\r\n\r\n"
    server.answers["/video.cgi"] = answer((head + part + b"\r\n") * 3, "multipart/x-mixed-replace; boundary=x")
    assert [item.frame_index for item in Sources(f"{server.at}/video.cgi")] == [0, 1, 2]


def test_an_animation(server: Server) -> None:
    images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    images[0].save(stream := io.BytesIO(), format="GIF", save_all=True, append_images=images[1:])
    server.answers["/a.gif"] = answer(stream.getvalue(), "image/gif")
    items = list(Sources(f"{server.at}/a.gif"))
    assert [item.name for item in items] == [f"{server.at}/a.gif#{i}" for i in range(2)]


def test_a_redirection_is_followed_to_the_web_only(server: Server) -> None:
    server.answers["/a.png"] = answer(encoded())
    server.answers["/moved"] = answer(b"", code=302, Location="/a.png")
    assert len(list(Sources(f"{server.at}/moved"))) == 1
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png;base64,"):
        for name in ("/away", "/away.mp4"):
            server.answers[name] = answer(b"", code=302, Location=target)
            with pytest.raises(InputError, match=rf"{server.at}{name}: "):
                list(Sources(f"{server.at}{name}"))


@pytest.mark.parametrize(("name", "part"), [
    ("missing.png", "the server says 404 Not Found"),
    ("missing.mp4", "404 Not Found"),
    ("text.png", "is not an image of a known format"),
    ("text", "is not an image of a known format"),
    ("text.mp4", "cannot be read as a video"),
])  # fmt: skip
def test_what_cannot_be_used(server: Server, name: str, part: str) -> None:
    for kind in ("text.png", "text", "text.mp4"):
        server.answers[f"/{kind}"] = answer(b"<html>" * 100, "text/html")
    with pytest.raises(InputError, match=f"{server.at}/{name}: .*{part}"):
        list(Sources(f"{server.at}/{name}"))


def test_the_rest_goes_on(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.answers["/a.png"] = answer(encoded())
    (tmp_path / "list.txt").write_text(f"{server.at}/missing.png\n{server.at}/a.png\n")
    sources = Sources(tmp_path / "list.txt")
    assert [item.name for item in sources] == [f"{server.at}/a.png"]
    assert sources.skips.counts == {"image": 1}


@pytest.mark.parametrize("name", ["a.png", "snapshot", "v.mp4"])
def test_a_server_that_does_not_answer(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 0.2)
    server.answers[f"/{name}"] = lambda handler: server.ended.wait(20) and None
    with pytest.raises(InputError, match=rf"{server.at}/{name}: no answer within 0\.2 s"):
        list(Sources(f"{server.at}/{name}"))


def test_a_server_that_stops_in_the_middle_of_an_image(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 0.2)

    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(encoded()[:50])
        server.ended.wait(20)

    server.answers["/a.png"] = half
    with pytest.raises(InputError, match=r"a\.png: no answer within 0\.2 s"):
        list(Sources(f"{server.at}/a.png"))


def test_a_stream_that_stops(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came is kept, and it is told why there is no more."""
    monkeypatch.setattr(video, "TIMEOUT", 0.3)
    content = clip(tmp_path / "v.ts", 200).read_bytes()

    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp2t")
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        server.ended.wait(20)

    server.answers["/v.ts"] = half
    sources = Sources(f"{server.at}/v.ts")
    count = len(list(sources))
    assert 0 < count < 200
    assert f"no answer within 0.3 s; stopped after {count} frames" in sources.skips.items[0][1]


def test_limits_of_a_download(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/a.png"] = answer(encoded())
    monkeypatch.setattr(addresses, "MAX_BYTES", 100)
    with pytest.raises(InputError, match=r"a\.png: is larger than the limit of 100 bytes"):
        list(Sources(f"{server.at}/a.png"))
    monkeypatch.undo()

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.ended.wait(0.02):
            handler.wfile.write(b"x")

    server.answers["/slow.png"] = dripping
    monkeypatch.setattr(addresses, "MAX_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"slow\.png: is not complete after 0\.1 s"):
        list(Sources(f"{server.at}/slow.png"))


def test_a_playlist_cannot_open_files(server: Server, tmp_path: Path) -> None:
    """Not a text file, and not a video of this machine, directly or through another playlist."""
    secret = clip(tmp_path / "secret.ts", 5)
    server.answers["/v.ts"] = answer(secret.read_bytes(), "video/mp2t")
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n"
    for target in (
        "file:///etc/passwd",
        f"file://{secret}",
        str(secret),
        f"concat:{secret}",
        f"subfile,,start,0,end,9,,:{secret}",
    ):
        server.answers["/list.m3u8"] = answer(f"{head}{target}\n#EXT-X-ENDLIST\n".encode(), "application/x-mpegurl")
        server.answers["/hidden"] = server.answers["/list.m3u8"]
        for name in ("list.m3u8", "hidden"):
            with pytest.raises(InputError, match=name):
                list(Sources(f"{server.at}/{name}"))
    server.answers["/list.m3u8"] = answer(f"{head}v.ts\n#EXT-X-ENDLIST\n".encode(), "application/x-mpegurl")
    assert len(list(Sources(f"{server.at}/list.m3u8"))) == 5


def test_a_password_is_sent_but_not_told(server: Server, tmp_path: Path) -> None:
    server.answers["/a.png"] = answer(encoded())
    server.answers["/moved.png"] = answer(
        b"", code=302, Location=f"{server.at.replace('127.0.0.1', 'localhost')}/a.png"
    )
    secret = server.at.replace("//", "//me:pass%20word@")
    (found,) = Sources(f"{secret}/moved.png")
    assert found.name == found.path == f"{server.at}/moved.png"
    first, second = (headers for _, headers in server.requests)
    assert first["Authorization"] == "Basic bWU6cGFzcyB3b3Jk"
    assert "Authorization" not in second, "another host does not get it"
    for name in ("missing.png", "missing.mp4"):
        with pytest.raises(InputError) as caught:
            list(Sources(f"{secret}/{name}"))
        assert "word" not in str(caught.value)


def test_a_camera_s_address_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 0.2)
    address = server.at.replace("http://", "rtsp://me:word@") + "/live"
    sources = Sources(address)
    name = server.at.replace("http", "rtsp") + "/live"
    assert sources.live == name
    start = time.monotonic()
    with pytest.raises(InputError, match=f"{name}: ") as caught:
        list(sources)
    assert "word" not in str(caught.value)
    assert time.monotonic() - start < 60


def test_nobody_at_the_address() -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:1/a\.png: cannot be reached \(Connection refused\)"):
        list(Sources("http://127.0.0.1:1/a.png"))


def test_pixels_are_the_images(server: Server) -> None:
    server.answers["/a.png"] = answer(encoded())
    (item,) = Sources(f"{server.at}/a.png")
    assert np.array_equal(item.image, scene())
