"""Files of several images: animations (GIF, WebP, PNG, AVIF) and TIFFs of several pages, one frame at a time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from fractions import Fraction
from itertools import count
from typing import Any

from PIL import Image

from alignrank.data.decode import MAX_PIXELS, Array, ImageSource, check_size, name_of, opened, pixels_of

# Whose frames are images in their own right: a JPEG's (MPO) and a HEIC's are previews and depths.
_FORMATS = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
# What browsers show for a frame without a duration, ms.
_USUAL_DURATION = 100
# TIFF 6.0, NewSubfileType; bit 0: the page is a smaller copy of another one.
_SUBFILE_TAG = 254


def decode_all(source: ImageSource, *, name: str | None = None) -> Array | Generator[Array, None, None]:
    """`decode.decode`, but of a file of several images a generator of all, each decoded when asked for.

    name: of the source in messages. Raises InputError naming it, the generator too.
    """
    name = name or name_of(source)
    with opened(source, MAX_PIXELS, name) as image:
        return _frames(source, name) if _has_several(image) else pixels_of(image, name)


def num_frames(source: ImageSource) -> int:
    """How many images `decode_all` gives at most, by the file's structure. Raises InputError naming the file."""
    with opened(source, MAX_PIXELS) as image:
        return int(getattr(image, "n_frames", 1)) if _has_several(image) else 1


def animation_rate(source: ImageSource) -> Fraction | None:
    """Mean frames a second, None of pages (TIFF). Decodes all: Pillow knows a WebP's durations in no other way.

    Raises InputError naming the file.
    """
    with opened(source, MAX_PIXELS) as image:
        if image.format == "TIFF":
            return None
        shown, total = 0, 0.0
        with suppress(Exception):  # a damaged frame ends it, and is told of where it is decoded
            while _seek(image, shown):
                image.load()
                total += float(image.info.get("duration", 0)) or _USUAL_DURATION
                shown += 1
        return Fraction(1000 * max(shown, 1) / (total or _USUAL_DURATION)).limit_denominator(1001)


def _has_several(image: Image.Image) -> bool:
    return image.format in _FORMATS and bool(getattr(image, "is_animated", False))


def _frames(source: ImageSource, name: str) -> Generator[Array, None, None]:
    with opened(source, MAX_PIXELS, name) as image:
        tags: Any = image
        for index in count():
            if not _seek(image, index):
                return
            if image.format == "TIFF" and index and tags.tag_v2.get(_SUBFILE_TAG, 0) & 1:
                continue
            check_size(image, MAX_PIXELS, name)
            yield pixels_of(image, name)


def _seek(image: Image.Image, index: int) -> bool:
    """Go to a frame; whether there is one."""
    try:
        image.seek(index)
    except EOFError:
        return False
    return True
