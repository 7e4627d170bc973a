"""What `predict` can look at as one lazy stream: what is named (`places`), what is in memory (`pixels`), and any
list or iterator of these.

Images and video frames are decoded ahead in threads behind a bounded queue, so the order is kept and a long
video takes no more memory than a short one. Images are [H,W,3] uint8 RGB.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from alignrank.cores import usable_cores
from alignrank.data.decode import Array
from alignrank.errors import InputError
from alignrank.inference.entries import Entry, First, Several, Skips, SourceImage
from alignrank.inference.pixels import from_memory
from alignrank.inference.places import from_text
from alignrank.inference.video import camera_entry

One: TypeAlias = "str | Path | int | Array | Tensor | Image.Image | bytes"
Source: TypeAlias = "One | Sequence[One | tuple[str, One]] | Iterator[One | tuple[str, One]]"
S = TypeVar("S")
T = TypeVar("T")

# Queued items per reading thread: enough to hide uneven decoding times, few enough for 100-megapixel images.
AHEAD = 2


class Sources:
    """A checked list of sources; iterate for SourceImages, as often as needed (of an iterator: once).

    Raises InputError at once for what can be seen without decoding: missing paths, folders and patterns without
    images, arrays of a wrong form; not for what an iterator gives, which is looked at in its turn. While iterating,
    what cannot be read is noted in `skips` and left out; if nothing at all is left, the end of the iteration raises
    InputError.
    """

    def __init__(self, source: Source, *, skips: Skips | None = None) -> None:
        self.skips = Skips() if skips is None else skips
        self._entries: list[Entry] | None = None
        self._items: Iterator[Any] = iter(())
        self._rates: dict[str, Callable[[], Fraction | None]] = {}
        if _is_lazy(source):
            self._items = iter(source)  # type: ignore[arg-type]
        else:
            self._entries = _entries(source)

    @property
    def count(self) -> int | None:
        """Images and frames to come, None where that cannot be known; a video's figure may be an estimate."""
        counts = [None] if self._entries is None else [entry.count() for entry in self._entries]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def live(self) -> str | None:
        """The name of a source that does not end by itself, a camera."""
        return next((entry.name for entry in self._entries or () if entry.live), None)

    def rate_of(self, path: str) -> Fraction | None:
        """Frames a second of a source whose frames are being read, None of pages. KeyError for others."""
        return self._rates[path]()

    def __iter__(self) -> Generator[SourceImage, None, None]:
        return self.map(lambda image: image)

    def map(self, function: Callable[[SourceImage], T], *, workers: int | None = None) -> Generator[T, None, None]:
        """function(image) for each image in order, computed in the reading threads. workers: see `ahead`."""

        def work(entry: Entry) -> tuple[Entry, T | Several | InputError]:
            try:
                read = entry.read()
            except InputError as error:
                return entry, error
            if isinstance(read, First):
                self.skips.firsts.append((entry.name, read.of))
                read = read.image
            return entry, read if isinstance(read, Several) else function(SourceImage(entry.name, read, entry.path))

        seen = produced = 0
        with closing(ahead(work, self._opened(), workers)) as results:
            for entry, result in results:
                seen += 1
                if isinstance(result, InputError):
                    self.skips.items.append((entry.unit, str(result)))
                elif isinstance(result, Several):
                    for done in self._frames(entry, result, function, workers):
                        produced += 1
                        yield done
                else:
                    produced += 1
                    yield result
                del result  # a large image would be held while the next one is decoded
        if not produced:
            reason = self.skips.items[-1][1] if self.skips.items else "predict: the source gave no image"
            named = max(seen, len(self.skips.items))
            raise InputError(reason if named <= 1 else f"none of the {named} sources can be read; {reason}")

    def _frames(
        self, entry: Entry, several: Several, function: Callable[[SourceImage], T], workers: int | None
    ) -> Iterator[T]:
        """Frames come in order only; FFmpeg's own threads decode them ahead."""

        def noting() -> Generator[SourceImage, None, None]:
            with closing(several.frames) as frames:
                try:
                    yield from frames
                except InputError as error:
                    self.skips.items.append((entry.unit, str(error)))

        if entry.path is not None:
            self._rates[entry.path] = several.rate
        with closing(ahead(function, noting(), workers)) as results:
            yield from results

    def _opened(self) -> Generator[Entry, None, None]:
        """Entries, of an iterator as it gives them."""
        if self._entries is not None:
            yield from self._entries
            return
        number = 0
        for item in self._items:
            try:
                entries = _entries_of(item, number, copied=True)
            except InputError as error:
                self.skips.items.append(("image", f"item {number}: {error}"))
                entries = []
            number += max(1, len(entries))
            yield from entries


def ahead(
    function: Callable[[S], T], items: Generator[S, None, None], workers: int | None = None
) -> Generator[T, None, None]:
    """function(item) in order, at most `workers * AHEAD` of them computed before they are asked for.

    workers: threads, None: as many as help; 0: none, each is computed when it is asked for, and nothing ahead of it. An
    exception is raised when its item's turn comes. Closing the generator ends the threads.
    """
    if workers == 0:
        with closing(items):
            yield from map(function, items)
        return
    workers = workers or min(4, usable_cores())
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


def _is_lazy(source: Any) -> bool:
    """Whether items are to be taken one by one: a generator, an iterator, a loader of batches."""
    one = isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Tensor, Image.Image, Mapping))
    is_file = hasattr(source, "read")
    return isinstance(source, Iterable) and not (one or is_file or isinstance(source, (list, tuple)))


def _entries(source: Any) -> list[Entry]:
    items = list(source) if isinstance(source, (list, tuple)) else [source]
    if not items:
        raise InputError("predict: no source given; name an image, folder, pattern or video")
    entries: list[Entry] = []
    for item in items:
        entries.extend(_entries_of(item, len(entries)))
    return entries


def _entries_of(item: Any, number: int, *, copied: bool = False) -> list[Entry]:
    """What one item of a list stands for. copied: arrays, because an iterator may go on in the same memory."""
    name = None
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], (str, os.PathLike)):
        name, item = str(item[0]), item[1]
    if name is None and isinstance(item, (str, os.PathLike)):
        return from_text(item if isinstance(item, str) else Path(item))
    if name is None and isinstance(item, int) and not isinstance(item, bool):
        if item < 0:
            raise InputError(f"predict: {item} is no camera; they count from 0")
        return [camera_entry(item)]
    if copied and isinstance(item, (np.ndarray, Tensor)):
        item = item.copy() if isinstance(item, np.ndarray) else item.clone()
    entries = from_memory(item, name, number)
    if entries is None:
        kind = type(item).__name__
        raise InputError(
            f"predict: cannot look at {kind}; give a path or address, an array [H,W,3] uint8, a tensor [3,H,W], "
            "a PIL image, the bytes of an image file, or a list or iterator of these"
        )
    return entries
