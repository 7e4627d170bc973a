"""Images and videos on the network, at addresses that a user names: the only place where prediction uses it.

Images are downloaded with time-outs and a limit of size; FFmpeg reads videos and streams (see `video`).
"""

from __future__ import annotations

import base64
import http.client
import re
import time
from collections.abc import Generator
from typing import IO, Any
from urllib import error as errors
from urllib import parse, request

from alignrank.data.decode import Array, is_image_name
from alignrank.data.frames import animation_rate, decode_all
from alignrank.errors import InputError
from alignrank.inference import video
from alignrank.inference.entries import Entry, Several, SourceImage, frame_name
from alignrank.version import __version__

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB, _STREAMS = ("http", "https"), ("rtsp", "rtsps")
_PLAYLISTS = (".m3u8", ".m3u")
# Of an image: bytes, and seconds for the whole of it. A single read may take `video.TIMEOUT`.
MAX_BYTES, MAX_SECONDS = 256_000_000, 120.0
_CHUNK = 1 << 16
# What a server sends that is no single image: HLS, and the picture after picture of a network camera.
_VIDEO_TYPES = ("video/", "application/vnd.apple.mpegurl", "application/x-mpegurl", "multipart/x-mixed-replace")


def address_entry(address: str) -> Entry:
    """An image, video or stream at an http, https or rtsp address. Raises InputError for other addresses."""
    name = public_name(address)
    parts = _split(address, name)
    scheme, path = parts.scheme.lower(), parts.path.lower()
    if scheme not in (*_WEB, *_STREAMS):
        advice = "write the path alone" if scheme == "file" else "predict reads http, https and rtsp addresses"
        raise InputError(f"{name}: cannot be used; {advice}")
    if not parts.hostname:
        raise InputError(f"{name}: names no host")
    if scheme in _STREAMS or video.is_video_name(path) or path.endswith(_PLAYLISTS):
        clip = video.address_clip(address, name)
        live = scheme in _STREAMS
        return Entry(name, lambda: Several(clip.frames(), clip.rate), name, "video", lambda: None, live)
    # Where the name does not tell, it may be a video.
    known = is_image_name(path) and not path.endswith(".gif")
    return Entry(name, lambda: _read(address, name), name, count=lambda: 1 if known else None)


def public_name(address: str) -> str:
    """The address without user and password: it is written into results."""
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


def _split(address: str, name: str) -> parse.SplitResult:
    try:
        parts = parse.urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"{name}: is not an address ({error})") from None
    return parts


def _read(address: str, name: str) -> Array | Several:
    content = download(address, name)
    if content is None:
        clip = video.address_clip(address, name)
        return Several(clip.frames(), clip.rate)
    images = decode_all(content, name=name)
    if not isinstance(images, Generator):
        return images
    frames = (SourceImage(frame_name(name, i), image, name, i) for i, image in enumerate(images))
    return Several(frames, lambda: animation_rate(content))


def download(address: str, name: str) -> bytes | None:
    """What is at an http address, None if the server says that it is a video. Raises InputError naming it."""
    start = time.monotonic()
    try:
        with _opener().open(_request(address), timeout=video.TIMEOUT) as response:
            kind = response.headers.get("Content-Type", "").lower()
            return None if kind.startswith(_VIDEO_TYPES) else _body(response, name, start)
    except errors.HTTPError as error:
        error.close()
        raise InputError(f"{name}: the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.reason if isinstance(error, errors.URLError) else error
        if isinstance(reason, TimeoutError):
            raise InputError(f"{name}: no answer within {video.TIMEOUT:g} s") from None
        text = (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
        raise InputError(f"{name}: cannot be reached ({text})") from None


def _body(response: IO[bytes], name: str, start: float) -> bytes:
    chunks, size = [], 0
    read: Any = response
    while chunk := read.read1(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise InputError(f"{name}: is larger than the limit of {MAX_BYTES} bytes")
        if time.monotonic() - start > MAX_SECONDS:
            raise InputError(f"{name}: is not complete after {MAX_SECONDS:g} s")
    return b"".join(chunks)


def _request(address: str) -> request.Request:
    """With what is not allowed in an address escaped, and user and password in the header that is for them."""
    plain = parse.quote(public_name(address), safe="%/:=&?~+!$,;'@()*[]#")
    wanted = request.Request(plain, headers={"User-Agent": f"alignrank/{__version__}"})
    parts = parse.urlsplit(address)
    if parts.username is not None:
        word = f"{parse.unquote(parts.username)}:{parse.unquote(parts.password or '')}"
        # Not to be sent on to where the server redirects.
        wanted.add_unredirected_header("Authorization", f"Basic {base64.b64encode(word.encode()).decode()}")
    return wanted


class _WebOnly(request.HTTPRedirectHandler):
    """The standard one goes on to FTP, too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if parse.urlsplit(newurl).scheme.lower() not in _WEB:
            raise errors.HTTPError(newurl, code, f"{msg} - to {newurl}, which is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """HTTP and nothing else: the standard one opens files."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor, _WebOnly, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
