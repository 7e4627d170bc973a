"""What `predict` can look at: image files, folders, globs, videos, arrays and PIL images, as one lazy stream.

Images and video frames are decoded ahead in threads behind a bounded queue, so the order is kept and a long
video takes no more memory than a short one. Images are [H,W,3] uint8 RGB.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from alignrank.cores import usable_cores
from alignrank.data.decode import decode, is_image_name, list_images
from alignrank.data.samples import Array
from alignrank.errors import InputError
from alignrank.terminal.progress import warn
from alignrank.terminal.skipped import skipped_in_words

Source: TypeAlias = "str | Path | Array | Image.Image | Sequence[str | Path | Array | Image.Image]"
S = TypeVar("S")
T = TypeVar("T")

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
# A file can pretend to be a video and be a playlist that opens others: only these, and only local files.
_VIDEO_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm", "protocol_whitelist": "file"}
# Queued items per reading thread: enough to hide uneven decoding times, few enough for 100-megapixel images.
AHEAD = 2
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_MAGIC = re.compile(r"[*?[]")
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image: its name in results, pixels [H,W,3] uint8 RGB, file (None for arrays); of a video frame also
    its index from 0 and its time in seconds, where the file tells it.
    """

    name: str
    image: Array = field(repr=False)
    path: Path | None = None
    frame_index: int | None = None
    time: float | None = None


