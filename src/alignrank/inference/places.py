"""Sources that are named: files, folders, patterns, lists of them, addresses and cameras."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from fractions import Fraction
from functools import partial
from pathlib import Path

from alignrank.data.decode import Array, decode, is_image_name, list_images
from alignrank.data.frames import animation_rate, decode_all, num_frames
from alignrank.errors import InputError
from alignrank.files import read_text
from alignrank.inference.addresses import ADDRESS, address_entry
from alignrank.inference.entries import Entry, First, Several, SourceImage, frame_name
from alignrank.inference.video import camera_entry, file_clip, file_entry, is_video_name

_MAGIC = re.compile(r"[*?[]")
_CAMERA = re.compile(r"(?:/dev/video)?([0-9]{1,4})")
LIST_SUFFIX = ".txt"
# Pictures of kinds that are not read: in a folder they are told of, not passed over.
UNREAD_SUFFIXES = (
    ".ai", ".arw", ".avci", ".bpg", ".bw", ".cr2", ".cr3", ".crw", ".cur", ".dcm", ".dcr", ".dcx", ".dds", ".djvu",
    ".dng", ".emf", ".eps", ".erf", ".exr", ".fff", ".fits", ".flif", ".hdp", ".hdr", ".heics", ".icns", ".ico",
    ".iiq", ".jbig2", ".jls", ".jng", ".jxl", ".jxr", ".kdc", ".kra", ".mng", ".mos", ".mrw", ".nef", ".nrw", ".orf",
    ".pam", ".pbm", ".pcd", ".pct", ".pcx", ".pef", ".pfm", ".pgm", ".pic", ".pict", ".pnm", ".ppm", ".psb", ".psd",
    ".qoi", ".raf", ".ras", ".raw", ".rgb", ".rgba", ".rw2", ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg", ".svgz",
    ".tga", ".wbmp", ".wdp", ".wmf", ".x3f", ".xbm", ".xcf", ".xpm", ".3fr",
)  # fmt: skip
# Whose number of frames is known without reading the whole of many files.
_COUNTED = (".gif", ".tif", ".tiff")


def from_text(source: str | Path) -> list[Entry]:
    """What a path, pattern, address or camera number names. Raises InputError where that is plainly nothing."""
    text, path = str(source), Path(source)
    if ADDRESS.match(text):
        return [address_entry(text)]
    if not text:
        raise InputError("predict: a source is empty; name an image, folder, pattern or video")
    if os.path.isdir(path):
        return _in_folder(path)
    if (camera := _CAMERA.fullmatch(text)) and (text.startswith("/dev/") or not os.path.lexists(path)):
        return [camera_entry(int(camera[1]))]
    # A broken or looping link is there, and will be skipped by the decoder with the reason.
    if os.path.lexists(path):
        return _in_list(path) if text.lower().endswith(LIST_SUFFIX) else [_file(path)]
    if _MAGIC.search(text):
        return [_file(match, among=True) for match in _matching(path)]
    raise InputError(f"{text[:200]}: no such file or folder")


def rate_of_file(path: str) -> Fraction | None:
    """Frames a second of a video or animation, None of pages. Raises InputError if it is neither."""
    return file_clip(path).rate() if is_video_name(path) else animation_rate(path)


def _file(path: Path, *, among: bool = False) -> Entry:
    """among: one of many that a folder or pattern names; there an animation is one picture, its first frame."""
    text = str(path)
    if is_video_name(path.name):
        return file_entry(text)
    if path.name.lower().endswith(UNREAD_SUFFIXES):
        # Not even tried: Pillow would find the thumbnail in a camera's raw file.
        reason = f"{text}: {path.suffix.lower()} pictures are not read; convert it to JPEG or PNG"
        return Entry(text, partial(_absent, reason), text)
    if among:
        return Entry(text, partial(_first, text), text)
    counted = path.name.lower().endswith(_COUNTED)
    return Entry(text, partial(_decoded, text), text, count=partial(_count, text) if counted else lambda: 1)


def _decoded(path: str) -> Array | Several:
    images = decode_all(path)
    if not isinstance(images, Generator):
        return images
    frames = (SourceImage(frame_name(path, i), image, path, i) for i, image in enumerate(images))
    return Several(frames, partial(animation_rate, path))


def _first(path: str) -> Array | First:
    count = num_frames(path)
    return decode(path) if count == 1 else First(decode(path), count)


def _count(path: str) -> int:
    try:
        return num_frames(path)
    except InputError:  # it will be skipped when its turn comes
        return 0


def _is_picture(name: str) -> bool:
    return is_image_name(name) or is_video_name(name) or name.lower().endswith(UNREAD_SUFFIXES)


def _in_folder(folder: Path) -> list[Entry]:
    found = list_images(folder, named=_is_picture)
    if not found:
        hint = f"; for its sub-folders write '{folder / '**' / '*.jpg'}'" if any(folder.iterdir()) else ""
        raise InputError(f"{folder}: no image or video in this folder{hint}")
    return [_file(path, among=True) for path in found]


def _in_list(path: Path) -> list[Entry]:
    """The sources that a text file names, one a line, relative to its folder or else to the current one."""
    entries: list[Entry] = []
    for line in read_text(path).splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            if "\0" in text or text.lower().endswith(LIST_SUFFIX):
                raise InputError(f"{text[:200]}: cannot be named in a list")
            beside = path.parent / text
            is_local = not ADDRESS.match(text) and (os.path.lexists(beside) or _MAGIC.search(text))
            entries.extend(_beside_or_here(beside, text) if is_local else from_text(text))
        except InputError as error:
            entries.append(Entry(text, partial(_absent, str(error))))
    if not entries:
        raise InputError(f"{path}: names no image or video")
    return entries


def _beside_or_here(beside: Path, text: str) -> list[Entry]:
    try:
        return from_text(beside)
    except InputError:
        return from_text(text)


def _absent(reason: str) -> Array:
    raise InputError(reason)


def _matching(pattern: Path) -> list[Path]:
    """Images and videos that match; `**` goes into sub-folders but not through links, so loops end."""
    first = next(i for i, part in enumerate(pattern.parts) if _MAGIC.search(part))
    try:
        matches = Path(*pattern.parts[:first]).glob(str(Path(*pattern.parts[first:])))
        found = sorted(path for path in matches if _is_picture(path.name))
    except (ValueError, OSError) as error:
        raise InputError(f"{pattern}: not a usable pattern ({error})") from None
    if not found:
        raise InputError(f"{pattern}: no such file, and no image or video matches it as a pattern")
    return found
