"""Videos through PyAV: local files, addresses and cameras, one frame at a time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from alignrank.errors import InputError
from alignrank.extras import optional
from alignrank.inference.entries import Entry, Several, SourceImage, frame_name

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
    ".wmv", ".asf", ".flv", ".ogv",
)  # fmt: skip
# A file can pretend to be a video and be a playlist that opens others: only these, and only local files.
_FILE_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,asf,flv,ogg"
_FILE_OPTIONS = {"format_whitelist": _FILE_FORMATS, "protocol_whitelist": "file"}
# The network, as the user named it, and never a file of this machine: a playlist or a redirection can ask for one.
_NETWORK_OPTIONS = {
    "format_whitelist": f"{_FILE_FORMATS},hls,mpjpeg,rtsp,sdp,rtp,aac,mp3",
    "protocol_whitelist": "tcp,udp,rtp,rtsp,http,https,tls",
    "rtsp_flags": "prefer_tcp",
}
# Seconds that an address may take to answer, and to send the next frame.
TIMEOUT = 10.0
_CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
USUAL_RATE = Fraction(25)


def is_video_name(name: str) -> bool:
    """Whether a file name ends like a video, in any case."""
    return name.lower().endswith(VIDEO_SUFFIXES)


@dataclass(slots=True)
class Clip:
    """A video: its name in results and what FFmpeg opens. timeout: seconds for opening and each read."""

    name: str
    place: str
    options: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    timeout: float | None = None
    _rate: Fraction | None = None

    @contextmanager
    def opened(self) -> Generator[tuple[Any, Any], None, None]:
        """PyAV's container and first video stream. Its errors, inside the block too, become InputErrors."""
        av = optional("video", "av")
        limits = {} if self.timeout is None else {"timeout": self.timeout}
        start, answered = time.monotonic(), False
        try:
            with av.open(
                self.place,
                format=self.format,
                container_options=dict(self.options),
                metadata_errors="replace",
                **limits,
            ) as container:
                answered = True
                if not container.streams.video:
                    raise InputError(f"{self.name}: holds no video stream")
                yield container, container.streams.video[0]
        except (av.error.FFmpegError, OSError) as error:
            # RTSP calls an answer that did not come in time invalid data.
            waited = not answered and self.timeout is not None and time.monotonic() - start >= self.timeout
            if waited or isinstance(error, av.error.ExitError):
                raise InputError(f"{self.name}: no answer within {self.timeout:g} s") from None
            reason = error.strerror or error
            raise InputError(f"{self.name}: cannot be read as a video ({reason})") from None

    def frames(self) -> Generator[SourceImage, None, None]:
        """Frames one by one, upright. Raises InputError where it cannot be read, or not any further."""
        index = 0
        try:
            with self.opened() as (container, stream):
                self._rate = _rate_of(stream)
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    name = frame_name(self.name, index)
                    yield SourceImage(name, np.ascontiguousarray(image), self.name, index, frame.time)
                    index += 1
        except InputError as error:
            raise InputError(f"{error}; stopped after {index} frames") if index else error from None
        if not index:
            raise InputError(f"{self.name}: holds no frame")

    def rate(self) -> Fraction:
        """Mean frames a second, 25 where it does not tell; opened for it only where frames have not been read."""
        if self._rate is None:
            with self.opened() as (_, stream):
                self._rate = _rate_of(stream)
        return self._rate

    def count(self) -> int | None:
        """Frames by the header, an estimate where it has only the duration, None where neither."""
        try:
            with self.opened() as (container, stream):
                if stream.frames or not (container.duration and stream.average_rate):
                    return int(stream.frames) or None
                return round(float(container.duration / 1e6 * stream.average_rate))
        except InputError:  # it will be skipped when its turn comes
            return 0


def _rate_of(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)


def file_clip(path: str) -> Clip:
    """A video file."""
    return Clip(path, f"file:{path}", _FILE_OPTIONS)


def file_entry(path: str) -> Entry:
    """A video file."""
    clip = file_clip(path)

    def checked() -> Several:
        # A pipe would wait for a writer for ever.
        if not os.path.isfile(path):
            raise InputError(f"{path}: is not a file")
        return Several(clip.frames(), clip.rate)

    return Entry(path, checked, path, "video", lambda: clip.count() if os.path.isfile(path) else 0)


def address_clip(address: str, name: str) -> Clip:
    """A video or stream on the network."""
    return Clip(name, address, _NETWORK_OPTIONS, timeout=TIMEOUT)


def camera_entry(index: int) -> Entry:
    """A camera of this machine by its number from 0. Raises InputError if it is plain that there is none."""
    name = f"camera {index}"
    clip = Clip(name, *_camera(index))
    return Entry(name, lambda: Several(clip.frames(), clip.rate), name, "video", lambda: None, live=True)


def _camera(index: int) -> tuple[str, dict[str, str], str | None]:
    """What FFmpeg opens, with which options and in which format."""
    kind = _CAMERA_FORMATS.get(sys.platform)
    if kind is None:
        raise InputError(f"camera {index}: cameras cannot be used on {sys.platform}")
    if kind == "v4l2":
        device = f"/dev/video{index}"
        if not os.path.exists(device):
            raise InputError(f"camera {index}: there is no such camera ({device} does not exist)")
        return device, {}, kind
    if kind == "avfoundation":
        # It refuses its own default, 29.97, on most cameras.
        return str(index), {"framerate": "30"}, kind
    av = optional("video", "av")
    if not hasattr(av, "enumerate_input_devices"):
        raise InputError(f"camera {index}: cameras need a later PyAV on {sys.platform}; pip install -U av")
    names = [device.name for device in av.enumerate_input_devices(kind) if "video" in (device.media_types or ["video"])]
    if index >= len(names):
        raise InputError(f"camera {index}: there is no such camera ({len(names)} found)")
    return f"video={names[index]}", {}, kind