@dataclass(slots=True)
class Skips:
    """What was left out, in order: (`image` or `video`, the reason, which names the file)."""

    items: list[tuple[Literal["image", "video"], str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many, by unit."""
        return dict(Counter(unit for unit, _ in self.items))

    def report(self) -> None:
        """Warn on stderr, one counted line for each unit; silent if nothing was left out."""
        for line in skipped_in_words(self.items):
            warn(line)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A video, or the name of one image and what reads its pixels."""

    name: str
    path: Path | None
    read: Callable[[], Array] | None = None


class Sources:
    """A checked list of sources; iterate for SourceImages, as often as needed.

    Raises InputError at once for what can be seen without decoding: missing paths, folders and patterns
    without images, URLs, arrays of a wrong form. While iterating, what does not decode is noted in `skips`
    and left out; if nothing at all is left, the end of the iteration raises InputError.
    """

    def __init__(self, source: Source, *, skips: Skips | None = None) -> None:
        self.skips = Skips() if skips is None else skips
        self._entries = _entries(source)

    @property
    def count(self) -> int | None:
        """Images and frames to come, None where a video does not tell; a video's figure may be an estimate."""
        counts = [_num_frames(Path(entry.name)) if entry.read is None else 1 for entry in self._entries]
        return None if None in counts else sum(count or 0 for count in counts)

    def __iter__(self) -> Generator[SourceImage, None, None]:
        return self.map(lambda image: image)

    def map(self, function: Callable[[SourceImage], T]) -> Generator[T, None, None]:
        """function(image) for each image in order, computed in the reading threads."""

        def work(item: SourceImage | _Entry) -> T | InputError:
            if isinstance(item, SourceImage):
                return function(item)
            assert item.read is not None
            try:
                image = SourceImage(item.name, item.read(), item.path)
            except InputError as error:
                return error
            return function(image)

        produced = 0
        with closing(ahead(work, self._items(), min(4, usable_cores()))) as results:
            for result in results:
                if isinstance(result, InputError):
                    self.skips.items.append(("image", str(result)))
                else:
                    produced += 1
                    yield result
        if not produced:
            count, reason = len(self._entries), self.skips.items[-1][1]
            raise InputError(reason if count == 1 else f"none of the {count} sources can be read; {reason}")

    def _items(self) -> Generator[SourceImage | _Entry, None, None]:
        """Images still to read, and frames: they come in order only, FFmpeg's own threads decode them ahead."""
        for entry in self._entries:
            try:
                yield from _frames(Path(entry.name)) if entry.read is None else (entry,)
            except InputError as error:
                self.skips.items.append(("video", str(error)))


def ahead(function: Callable[[S], T], items: Generator[S, None, None], workers: int) -> Generator[T, None, None]:
    """function(item) in order, at most `workers * AHEAD` of them computed before they are asked for.

    An exception is raised when its item's turn comes. Closing the generator ends the threads.
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="alignrank-read")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        items.close()
        pool.shutdown(wait=True, cancel_futures=True)


def frame_name(video: Path, index: int) -> str:
    """What a video's frame is called in results."""
    return f"{video}#{index}"


def split_frame_name(name: str) -> tuple[Path, int] | None:
    """(video, frame index) of such a name, None for names of other things."""
    video, _, index = name.rpartition("#")
    return (Path(video), int(index)) if index.isdecimal() and _is_video(video) else None


def frame_rate(video: Path) -> Fraction:
    """Mean frames a second, 25 where the file does not tell. Raises InputError if it is no video."""
    with _opened(video) as (_, stream):
        return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


@contextmanager
def _opened(video: Path) -> Generator[tuple[Any, Any], None, None]:
    """PyAV's container and first video stream. Its errors, inside the block too, become InputErrors."""
    import av

    if not video.is_file():  # a pipe would wait for a writer for ever
        raise InputError(f"{video}: is not a file")
    try:
        with av.open(f"file:{video}", container_options=_VIDEO_OPTIONS) as container:
            if not container.streams.video:
                raise InputError(f"{video}: holds no video stream")
            yield container, container.streams.video[0]
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{video}: cannot be read as a video ({error.strerror or error})") from None


def _num_frames(video: Path) -> int | None:
    """Frames by the header, an estimate where it has only the duration, None where neither."""
    try:
        with _opened(video) as (container, stream):
            if stream.frames or not (container.duration and stream.average_rate):
                return int(stream.frames) or None
            return round(float(container.duration / 1e6 * stream.average_rate))
    except InputError:  # it will be skipped when its turn comes
        return 0


def _frames(video: Path) -> Generator[SourceImage, None, None]:
    """Frames one by one, upright. Raises InputError where the file cannot be read, or not any further."""
    index = 0
    try:
        with _opened(video) as (container, stream):
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield SourceImage(frame_name(video, index), np.ascontiguousarray(image), video, index, frame.time)
                index += 1
    except InputError as error:
        raise InputError(f"{error}; stopped after {index} frames") if index else error from None
    if not index:
        raise InputError(f"{video}: holds no frame")


def _entries(source: Source) -> list[_Entry]:
    items = list(source) if isinstance(source, (list, tuple)) else [source]
    if not items:
        raise InputError("predict: no source given; name an image, folder, pattern or video")
    entries: list[_Entry] = []
    for item in items:
        name = f"image {len(entries)}"
        if isinstance(item, (str, Path)):
            entries.extend(_from_path(item))
        elif isinstance(item, Image.Image):
            name = str(getattr(item, "filename", "") or name)
            entries.append(_Entry(name, None, partial(_from_pil, item, name)))
        elif isinstance(item, np.ndarray):
            entries.append(_Entry(name, None, partial(_checked, _checked(item))))
        else:
            kind = type(item).__name__
            raise InputError(f"predict: cannot look at {kind}; give a path, an array [H,W,3] uint8 or a PIL image")
    return entries


def _checked(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"predict: arrays must be [H,W,3] uint8 RGB, got {list(array.shape)} {array.dtype}")
    return array


def _from_pil(image: Image.Image, name: str) -> Array:
    """Pixels as the object holds them: no EXIF rotation, so that boxes fit what the caller draws on."""
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(f"{name}: PIL images of mode {image.mode} have no known range; convert to 8 bit first")
    try:
        # Through RGBA where colours are a palette: transparent entries have no direct way to RGB.
        whole = image.convert("RGBA" if image.mode in ("P", "PA") else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name}: cannot be decoded ({error})") from None
    return _checked(np.ascontiguousarray(np.asarray(whole)[..., :3]))


def _from_path(source: str | Path) -> list[_Entry]:
    text, path = str(source), Path(source)
    if _URL.match(text):
        raise InputError(f"{text}: is a URL; download it first, predict reads local files only")
    if not text:
        raise InputError("predict: a source is empty; name an image, folder, pattern or video")
    if os.path.isdir(path):
        return [_file(image) for image in _in_folder(path)]
    # A broken or looping link is there, and will be skipped by the decoder with the reason.
    if os.path.lexists(path):
        return [_file(path)]
    if _MAGIC.search(text):
        return [_file(match) for match in _matching(path)]
    raise InputError(f"{text[:200]}: no such file or folder")


def _file(path: Path) -> _Entry:
    return _Entry(str(path), path, None if _is_video(path.name) else partial(decode, path))


def _in_folder(folder: Path) -> list[Path]:
    images = list_images(folder)
    if not images:
        hint = f"; for its sub-folders write '{folder / '**' / '*.jpg'}'" if any(folder.iterdir()) else ""
        raise InputError(f"{folder}: no image in this folder{hint}")
    return images


def _matching(pattern: Path) -> list[Path]:
    """Images and videos that match; `**` goes into sub-folders but not through links, so loops end."""
    first = next(i for i, part in enumerate(pattern.parts) if _MAGIC.search(part))
    try:
        matches = Path(*pattern.parts[:first]).glob(str(Path(*pattern.parts[first:])))
        found = sorted(path for path in matches if is_image_name(path.name) or _is_video(path.name))
    except (ValueError, OSError) as error:
        raise InputError(f"{pattern}: not a usable pattern ({error})") from None
    if not found:
        raise InputError(f"{pattern}: no such file, and no image or video matches it as a pattern")
    return found
