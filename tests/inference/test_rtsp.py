"""A stream of a network camera: a server on this machine that speaks enough of RTSP (RFC 2326) to send a video."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from finder import run
from video_files import clip

from alignrank.inference import video
from alignrank.inference.sources import Sources

pytestmark = pytest.mark.allow_loopback
FRAMES = 20
# MPEG transport stream (RFC 2250): packets of 188 bytes, seven of them in one of RTP, of payload type 33.
SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
PACKET = 7 * 188


class Camera(socketserver.ThreadingTCPServer):
    """Sends `content` over the connection itself, once; then it says goodbye, or with `hangs` nothing more."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.content, self.hangs, self.ended = content, False, threading.Event()
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.at = f"rtsp://127.0.0.1:{self.server_address[1]}/live"

    def close(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class Session(socketserver.StreamRequestHandler):
    server: Camera

    def handle(self) -> None:
        while head := self._request():
            method = head[0].split()[0]
            number = next(line.split(":")[1].strip() for line in head if line.lower().startswith("cseq"))
            self.server.asked.append(method)
            more, body = {
                "OPTIONS": ("Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", b""),
                "DESCRIBE": (f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n", SDP),
                "SETUP": ("Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", b""),
                "PLAY": ("Session: 1\r\n", b""),
            }.get(method, ("", b""))
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n".encode() + body)
            if method == "PLAY":
                self._send()
                if self.server.hangs:
                    self.server.ended.wait(20)
                return

    def _request(self) -> list[str]:
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines

    def _send(self) -> None:
        content = self.server.content
        for number, start in enumerate(range(0, len(content), PACKET)):
            part = struct.pack(">BBHII", 0x80, 33, number, number * 900, 1) + content[start : start + PACKET]
            self.wfile.write(b"$\0" + struct.pack(">H", len(part)) + part)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Camera]:
    opened = Camera(clip(tmp_path / "v.ts", FRAMES).read_bytes())
    yield opened
    opened.close()


def test_frames_of_a_camera(camera: Camera) -> None:
    """The last frame may wait for a packet that does not come."""
    sources = Sources(camera.at)
    assert sources.live == camera.at
    found = list(run(sources))
    assert camera.asked[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    assert FRAMES - 2 <= len(found) <= FRAMES
    assert [of.source for of in found] == [f"{camera.at}#{i}" for i in range(len(found))]
    assert all(of.labels.tolist() == [0, 1] for of in found)


def test_a_camera_that_stops_is_waited_for_and_told_of(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 0.5)
    camera.hangs = True
    sources = Sources(camera.at)
    count = sum(1 for _ in sources)
    assert count > FRAMES / 2  # the decoder's threads hold a few of those that came
    assert f"no answer within 0.5 s; stopped after {count} frames" in sources.skips.items[0][1]
